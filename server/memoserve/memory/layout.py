"""The directory a store lives in: its format mark, its lock, its paths.

FORMAT                              which format this is; another version is refused
LOCK                                held by the one server that uses the directory
tmp/                                half-written files; emptied at open
files/ab/abcd...                    parts, named by their sha256
memories/NAMESPACE/ID/head.json     what the memory is now, and which versions it keeps
memories/NAMESPACE/ID/N.json        manifest of version N
memories/NAMESPACE/ID/deleted.json  the former head of a memory whose removal goes on
"""

from __future__ import annotations

import fcntl
import json
import os
from dataclasses import dataclass
from pathlib import Path

from memoserve.errors import FailedPrecondition
from memoserve.memory.durable import Hook, fsync_dir, make_dir_durably, write_file_durably
from memoserve.memory.names import MemoryName, to_dir_name

FORMAT_VERSION = 1

_FORMAT = {"format": "memoserve-store", "version": FORMAT_VERSION}
# What may lie in a directory that is about to become a store: our own first steps, cut short.
_EMPTY_ENOUGH = {"LOCK", "tmp", "lost+found"}


@dataclass(frozen=True)
class Layout:
    """Paths below the root of a store."""

    root: Path

    @property
    def temp_dir(self) -> Path:
        """Half-written files."""
        return self.root / "tmp"

    @property
    def files_dir(self) -> Path:
        """Content-named files."""
        return self.root / "files"

    @property
    def memories_dir(self) -> Path:
        """One directory a namespace, in it one a memory."""
        return self.root / "memories"

    def memory_dir(self, name: MemoryName) -> Path:
        """Head and manifests of a memory."""
        return self.memories_dir / to_dir_name(name.namespace) / to_dir_name(name.memory_id)


def prepare(root: Path, hook: Hook) -> tuple[Layout, int]:
    """Make or recognise a store, lock it, empty tmp/; return its paths and the lock.

    The lock is an open file descriptor; closing it gives the directory free.
    Raises FailedPrecondition when another server holds it, or when it is something else.
    """
    if not root.exists():
        root.mkdir(mode=0o700, parents=True)
        fsync_dir(root.parent, hook)
    _refuse_strangers(root)
    lock = _lock(root)
    try:
        layout = Layout(root)
        make_dir_durably(layout.temp_dir, hook)
        for path in layout.temp_dir.iterdir():
            path.unlink()
        _check_format(layout, hook)
        make_dir_durably(layout.files_dir, hook)
        make_dir_durably(layout.memories_dir, hook)
    except BaseException:
        os.close(lock)
        raise
    return layout, lock


def _refuse_strangers(root: Path) -> None:
    names = {path.name for path in root.iterdir()}
    if "FORMAT" not in names and not names <= _EMPTY_ENOUGH:
        raise FailedPrecondition(
            str(root), f"{root} holds other files and no FORMAT: not a store", reason="NOT_A_STORE"
        )


def _lock(root: Path) -> int:
    descriptor = os.open(root / "LOCK", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        raise FailedPrecondition(
            str(root), f"another server uses {root}", reason="STORE_LOCKED"
        ) from error
    return descriptor


def _check_format(layout: Layout, hook: Hook) -> None:
    path = layout.root / "FORMAT"
    if not path.exists():
        data = (json.dumps(_FORMAT) + "\n").encode()
        write_file_durably(path, data, temp_dir=layout.temp_dir, hook=hook)
        return
    try:
        found = json.loads(path.read_bytes())
    except ValueError:
        found = None
    if found != _FORMAT:
        raise FailedPrecondition(
            str(layout.root),
            f"{path} is not the mark of format {FORMAT_VERSION} that this server reads",
            reason="STORE_FORMAT",
        )
