"""Committed memories on the device: loaded when first used, kept while pages allow.

Lives on the event loop. Pages belong to the engine, which may drop a memory nobody uses; it is
then read from disk again.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field

import torch

from memoserve.engine.engine import Engine
from memoserve.engine.sequence import MemoryHandle, SequenceRequest
from memoserve.engine.worker import EngineWorker
from memoserve.errors import DataLoss, FailedPrecondition, MemoserveError, Unavailable
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
    """Opens versions. ``identity`` is what their manifest must match (see ``require_match``)."""

    def __init__(
        self,
        store: Store,
        worker: EngineWorker,
        identity: Mapping[str, str | None],
        dimension: int,
    ) -> None:
        self._store = store
        self._worker = worker
        self._identity = identity
        self._dimension = dimension
        self._entries: dict[Key, _Entry] = {}
        self._libraries: OrderedDict[Key, Library] = OrderedDict()
        self._loading: dict[Key, asyncio.Task[Library]] = {}

    # -- pages ----------------------------------------------------------------------------------

    @asynccontextmanager
    async def open(self, refs: Sequence[MemoryRef]) -> AsyncIterator[list[Resident]]:
        """Use versions; they are brought to the device and stay until the end.

        A delete that comes while the first is loaded leaves the others readable. Raises NotFound,
        DataLoss, FailedPrecondition (another model's), ResourceExhausted.
        """
        records = [self._store.get(ref.name, ref.version) for ref in refs]
        for record in records:
            require_written(record)
            require_match(record, self._identity)
        async with AsyncExitStack() as stack:
            # All are held before the first is waited for.
            used = [(one, stack.enter_context(self._used(one))) for one in records]
            yield [await stack.enter_async_context(self._resident(*one)) for one in used]

    @asynccontextmanager
    async def _resident(self, record: VersionRecord, entry: _Entry) -> AsyncIterator[Resident]:
        contents = read_contents(record)
        handle = await self._pinned(entry, record, contents)
        try:
            yield Resident(MemoryRef(record.name, record.version), record, contents, handle)
        finally:
            self._worker.tell(lambda engine: engine.unpin(handle))

    @contextmanager
    def _used(self, record: VersionRecord) -> Iterator[_Entry]:
        """A version's entry, and its files, for one user more."""
        key = (record.uid, record.version)
        entry = self._entries.setdefault(key, _Entry())
        entry.users += 1
        try:
            with self._store.hold(record):
                yield entry
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
            return handle

    async def _pin(self, handle: MemoryHandle) -> bool:
        """Pin a memory; False if it was dropped. A caller that is cancelled leaves no pin."""

        def pin(engine: Engine) -> bool:
            # From here on the engine may drop it whenever nobody uses it: the disk has it. Said
            # here, in one step with the pin, so that it holds for a caller cancelled meanwhile.
            handle.droppable = True
            return engine.pin(handle)

        pinned = self._worker.call(pin)
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
        handle: MemoryHandle | None = None
        try:
            async with self._worker.submit(request) as ticket:
                async for _ in ticket.events():
                    pass
                # The entry owns it before anything can interrupt.
                entry.handle = handle = ticket.take_memory()
        except BaseException:
            if handle is not None:  # nobody will pin it; the engine may drop it
                handle.droppable = True
            raise
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
        """Passages and index of a version, from a cache of the least recently used.

        However many readers wait for it, it is read once.
        """
        key = (record.uid, record.version)
        if key in self._libraries:
            self._libraries.move_to_end(key)
            return self._libraries[key]
        loading = self._loading.get(key)
        if loading is None:
            loading = asyncio.create_task(self._load_library(key, record, contents))
            self._loading[key] = loading
            loading.add_done_callback(lambda task: self._loaded(key, task))
        # A reader that is cancelled takes nothing from the others.
        return await asyncio.shield(loading)

    async def _load_library(self, key: Key, record: VersionRecord, contents: Contents) -> Library:
        with self._store.hold(record):
            library = await in_thread(load_library, self._store, record, contents, self._dimension)
        if self._is_kept(record):
            self._libraries[key] = library
        while len(self._libraries) > MAX_LIBRARIES:
            self._libraries.popitem(last=False)
        return library

    def _loaded(self, key: Key, task: asyncio.Task[Library]) -> None:
        del self._loading[key]
        if not task.cancelled():
            task.exception()  # looked at, or asyncio complains where no reader is left

    def _is_kept(self, record: VersionRecord) -> bool:
        """The version was not deleted meanwhile: ``forget`` is still to come for it."""
        with suppress(MemoserveError):
            return self._store.get(record.name, record.version).uid == record.uid
        return False


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
    return HostState(contents.schedule, contents.state, 0, (memory,), (window,))
