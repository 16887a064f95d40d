"""The recipes behind one front: what ``api.Pipeline`` promises."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing
from dataclasses import replace

from memoserve import __version__
from memoserve.errors import InvalidArgument, Unimplemented
from memoserve.memory.names import MemoryName
from memoserve.pipeline.api import MAX_MESSAGE_BYTES, MAX_PIECE_BYTES, MAX_QUERY_BYTES
from memoserve.pipeline.catalog import Catalog
from memoserve.pipeline.generate import generate
from memoserve.pipeline.memorize import memorize
from memoserve.pipeline.recall import Tally, recall_clues
from memoserve.pipeline.retrieve import open_shelves, search
from memoserve.pipeline.runtime import Runtime
from memoserve.pipeline.values import (
    CreateSpec,
    Final,
    GenerateQuery,
    MemorizeEvent,
    MemorizeHeader,
    MemoryRef,
    MemoryView,
    QueryEvent,
    RecallQuery,
    RetrieveQuery,
    ServerInfo,
    Stage,
    StageName,
    TextPiece,
    Token,
    Usage,
)

DEFAULT_PAGE_SIZE = 50


class MemoPipeline:
    """Memorize, recall, retrieve, generate, and the catalog of memories."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._catalog = Catalog(runtime)

    @property
    def healthy(self) -> bool:
        """The engine runs."""
        return self._runtime.worker.alive

    def info(self) -> ServerInfo:
        """What this server runs and how much it takes."""
        runtime = self._runtime
        return ServerInfo(
            version=__version__,
            backend=runtime.backend,
            device=runtime.device,
            model=runtime.model_info,
            generators=tuple(runtime.generators),
            default_generator=runtime.default_generator,
            embedder=runtime.embedder.name,
            page_size=runtime.worker.page_size,
            pages_total=runtime.worker.num_pages,
            pages_free=runtime.worker.num_free_pages,
            max_message_bytes=MAX_MESSAGE_BYTES,
            max_piece_bytes=MAX_PIECE_BYTES,
            max_query_bytes=MAX_QUERY_BYTES,
        )

    # -- the catalog -----------------------------------------------------------------------------

    async def create(self, spec: CreateSpec) -> MemoryView:
        """Make an empty memory."""
        return await asyncio.to_thread(self._catalog.create, spec)

    async def get(self, ref: MemoryRef) -> MemoryView:
        """One memory."""
        return self._catalog.get(ref)

    async def list(
        self, namespace: str, page_size: int, page_token: str, filter: str
    ) -> tuple[list[MemoryView], str]:
        """A page of memories; ``page_size`` 0 takes the default."""
        if filter:
            raise Unimplemented("list filters are not built yet")
        return self._catalog.list(namespace, page_size or DEFAULT_PAGE_SIZE, page_token)

    async def update(
        self,
        name: MemoryName,
        labels: Mapping[str, str] | None,
        description: str | None,
        etag: str,
    ) -> MemoryView:
        """Replace labels or description."""
        return await asyncio.to_thread(self._catalog.update, name, labels, description, etag)

    async def delete(self, name: MemoryName, etag: str) -> None:
        """Remove a memory; who reads it finishes."""
        uid = await asyncio.to_thread(self._catalog.delete, name, etag)
        self._runtime.residents.forget(uid)

    # -- the recipes -----------------------------------------------------------------------------

    def memorize(
        self,
        header: MemorizeHeader,
        pieces: AsyncIterator[TextPiece],
        *,
        deadline: float | None = None,
    ) -> AsyncGenerator[MemorizeEvent, None]:
        """Stream a text into the next version of a memory."""
        return memorize(self._runtime, self._catalog, header, pieces, deadline)

    async def recall(
        self, query: RecallQuery, *, deadline: float | None = None
    ) -> AsyncGenerator[QueryEvent, None]:
        """Clues as they are written."""
        tally = Tally()
        yield Stage(StageName.RECALL)
        async with AsyncExitStack() as stack:
            residents = [
                await stack.enter_async_context(self._runtime.residents.open(ref))
                for ref in _distinct(query.memories)
            ]
            events = recall_clues(self._runtime, residents, query, deadline, tally)
            async with aclosing(events) as clues:
                async for event in clues:
                    yield event
            refs = tuple(resident.ref for resident in residents)
        usage = Usage(
            prompt_tokens=tally.prompt_tokens,
            generated_tokens=tally.generated_tokens,
            queue_s=tally.queue_s,
            recall_s=time.monotonic() - tally.started,
            first_token_s=tally.first_token_s,
            first_clue_s=tally.first_clue_s,
        )
        self._observe("recall", usage)
        yield Final("", tally.finish_reason, usage, refs)

    async def retrieve(
        self, query: RetrieveQuery, *, deadline: float | None = None
    ) -> AsyncGenerator[QueryEvent, None]:
        """Passages of the query and the clues that the caller names."""
        began = time.monotonic()
        yield Stage(StageName.RETRIEVE)
        refs = _distinct(query.memories)
        shelves = await open_shelves(self._runtime, refs, self._runtime.residents)
        for passage in await search(self._runtime, shelves, query):
            yield passage
        usage = Usage(retrieve_s=time.monotonic() - began)
        yield Final("", "evidence", usage, tuple(shelf.ref for shelf in shelves))

    async def generate(
        self, query: GenerateQuery, *, deadline: float | None = None
    ) -> AsyncGenerator[QueryEvent, None]:
        """An answer with its clues and evidence."""
        query = replace(query, memories=_distinct(query.memories))
        last: float | None = None
        async with aclosing(generate(self._runtime, query, deadline)) as events:
            async for event in events:
                if isinstance(event, Token):
                    now = time.monotonic()
                    if last is not None:
                        self._runtime.metrics.between_tokens_seconds.observe(now - last)
                    last = now
                if isinstance(event, Final):
                    self._observe("generate", event.usage)
                yield event

    def _observe(self, stage: str, usage: Usage) -> None:
        if usage.first_token_s is not None:
            self._runtime.metrics.first_token_seconds.labels(stage).observe(usage.first_token_s)


def _distinct(refs: Sequence[MemoryRef]) -> tuple[MemoryRef, ...]:
    """Memories of a query, each once, in order; raises InvalidArgument where none is named."""
    if not refs:
        raise InvalidArgument("memories", "name at least one")
    return tuple(dict.fromkeys(refs))
