"""The directory of one memory: its head, its manifests, and how it is removed."""

from __future__ import annotations

import re
from pathlib import Path

from memoserve.memory.durable import (
    Hook,
    fsync_dir,
    make_dir_durably,
    remove_dir_if_empty,
    rename,
    unlink,
    write_file_durably,
)
from memoserve.memory.layout import Layout
from memoserve.memory.names import MemoryName

_MANIFEST_FILE = re.compile(r"[1-9][0-9]{0,18}\.json")


class MemoryDir:
    """Writes of one memory's small files. Every method is durable when it returns."""

    def __init__(self, layout: Layout, name: MemoryName, hook: Hook) -> None:
        self.path = layout.memory_dir(name)
        self._temp_dir = layout.temp_dir
        self._hook = hook

    @property
    def head(self) -> Path:
        """The file whose rename is the moment a change becomes true."""
        return self.path / "head.json"

    @property
    def tombstone(self) -> Path:
        """Says that the rest of the directory is to be removed."""
        return self.path / "deleted.json"

    def manifest(self, version: int) -> Path:
        """File of a version's manifest."""
        return self.path / f"{version}.json"

    def manifests(self) -> list[int]:
        """Versions that have a manifest file, wanted or not."""
        found = [path.name for path in self.path.iterdir() if _MANIFEST_FILE.fullmatch(path.name)]
        return sorted(int(name.removesuffix(".json")) for name in found)

    def make(self) -> None:
        """Make the directory, empty: what an earlier removal left undone is done first."""
        make_dir_durably(self.path.parent, self._hook)
        make_dir_durably(self.path, self._hook)
        self._empty()

    def write_head(self, data: bytes) -> None:
        """Replace the head."""
        write_file_durably(self.head, data, temp_dir=self._temp_dir, hook=self._hook)

    def head_is(self, data: bytes) -> bool:
        """Whether the head on disk holds exactly ``data``."""
        try:
            return self.head.read_bytes() == data
        except OSError:
            return False

    def write_manifest(self, version: int, data: bytes) -> None:
        """Write a version's manifest; it counts only once the head names it."""
        write_file_durably(self.manifest(version), data, temp_dir=self._temp_dir, hook=self._hook)

    def drop_manifest(self, version: int) -> None:
        """Remove a manifest the head does not name."""
        unlink(self.manifest(version), self._hook)

    def bury(self) -> None:
        """Turn the head into the tombstone: from here on the memory does not exist."""
        if self.head.exists():
            rename(self.head, self.tombstone, self._hook)
            fsync_dir(self.path, self._hook)
        else:
            write_file_durably(self.tombstone, b"", temp_dir=self._temp_dir, hook=self._hook)

    def is_buried(self) -> bool:
        """Whether the memory is deleted and only its directory is left."""
        return self.tombstone.exists() and not self.head.exists()

    def remove(self) -> None:
        """Remove the directory of a buried memory, and its namespace's when that is empty."""
        self._empty()
        remove_dir_if_empty(self.path, self._hook)
        remove_dir_if_empty(self.path.parent, self._hook)

    def _empty(self) -> None:
        for version in self.manifests():
            unlink(self.manifest(version), self._hook)
        # The tombstone goes last, or a crash would leave manifests that look like lost data; a
        # file system may reorder removals that no fsync parts.
        fsync_dir(self.path, self._hook)
        unlink(self.tombstone, self._hook)
        fsync_dir(self.path, self._hook)
