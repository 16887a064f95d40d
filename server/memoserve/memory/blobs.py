"""Immutable files named by their content, shared by versions and counted by reference."""

from __future__ import annotations

import logging
import re
import threading
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from memoserve.memory.durable import Hook, fsync_dir, make_dir_durably, unlink, write_file_durably
from memoserve.memory.snapshot import PartRef, digest_of

_LOG = logging.getLogger(__name__)
_DIGEST = re.compile(r"[0-9a-f]{64}")


class DamagedBlob(Exception):
    """A file is missing or does not hold what its name says; the text says which."""


class Blobs:
    """``files/ab/abcd...``: each file holds the bytes whose sha256 is its name.

    A reference is held by each part of each kept version, by each reader and by each staged
    part. A file is removed when its last reference is released. Safe to use from any thread.
    """

    def __init__(self, root: Path, temp_dir: Path, hook: Hook) -> None:
        self._root = root
        self._temp_dir = temp_dir
        self._hook = hook
        self._lock = threading.Lock()
        self._references: Counter[str] = Counter()
        self._unsynced: set[str] = set()
        self._closed = False
        self._directories = {path.name for path in root.iterdir()}  # their names are durable
        fsync_dir(root, hook)

    def write(self, data: bytes | bytearray | memoryview) -> tuple[str, int]:
        """Store bytes and take one reference; return (digest, size in bytes).

        The content is on disk afterwards, its name only after ``sync``. A file of that name is
        replaced: its bytes are the same, or were damaged and are good again.
        """
        digest = digest_of(data)
        with self._lock:
            self._references[digest] += 1
        try:
            self._make_directory(digest[:2])
            write_file_durably(
                self._path(digest),
                data,
                temp_dir=self._temp_dir,
                hook=self._hook,
                sync_dir=False,
            )
        except Exception:
            self.release([digest])
            raise
        with self._lock:
            self._unsynced.add(digest)
        return digest, memoryview(data).nbytes

    def sync(self, digests: Iterable[str]) -> None:
        """Make the names of files durable that are not yet, each directory once."""
        with self._lock:
            names = self._unsynced.intersection(digests)
        for directory in sorted({self._path(digest).parent for digest in names}):
            fsync_dir(directory, self._hook)
        with self._lock:
            self._unsynced -= names

    def adopt(self, digests: Iterable[str]) -> None:
        """Take references without asking whether the files are there (when opening a store)."""
        with self._lock:
            self._references.update(digests)

    def acquire(self, digests: Iterable[str]) -> bool:
        """Take a reference to each file, or to none and return False if one is not kept."""
        wanted = list(digests)
        with self._lock:
            if not all(self._references[digest] for digest in set(wanted)):
                return False
            self._references.update(wanted)
            return True

    def release(self, digests: Iterable[str]) -> None:
        """Give references back; remove the files nobody refers to any more."""
        with self._lock:
            for digest in digests:
                self._references[digest] -= 1
                if self._references[digest] == 0:
                    del self._references[digest]
                    self._unsynced.discard(digest)
                    self._remove(self._path(digest))

    def check(self, part: PartRef) -> None:
        """Raise DamagedBlob if the file is missing or of another size; contents are not read."""
        try:
            size = self._path(part.digest).stat().st_size
        except OSError as error:
            raise DamagedBlob(f"file cannot be read: {error.strerror}") from error
        if size != part.size:
            raise DamagedBlob(f"file has {size} bytes instead of {part.size}")

    def read(self, part: PartRef) -> bytes:
        """Return the bytes of a part. Raises DamagedBlob unless size and sha256 hold."""
        self.check(part)
        try:
            data = self._path(part.digest).read_bytes()
        except OSError as error:
            raise DamagedBlob(f"file cannot be read: {error.strerror}") from error
        if digest_of(data) != part.digest:
            raise DamagedBlob("the checksum does not match")
        return data

    def sweep(self) -> None:
        """Remove files without a reference, left by a crash. Others' files stay."""
        with self._lock:
            for path in self._root.glob("??/*"):
                if _DIGEST.fullmatch(path.name) and not self._references[path.name]:
                    self._remove(path)

    def close(self) -> None:
        """Remove nothing from now on: the directory may belong to another server soon."""
        with self._lock:
            self._closed = True

    def _make_directory(self, name: str) -> None:
        if name not in self._directories:
            make_dir_durably(self._root / name, self._hook)
            self._directories.add(name)

    def _remove(self, path: Path) -> None:
        if self._closed:
            return
        try:
            unlink(path, self._hook)
        except OSError as error:
            # Costs space until the next open sweeps; no reason to fail what was committed.
            _LOG.warning("an unused file could not be removed: %s", error.strerror)

    def _path(self, digest: str) -> Path:
        return self._root / digest[:2] / digest
