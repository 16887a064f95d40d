"""Memorize: a text streams in, a committed version comes out."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from functools import partial
from typing import Any

from memoserve.engine.sequence import Fed, MemoryHandle, SequenceRequest
from memoserve.engine.ticket import Ticket
from memoserve.errors import DataLoss, FailedPrecondition, InvalidArgument
from memoserve.memory.ratio import settle
from memoserve.memory.snapshot import VersionRecord, require_match
from memoserve.memory.staging import Writer
from memoserve.memory.window import RatioSchedule
from memoserve.pipeline.capacity import CapacityCheck
from memoserve.pipeline.catalog import Catalog
from memoserve.pipeline.commit import Draft, write_version
from memoserve.pipeline.contents import Contents, read_contents
from memoserve.pipeline.conversation import Conversation
from memoserve.pipeline.feeding import Feeder, Opening
from memoserve.pipeline.indexing import Indexer
from memoserve.pipeline.receipts import to_receipt
from memoserve.pipeline.runtime import INDEX_KEYS, PAGE_KEYS, Runtime
from memoserve.pipeline.tasks import in_thread, settled, unwrapped
from memoserve.pipeline.values import (
    Accepted,
    Committed,
    Language,
    MemorizeEvent,
    MemorizeHeader,
    Progress,
    TextPiece,
    WriteMode,
)

PROGRESS_EVERY_S = 0.05


async def memorize(
    runtime: Runtime,
    catalog: Catalog,
    header: MemorizeHeader,
    pieces: AsyncIterator[TextPiece],
    deadline: float | None,
) -> AsyncGenerator[MemorizeEvent, None]:
    """Stream a text into the next version of a memory.

    Raises InvalidArgument (empty text, NUL, bad option), OutOfRange (beyond capacity), Aborted
    (another writer, another version), NotFound, FailedPrecondition (another model's memory),
    ResourceExhausted. Nothing is kept of a call that fails or is closed early.
    """
    replayed = catalog.replay(header)
    if replayed is not None:
        yield replayed
        return
    async with _writing(catalog, header) as writer:
        job = _Job(runtime, catalog, header, writer, deadline)
        async with contextlib.aclosing(job.events(pieces)) as events:
            async for event in events:
                yield event


@contextlib.asynccontextmanager
async def _writing(catalog: Catalog, header: MemorizeHeader) -> AsyncIterator[Writer]:
    """The right to write the header's memory, given back also where the caller is cancelled."""
    begun = asyncio.create_task(asyncio.to_thread(catalog.begin, header))
    try:
        yield await settled(begun)
    finally:
        if not begun.cancelled() and begun.exception() is None:
            await in_thread(catalog.end, begun.result())


class _Job:
    """One running Memorize: the work beside, its events in an outbox."""

    def __init__(
        self,
        runtime: Runtime,
        catalog: Catalog,
        header: MemorizeHeader,
        writer: Writer,
        deadline: float | None,
    ) -> None:
        self.runtime = runtime
        self.catalog = catalog
        self.header = header
        self.writer = writer
        self.deadline = deadline
        self.outbox: asyncio.Queue[MemorizeEvent | None] = asyncio.Queue()
        self.started = time.monotonic()
        self.told = 0.0

    async def events(self, pieces: AsyncIterator[TextPiece]) -> AsyncGenerator[MemorizeEvent, None]:
        """Run the work, and pass on what it tells; closing this stops it."""
        work = asyncio.create_task(self._work(pieces))
        try:
            while (event := await self.outbox.get()) is not None:
                yield event
            await work
        finally:
            work.cancel()
            # The writer's right is given back behind this, so nothing may still be at work.
            await settled(asyncio.create_task(_ended(work)))

    async def _work(self, pieces: AsyncIterator[TextPiece]) -> None:
        try:
            base, schedule = self._base()
            check = CapacityCheck(self.runtime, self.header, schedule, self.outbox.put_nowait)
            view = self.catalog.views.view(self.runtime.store.memory(self.header.name))
            self.outbox.put_nowait(Accepted(view, schedule.ratios[0], check.limit))
            async with contextlib.AsyncExitStack() as stack:
                ticket = await self._submit(base, schedule, stack)
                draft = await self._feed(ticket, base, check, pieces)
                # Once all text is in, the commit runs to its end, whatever the caller does.
                await settled(asyncio.create_task(self._commit(ticket, draft)))
        finally:
            self.outbox.put_nowait(None)

    def _base(self) -> tuple[Contents | None, RatioSchedule]:
        """What an append goes on from, and the ratios of all windows to come."""
        record = self.runtime.store.get(self.header.name)
        if self.header.mode is WriteMode.REPLACE:
            return None, self._settle(self._replacing_ratio(record))
        if record.version > 0:
            base = read_contents(record)
            keys = PAGE_KEYS + (INDEX_KEYS if base.passages else ())
            require_match(record, self.runtime.identity_of(keys))
            self._require_ratio(base.ratios)
            return base, base.schedule
        created = self.catalog.created_ratio(self.header.name)
        if created is None:
            return None, self._settle(self.header.ratio)
        self._require_ratio((created,))
        return None, self._settle(created)

    def _require_ratio(self, settled_ratios: tuple[int, ...]) -> None:
        requested = self.header.ratio
        if requested is not None and settled_ratios != (requested,):
            raise FailedPrecondition(
                str(self.header.name),
                f"the memory has ratio {settled_ratios[0]}, not {requested}; a ratio is settled "
                "once, replace the memory to change it",
                reason="RATIO_SETTLED",
            )

    def _replacing_ratio(self, record: VersionRecord) -> int | None:
        """The request's ratio, else the newest version's, else the one of CreateMemory."""
        if self.header.ratio is not None:
            return self.header.ratio
        if record.version > 0:
            # A manifest that cannot be read any more may be replaced all the same.
            with contextlib.suppress(DataLoss):
                ratios = read_contents(record).ratios
                return ratios[0] if len(ratios) == 1 else None
        return self.catalog.created_ratio(self.header.name)

    def _settle(self, requested: int | None) -> RatioSchedule:
        return settle(
            self.runtime.worker.rules,
            self.runtime.policy,
            requested=requested,
            expected_tokens=self.header.expected_tokens,
        )

    async def _submit(
        self, base: Contents | None, schedule: RatioSchedule, stack: contextlib.AsyncExitStack
    ) -> Ticket:
        handle: MemoryHandle | None = None
        if base is not None:
            newest = self.runtime.residents.open([self.catalog.newest(self.header.name)])
            (resident,) = await stack.enter_async_context(newest)
            handle = resident.handle
        request = SequenceRequest(
            lambda _: None, schedule, base=handle, input_open=True, deadline=self.deadline
        )
        return await stack.enter_async_context(self.runtime.worker.submit(request))

    async def _feed(
        self,
        ticket: Ticket,
        base: Contents | None,
        check: CapacityCheck,
        pieces: AsyncIterator[TextPiece],
    ) -> Draft:
        """Read the whole text into the engine and the index."""
        with unwrapped():
            async with asyncio.TaskGroup() as group:
                indexer = Indexer(self.runtime, self.header.index, lambda: self._tell(draft))
                draft = Draft.after(base, indexer)
                group.create_task(self._watch(ticket, draft))
                group.create_task(indexer.run())
                opening = await Opening.read(pieces, self._language(base))
                draft.language = opening.language
                conversation = Conversation(
                    self.runtime.tokenizer, self.runtime.prompts.of(opening.language)
                )
                feeder = Feeder(ticket, draft, check)
                feeder.start(self.runtime.tokenizer, conversation)
                async for piece in opening.pieces():
                    await feeder.take(piece)
                if not draft.sources.added_chars:
                    raise InvalidArgument("text.text_utf8", "is empty")
                await feeder.finish()
                await indexer.finish()
        self._tell(draft, last=True)
        return draft

    def _language(self, base: Contents | None) -> Language:
        """The memory's, the request's, or the one it was created with; perhaps still AUTO."""
        if base is not None:
            return base.language
        if self.header.language is not Language.AUTO:
            return self.header.language
        return self.catalog.created_language(self.header.name)

    async def _watch(self, ticket: Ticket, draft: Draft) -> None:
        async for event in ticket.events():
            if isinstance(event, Fed):
                draft.tokens_done, draft.memory_rows = event.tokens, event.memory_rows
                self._tell(draft)

    def _tell(self, draft: Draft, *, last: bool = False) -> None:
        """Tell how far it is, not too often."""
        now = time.monotonic()
        if last or now - self.told >= PROGRESS_EVERY_S:
            self.told = now
            self.outbox.put_nowait(self._progress(draft))

    def _progress(self, draft: Draft) -> Progress:
        speed = draft.tokens_done / max(time.monotonic() - self.started, 1e-9)
        left = max((self.header.expected_tokens or 0) - draft.tokens_done, 0)
        # Known while the text is read; what the embedder still needs is not.
        eta = left / speed if left and speed else None
        return Progress(
            tokens_done=draft.tokens_done,
            tokens_received=len(draft.tokens),
            tokens_per_s=speed,
            memory_rows=draft.memory_rows,
            passages=draft.indexer.count,
            eta_s=eta,
        )

    def _receipt(self, draft: Draft, contents: Contents, stored_bytes: int) -> Mapping[str, Any]:
        view = self.catalog.views.next_view(self.header.name, contents, stored_bytes)
        seconds = time.monotonic() - self.started
        return to_receipt(Committed(view, seconds, len(draft.tokens)))

    async def _commit(self, ticket: Ticket, draft: Draft) -> None:
        handle = ticket.take_memory()
        worker, store, metrics = self.runtime.worker, self.runtime.store, self.runtime.metrics
        first = draft.base.state.memory_rows if draft.base else 0
        try:
            host = await asyncio.wrap_future(worker.read(handle, first))
            record = await asyncio.to_thread(
                write_version,
                self.runtime,
                self.writer,
                draft,
                host,
                self.header.request_id,
                partial(self._receipt, draft),
            )
        except BaseException:
            worker.tell(lambda engine: engine.release(handle))
            raise
        self.runtime.residents.adopt(record, handle)
        memory = store.memory(self.header.name)
        kept = frozenset(one.version for one in memory.kept)
        self.runtime.residents.forget(record.uid, keep=kept)
        seconds = time.monotonic() - self.started
        metrics.commits.inc()
        metrics.memorize_tokens_per_second.observe(len(draft.tokens) / seconds)
        committed = Committed(self.catalog.views.view(memory), seconds, len(draft.tokens))
        self.outbox.put_nowait(committed)


async def _ended(work: asyncio.Task[None]) -> None:
    """Wait for a task's end; how it ended is told elsewhere."""
    await asyncio.gather(work, return_exceptions=True)
