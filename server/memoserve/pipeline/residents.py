"""Committed memories on the device: loaded when first used, kept while pages allow.

Lives on the event loop. Pages belong to the engine, which may drop a memory nobody uses; it is
then read from disk again.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import torch

from memoserve.engine.sequence import Done, MemoryHandle, SequenceRequest
from memoserve.engine.worker import EngineWorker
from memoserve.errors import DataLoss, FailedPrecondition
from memoserve.memory.memory import HostState
from memoserve.memory.snapshot import VersionRecord, require_match
from memoserve.memory.store import Store
from memoserve.pipeline.contents import WINDOW_PART, Contents, read_contents
from memoserve.pipeline.library import Library, load_library
from memoserve.pipeline.values import MemoryRef, Tier

KV = "kv"
MAX_LIBRARIES = 64


@dataclass(frozen=True)
class Resident:
    """A version in use; ``handle`` stays valid while it is open."""

    ref: MemoryRef
    record: VersionRecord
    contents: Contents
    handle: MemoryHandle


@dataclass
class _Entry:
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    handle: MemoryHandle | None = None


class Residents:
    """Opens versions. ``identity`` is what their manifest must match to be usable here."""

    def __init__(
        self, store: Store, worker: EngineWorker, identity: dict[str, str], dimension: int
    ) -> None:
        self._store = store
        self._worker = worker
        self._identity = identity
        self._dimension = dimension
        self._entries: dict[tuple[str, int], _Entry] = {}
        self._libraries: OrderedDict[tuple[str, int], Library] = OrderedDict()

    @asynccontextmanager
    async def open(self, ref: MemoryRef) -> AsyncIterator[Resident]:
        """Use a version; it is brought to the device and stays until the end.

        Raises NotFound, DataLoss, FailedPrecondition (another model's), ResourceExhausted.
        """
        record = self._store.get(ref.name, ref.version)
        contents = self._checked(record)
        with self._store.hold(record):
            entry = self._entries.setdefault((record.uid, record.version), _Entry())
            async with entry.lock:
                handle = await self._pinned(entry, record, contents)
            try:
                exact = MemoryRef(ref.name, record.version)
                yield Resident(exact, record, contents, handle)
            finally:
                # The engine may be gone by then; its pages are, too.
                self._worker.call(lambda engine: engine.unpin(handle))

    def _checked(self, record: VersionRecord) -> Contents:
        if record.version == 0:
            raise FailedPrecondition(
                str(record.name), f"nothing was memorized into memory {record.name} yet"
            )
        require_match(record, self._identity)
        return read_contents(record)

    async def _pinned(
        self, entry: _Entry, record: VersionRecord, contents: Contents
    ) -> MemoryHandle:
        known = entry.handle
        if known is not None:
            pinned = self._worker.call(lambda engine: engine.pin(known))
            if await asyncio.wrap_future(pinned):
                return known
        host = await asyncio.to_thread(load_host_state, self._store, record, contents)
        handle = await self._restore(host)
        handle.droppable = True
        entry.handle = handle
        return handle

    async def _restore(self, host: HostState) -> MemoryHandle:
        """Bring a state to the device, in its turn; pinned once on return."""
        request = SequenceRequest(lambda _: None, host.schedule, base=host)
        async with self._worker.submit(request) as ticket:
            async for event in ticket.events():
                if isinstance(event, Done):
                    handle = ticket.take_memory()
        await asyncio.wrap_future(self._worker.call(lambda engine: engine.pin(handle)))
        return handle

    def adopt(self, record: VersionRecord, handle: MemoryHandle) -> None:
        """Keep the memory a commit was made from; it may be dropped, the disk has it."""
        handle.droppable = True
        self._entries[record.uid, record.version] = _Entry(handle=handle)

    def forget(self, uid: str, keep: frozenset[int] = frozenset()) -> None:
        """Give up a memory's versions but ``keep``; who uses one finishes."""
        for key in [k for k in self._entries if k[0] == uid and k[1] not in keep]:
            self._libraries.pop(key, None)
            handle = self._entries.pop(key).handle
            if handle is not None:
                self._release(handle)

    def _release(self, handle: MemoryHandle) -> None:
        self._worker.call(lambda engine: engine.release(handle))

    def tier(self, uid: str, version: int) -> Tier:
        """Where a version is, as of a moment ago."""
        entry = self._entries.get((uid, version))
        handle = entry.handle if entry else None
        if handle is None or handle.gone:
            return Tier.COLD
        return Tier.HOST if handle.paged is None else Tier.DEVICE

    async def library(self, resident: Resident | VersionRecord) -> Library:
        """Passages and index of a version, from a cache of the least recently used."""
        record = resident if isinstance(resident, VersionRecord) else resident.record
        key = (record.uid, record.version)
        if key not in self._libraries:
            contents = read_contents(record)
            self._libraries[key] = await asyncio.to_thread(
                load_library, self._store, record, contents, self._dimension
            )
        self._libraries.move_to_end(key)
        while len(self._libraries) > MAX_LIBRARIES:
            self._libraries.popitem(last=False)
        return self._libraries[key]


def load_host_state(store: Store, record: VersionRecord, contents: Contents) -> HostState:
    """Read rows of closed windows and of the open one; raises DataLoss where they do not fit."""
    runs = [store.load_tensors(record, run.part)[KV] for run in contents.memory_runs]
    window = store.load_tensors(record, WINDOW_PART)[KV]
    memory = torch.cat(runs) if runs else window.new_zeros((0, *window.shape[1:]))
    if memory.shape[0] != contents.state.memory_rows or window.shape[0] != contents.window_rows:
        raise DataLoss(
            f"memory {record.name} version {record.version}: {memory.shape[0]} and "
            f"{window.shape[0]} rows stored, {contents.state.memory_rows} and "
            f"{contents.window_rows} expected",
            memory=record.name,
            version=record.version,
        )
    return HostState(contents.schedule, contents.state, 0, memory, window)
