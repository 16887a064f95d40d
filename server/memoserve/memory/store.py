"""The store of memories on disk: a catalog, versions that share files, one writer each.

A commit writes parts, then the manifest, then the head that names it; each is fsynced, renamed
and its directory fsynced before the next. The rename of the head is the moment it is true.
Everything here blocks on the disk: call it from I/O threads, never from the engine's.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Self

import torch

from memoserve.errors import Aborted, DataLoss, InvalidArgument, NotFound
from memoserve.memory.blobs import Blobs, DamagedBlob
from memoserve.memory.catalog import Catalog, CommittedRequest, MemoryRecord, Page
from memoserve.memory.documents import JSON
from memoserve.memory.durable import Hook, no_hook
from memoserve.memory.layout import prepare
from memoserve.memory.ledger import Ledger
from memoserve.memory.names import MemoryName, Named
from memoserve.memory.recovery import recover
from memoserve.memory.snapshot import VersionRecord, unpack_tensors
from memoserve.memory.staging import Writer


class Store:
    """Named memories in one directory, which it holds alone. Safe to use from any thread."""

    def __init__(self, blobs: Blobs, catalog: Catalog, ledger: Ledger, lock: int) -> None:
        self._blobs = blobs
        self._catalog = catalog
        self._ledger = ledger
        self._lock: int | None = lock
        self._writers: set[MemoryName] = set()
        self._writers_lock = threading.Lock()

    @classmethod
    def open(
        cls,
        root: Path,
        *,
        keep_versions: int = 2,
        clock: Callable[[], float] = time.time,
        hook: Hook = no_hook,
    ) -> Self:
        """Open or make the store in ``root``, undoing what a crash left half done.

        ``clock`` gives Unix seconds. Raises FailedPrecondition when another server holds the
        directory, or it holds something else than a store of this format. Damaged memories do
        not stop it: they are listed as such.
        """
        if keep_versions < 1:
            raise InvalidArgument("keep_versions", "must be at least 1")
        layout, lock = prepare(root, hook)
        try:
            blobs = Blobs(layout.files_dir, layout.temp_dir, hook)
            catalog = Catalog(recover(layout, blobs, hook))
        except BaseException:
            os.close(lock)
            raise
        ledger = Ledger(layout, blobs, catalog, keep_versions=keep_versions, clock=clock, hook=hook)
        return cls(blobs, catalog, ledger, lock)

    def close(self) -> None:
        """Give the directory free; a second call does nothing."""
        self._ledger.close()
        self._blobs.close()
        lock, self._lock = self._lock, None
        if lock is not None:
            os.close(lock)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def exists(self, name: Named) -> bool:
        """Whether there is such a memory, written or not, damaged or not."""
        return self._catalog.get(MemoryName.of(name)) is not None

    def memory(self, name: Named) -> MemoryRecord:
        """Return what a memory is now, damaged or not (see ``damages``). Raises NotFound."""
        return self._ledger.require(MemoryName.of(name))

    def list_memories(
        self, *, namespace: str | None = None, page_size: int = 50, page_token: str = ""
    ) -> Page:
        """Return memories by namespace and id, damaged ones too; see ``Catalog.page``."""
        return self._catalog.page(namespace, page_size, page_token)

    def get(self, name: Named, version: int | None = None) -> VersionRecord:
        """Return a kept version, None the newest (version 0 of a memory never written).

        Raises NotFound, or DataLoss when that version is damaged: an older one never stands in.
        """
        record = self._ledger.require_sound(MemoryName.of(name))
        number = record.version if version is None else version
        if number == record.version == 0:
            return VersionRecord(record.name, record.uid, 0, record.created_unix_s)
        kept = next((one for one in record.kept if one.version == number), None)
        if kept is None:
            raise NotFound("version", f"{record.name}@{number}")
        if kept.damage or kept.record is None:
            raise DataLoss(
                f"memory {record.name} version {number}: {kept.damage}",
                memory=record.name,
                version=number,
            )
        return kept.record

    def find_request(self, name: Named, request_id: str) -> CommittedRequest | None:
        """Return what an earlier commit with this request id led to (the last 16 are known)."""
        record = self._ledger.require_sound(MemoryName.of(name))
        return next((one for one in record.requests if one.request_id == request_id), None)

    @contextmanager
    def hold(self, record: VersionRecord) -> Iterator[VersionRecord]:
        """Keep a version's files through deletes and newer commits. Raises NotFound if gone."""
        if not self._blobs.acquire(record.digests):
            raise NotFound("version", f"{record.name}@{record.version}")
        try:
            yield record
        finally:
            self._blobs.release(record.digests)

    def load(self, record: VersionRecord, part: str) -> bytes:
        """Return a part, its size and sha256 verified.

        Raises DataLoss when its file is damaged or missing, NotFound when the version has no
        such part or is not kept any more.
        """
        ref = record.parts.get(part)
        if ref is None or not self._blobs.acquire([ref.digest]):
            raise NotFound("part", f"{record.name}@{record.version}/{part}")
        try:
            return self._blobs.read(ref)
        except DamagedBlob as error:
            raise _part_lost(record, part, str(error)) from error
        finally:
            self._blobs.release([ref.digest])

    def load_tensors(self, record: VersionRecord, part: str) -> dict[str, torch.Tensor]:
        """Return the tensors of a part written with ``write_tensors``; errors as ``load``."""
        try:
            return unpack_tensors(self.load(record, part))
        except ValueError as error:
            raise _part_lost(record, part, str(error)) from error

    def create(
        self, name: Named, details: Mapping[str, JSON] = MappingProxyType({})
    ) -> MemoryRecord:
        """Make a memory of version 0, durable on return. Raises AlreadyExists."""
        return self._ledger.create(MemoryName.of(name), details)

    def update_details(
        self, name: Named, details: Mapping[str, JSON], *, expected_etag: str = ""
    ) -> MemoryRecord:
        """Replace a memory's details; the version stays. Raises NotFound, DataLoss, Aborted."""
        return self._ledger.update_details(MemoryName.of(name), details, expected_etag)

    def delete(self, name: Named, *, expected_etag: str = "") -> None:
        """Remove a memory, damaged or not. Who holds a version reads on until it lets go.

        A writer's later commit fails with NotFound. Raises NotFound, Aborted (another etag).
        """
        self._ledger.delete(MemoryName.of(name), expected_etag)

    def writer(self, name: Named, *, expected_version: int | None = None) -> Writer:
        """Become the one writer of a memory until the writer is released.

        Raises Aborted at once when there is another writer, or when the memory is not at
        ``expected_version``; NotFound; DataLoss when its head is damaged.
        """
        key = MemoryName.of(name)
        with self._writers_lock:
            if key in self._writers:
                raise Aborted(f"memory {key} has another writer", reason="WRITER_ACTIVE")
            record = self._ledger.require_sound(key)
            if expected_version not in (None, record.version):
                raise Aborted(
                    f"memory {key} is at version {record.version}, not {expected_version}",
                    reason="VERSION_MISMATCH",
                    version=record.version,
                )
            self._writers.add(key)
        return Writer(
            key,
            record.uid,
            record.version,
            blobs=self._blobs,
            commit=self._ledger.commit,
            on_release=lambda: self._release_writer(key),
        )

    def _release_writer(self, name: MemoryName) -> None:
        with self._writers_lock:
            self._writers.discard(name)


def _part_lost(record: VersionRecord, part: str, what: str) -> DataLoss:
    return DataLoss(
        f"memory {record.name} version {record.version} part {part}: {what}",
        memory=record.name,
        version=record.version,
        part=part,
    )
