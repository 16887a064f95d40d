"""Writing a version: one writer a memory, parts first, the commit last."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType, TracebackType
from typing import Protocol, Self

import torch

from memoserve.errors import DataLoss, NotFound
from memoserve.memory.blobs import Blobs, DamagedBlob
from memoserve.memory.catalog import CommittedRequest
from memoserve.memory.documents import JSON
from memoserve.memory.durable import storage_errors
from memoserve.memory.names import MemoryName
from memoserve.memory.snapshot import PartRef, VersionRecord, check_part_name, pack_tensors


class Commit(Protocol):
    """Makes staged parts the next version of the writer's memory; the store provides it."""

    def __call__(
        self,
        writer: Writer,
        parts: Mapping[str, PartRef],
        meta: Mapping[str, JSON],
        request: CommittedRequest | None,
    ) -> VersionRecord:
        """Return the committed version."""


class Writer:
    """The right to write one memory, until ``release`` (or the end of ``with``).

    ``version`` is the one the next commit builds on; a commit moves it.
    """

    def __init__(
        self,
        name: MemoryName,
        uid: str,
        version: int,
        *,
        blobs: Blobs,
        commit: Commit,
        on_release: Callable[[], None],
    ) -> None:
        self.name = name
        self.uid = uid
        self.version = version
        self._blobs = blobs
        self._commit = commit
        self._on_release: Callable[[], None] | None = on_release

    def stage(self) -> Staging:
        """Return an empty version to fill; use it in ``with``."""
        return Staging(self, self._blobs, self._commit)

    @property
    def released(self) -> bool:
        """Whether the right was given back."""
        return self._on_release is None

    def release(self) -> None:
        """Let others write; a second call does nothing."""
        on_release, self._on_release = self._on_release, None
        if on_release is not None:
            on_release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()


class Staging:
    """The parts of a version to be. Without a commit they leave no trace. For one thread."""

    def __init__(self, writer: Writer, blobs: Blobs, commit: Commit) -> None:
        self._writer = writer
        self._blobs = blobs
        self._commit = commit
        self._parts: dict[str, PartRef] = {}
        self._open = True

    def write_bytes(self, part: str, data: bytes | bytearray | memoryview) -> PartRef:
        """Write a part. Raises ResourceExhausted (disk full) or Unavailable (storage error)."""
        self._require_new(part)
        with storage_errors(f"writing part {part} of memory {self._writer.name}"):
            digest, size = self._blobs.write(data)
        return self._add(PartRef(part, digest, size))

    def write_tensors(self, part: str, tensors: Mapping[str, torch.Tensor]) -> PartRef:
        """Write named tensors of any dtype, bfloat16 included, as one safetensors part."""
        self._require_new(part)
        return self.write_bytes(part, pack_tensors(tensors))

    def keep(self, ref: PartRef, part: str = "") -> PartRef:
        """Share a part of a kept version of any memory, under its name or the name ``part``.

        Raises NotFound when no version keeps it any more, DataLoss when its file is missing or
        of another size.
        """
        name = part or ref.name
        self._require_new(name)
        if not self._blobs.acquire([ref.digest]):
            raise NotFound("part", ref.name, f"part {ref.name} is not kept any more")
        try:
            self._blobs.check(ref)
        except DamagedBlob as error:
            self._blobs.release([ref.digest])
            raise DataLoss(
                f"part {ref.name}, to be kept by memory {self._writer.name}: {error}",
                memory=self._writer.name,
                part=ref.name,
            ) from error
        return self._add(PartRef(name, ref.digest, ref.size))

    def commit(
        self,
        meta: Mapping[str, JSON],
        *,
        request_id: str = "",
        receipt: Mapping[str, JSON] = MappingProxyType({}),
    ) -> VersionRecord:
        """Make the parts the memory's next version, durable on return.

        ``request_id`` and ``receipt`` are found again by ``Store.find_request``. Raises Aborted
        when the memory's version is not the writer's or the request was committed before,
        NotFound when the memory was deleted, ResourceExhausted or Unavailable from the disk.
        """
        self._require_open()
        request = None
        if request_id:
            request = CommittedRequest(request_id, self._writer.version + 1, receipt)
        record = self._commit(self._writer, self._parts, meta, request)
        self.abort()  # the version has its own references now
        return record

    def abort(self) -> None:
        """Give up the parts; a second call, or one after the commit, does nothing."""
        if self._open:
            self._open = False
            self._blobs.release(part.digest for part in self._parts.values())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.abort()

    def _add(self, ref: PartRef) -> PartRef:
        self._parts[ref.name] = ref
        return ref

    def _require_open(self) -> None:
        if not self._open or self._writer.released:
            raise RuntimeError("this staging is over")

    def _require_new(self, part: str) -> None:
        self._require_open()
        check_part_name(part)
        if part in self._parts:
            raise ValueError(f"part {part} was staged before")
