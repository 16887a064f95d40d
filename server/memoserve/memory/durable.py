"""Writes that survive a crash: temporary name, fsync, rename, fsync of the directory.

Every step first calls a hook with the step's name and path. The hook does nothing in
production; tests make it raise, or copy the tree, to see the state a crash would leave.
"""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Protocol

from memoserve.errors import MemoserveError, ResourceExhausted, Unavailable

CREATE, WRITE, FSYNC, RENAME, FSYNC_DIR, UNLINK, MKDIR, RMDIR = HOOK_POINTS = (
    "create",
    "write",
    "fsync",
    "rename",
    "fsync_dir",
    "unlink",
    "mkdir",
    "rmdir",
)

_DISK_FULL = {errno.ENOSPC, errno.EDQUOT}


class Hook(Protocol):
    """Called right before a step; what it raises makes the step not happen.

    ``point`` is one of HOOK_POINTS. ``path`` is what the step touches; for RENAME the new name.
    """

    def __call__(self, point: str, path: Path) -> None:
        """See the class."""


def no_hook(point: str, path: Path) -> None:
    """Do nothing: the hook of a production store."""


def fsync_dir(path: Path, hook: Hook = no_hook) -> None:
    """Make the names in a directory durable."""
    hook(FSYNC_DIR, path)
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_file_durably(
    target: Path,
    data: bytes | bytearray | memoryview,
    *,
    temp_dir: Path,
    hook: Hook = no_hook,
    sync_dir: bool = True,
) -> None:
    """Put ``data`` under ``target``, replacing what is there, all or nothing.

    ``temp_dir`` is on the same file system. With ``sync_dir`` False the new name becomes
    durable only at the caller's own ``fsync_dir`` (one for many files).
    """
    temp = temp_dir / f"{secrets.token_hex(8)}.tmp"
    try:
        hook(CREATE, temp)
        with temp.open("xb", buffering=0) as file:
            hook(WRITE, temp)
            _write_all(file.fileno(), memoryview(data))
            hook(FSYNC, temp)
            os.fsync(file.fileno())
        rename(temp, target, hook)
    except Exception:
        with suppress(OSError):
            temp.unlink()
        raise
    if sync_dir:
        fsync_dir(target.parent, hook)


def rename(source: Path, target: Path, hook: Hook = no_hook) -> None:
    """Rename over ``target``; durable after an fsync of its directory."""
    hook(RENAME, target)
    os.replace(source, target)


def unlink(path: Path, hook: Hook = no_hook) -> None:
    """Remove a file; one that is gone already is fine."""
    hook(UNLINK, path)
    path.unlink(missing_ok=True)


def make_dir_durably(path: Path, hook: Hook = no_hook) -> None:
    """Make a directory and its name durable; an existing one is fine."""
    hook(MKDIR, path)
    path.mkdir(exist_ok=True)
    fsync_dir(path.parent, hook)


def remove_dir_if_empty(path: Path, hook: Hook = no_hook) -> None:
    """Remove a directory unless something is in it or it is gone already."""
    hook(RMDIR, path)
    try:
        path.rmdir()
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOENT):
            raise


@contextmanager
def storage_errors(doing: str) -> Iterator[None]:
    """Turn an OSError of a write into a domain error that says what was being done."""
    try:
        yield
    except OSError as error:
        raise _translated(error, doing) from error


def _translated(error: OSError, doing: str) -> MemoserveError:
    message = f"{doing}: {error.strerror or 'storage error'}"
    if error.errno in _DISK_FULL:
        return ResourceExhausted(message, reason="DISK_FULL")
    return Unavailable(message, reason="STORAGE_ERROR")


def _write_all(descriptor: int, data: memoryview) -> None:
    rest = data.cast("B") if data.nbytes else data
    while rest.nbytes:
        rest = rest[os.write(descriptor, rest) :]
