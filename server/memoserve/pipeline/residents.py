"""Committed memories on the device: loaded when first used, kept while pages allow.

Lives on the event loop. Pages belong to the engine, which may drop a memory nobody uses; it is
then read from disk again.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import torch

from memoserve.engine.engine import Engine
from memoserve.engine.sequence import MemoryHandle, SequenceRequest
from memoserve.engine.worker import EngineWorker
from memoserve.errors import DataLoss, FailedPrecondition, Unavailable
from memoserve.memory.memory import HostState
from memoserve.memory.snapshot import VersionRecord, require_match
from memoserve.memory.store import Store
from memoserve.pipeline.contents import WINDOW_PART, Contents, read_contents
from memoserve.pipeline.library import Library, load_library
from memoserve.pipeline.tasks import in_thread
from memoserve.pipeline.values import MemoryRef, Tier

KV = "kv"
MAX_LIBRARIES = 64
Key = tuple[str, int]
"""A memory's uid and the number of a version."""


@dataclass(frozen=True)
class Resident:
    """A version in use; ``handle`` stays valid while it is open."""

    ref: MemoryRef
    record: VersionRecord
    contents: Contents
    handle: MemoryHandle


@dataclass
class _Entry:
    """A version on the device; ``forgotten``: the last of its ``users`` frees it."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    handle: MemoryHandle | None = None
    users: int = 0
    forgotten: bool = False


class Residents:
    """Opens versions. ``identity`` is what their manifest must match to be usable here."""

    def __init__(
        self, store: Store, worker: EngineWorker, identity: Mapping[str, str], dimension: int
    ) -> None:
        self._store = store
        self._worker = worker
        self._identity = identity
        self._dimension = dimension
        self._entries: dict[Key, _Entry] = {}
        self._libraries: OrderedDict[Key, Library] = OrderedDict()

    # -- pages ----------------------------------------------------------------------------------

    @asynccontextmanager
    async def open(self, ref: MemoryRef) -> AsyncIterator[Resident]:
        """Use a version; it is brought to the device and stays until the end.

        Raises NotFound, DataLoss, FailedPrecondition (another model's), ResourceExhausted.
        """
        record = self._store.get(ref.name, ref.version)
        require_written(record)
        require_match(record, self._identity)
        contents = read_contents(record)
        key = (record.uid, record.version)
        entry = self._entries.setdefault(key, _Entry())
        entry.users += 1
        try:
            with self._store.hold(record):
                handle = await self._pinned(entry, record, contents)
                try:
                    yield Resident(MemoryRef(ref.name, record.version), record, contents, handle)
                finally:
                    self._worker.tell(lambda engine: engine.unpin(handle))
        finally:
            entry.users -= 1
            if entry.forgotten:
                self._free(entry)
            elif entry.users == 0 and entry.handle is None:
                del self._entries[key]  # it could not be loaded

    async def _pinned(
        self, entry: _Entry, record: VersionRecord, contents: Contents
    ) -> MemoryHandle:
        async with entry.lock:
            known = entry.handle
            if known is not None and await self._pin(known):
                return known
            host = await in_thread(load_host_state, self._store, record, contents)
            handle = await self._restore(entry, host)
            if not await self._pin(handle):
                raise Unavailable("the memory was dropped right after it was loaded")
            # From here on the engine may drop it whenever nobody uses it.
            handle.droppable = True
            return handle

    async def _pin(self, handle: MemoryHandle) -> bool:
        """Pin a memory; False if it was dropped. A caller that is cancelled leaves no pin."""
        pinned = self._worker.call(lambda engine: engine.pin(handle))
        try:
            return await asyncio.shield(asyncio.wrap_future(pinned))
        except asyncio.CancelledError:

            def give_back(engine: Engine) -> None:
                if pinned.result():
                    engine.unpin(handle)

            self._worker.tell(give_back)
            raise

    async def _restore(self, entry: _Entry, host: HostState) -> MemoryHandle:
        """Bring a state to the device, in its turn."""
        request = SequenceRequest(lambda _: None, host.schedule, base=host)
        async with self._worker.submit(request) as ticket:
            async for _ in ticket.events():
                pass
            # The entry owns it before anything can interrupt.
            entry.handle = handle = ticket.take_memory()
        return handle

    def adopt(self, record: VersionRecord, handle: MemoryHandle) -> None:
        """Keep the memory a commit was made from; it may be dropped, the disk has it."""
        handle.droppable = True
        entry = self._entries.setdefault((record.uid, record.version), _Entry())
        if entry.handle is None and not entry.lock.locked():
            entry.handle = handle
        else:  # a reader was faster and has loaded it
            self._worker.tell(lambda engine: engine.release(handle))

    def forget(self, uid: str, keep: frozenset[int] = frozenset()) -> None:
        """Give up a memory's versions but ``keep``; who uses one finishes."""
        for key in [k for k in self._libraries if k[0] == uid and k[1] not in keep]:
            del self._libraries[key]
        for key in [k for k in self._entries if k[0] == uid and k[1] not in keep]:
            entry = self._entries.pop(key)
            entry.forgotten = True
            self._free(entry)

    def _free(self, entry: _Entry) -> None:
        handle = entry.handle
        if handle is not None and entry.users == 0:
            entry.handle = None
            self._worker.tell(lambda engine: engine.release(handle))

    def tier(self, uid: str, version: int) -> Tier:
        """Where a version is, as of a moment ago."""
        entry = self._entries.get((uid, version))
        handle = entry.handle if entry else None
        if handle is None or handle.gone:
            return Tier.COLD
        return Tier.HOST if handle.paged is None else Tier.DEVICE

    # -- passages -------------------------------------------------------------------------------

    async def library(self, record: VersionRecord, contents: Contents) -> Library:
        """Passages and index of a version, from a cache of the least recently used."""
        key = (record.uid, record.version)
        if key not in self._libraries:
            with self._store.hold(record):
                self._libraries[key] = await in_thread(
                    load_library, self._store, record, contents, self._dimension
                )
        self._libraries.move_to_end(key)
        while len(self._libraries) > MAX_LIBRARIES:
            self._libraries.popitem(last=False)
        return self._libraries[key]


def require_written(record: VersionRecord) -> None:
    """Raise FailedPrecondition for a memory that nothing was memorized into."""
    if record.version == 0:
        raise FailedPrecondition(
            str(record.name), f"nothing was memorized into memory {record.name} yet"
        )


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
