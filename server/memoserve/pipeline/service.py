"""The recipes behind one front: what ``api.Pipeline`` promises."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from functools import partial

from memoserve import __version__
from memoserve.errors import InvalidArgument, Unimplemented
from memoserve.memory.names import MemoryName
from memoserve.pipeline.api import (
    DEFAULT_PAGE_SIZE,
    MAX_MESSAGE_BYTES,
    MAX_PIECE_BYTES,
    MAX_QUERY_BYTES,
)
from memoserve.pipeline.catalog import Catalog
from memoserve.pipeline.generate import generate
from memoserve.pipeline.memorize import memorize
from memoserve.pipeline.recall import recall
from memoserve.pipeline.retrieve import retrieve
from memoserve.pipeline.runtime import Runtime
from memoserve.pipeline.tasks import in_thread, settled, until
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
    TextPiece,
    Tier,
    Token,
)


class MemoPipeline:
    """Memorize, recall, retrieve, generate, and the catalog of memories."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._catalog = Catalog(runtime)
        self._catalog.drop_leftovers()
        for tier in Tier:
            gauge = runtime.metrics.memories.labels(tier.value)
            gauge.set_function(partial(self._catalog.count, tier))

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
        return await in_thread(self._catalog.create, spec)

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
        return await in_thread(self._catalog.update, name, labels, description, etag)

    async def delete(self, name: MemoryName, etag: str) -> None:
        """Remove a memory; who reads it finishes."""
        await settled(asyncio.create_task(self._delete(name, etag)))

    async def _delete(self, name: MemoryName, etag: str) -> None:
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
        return until(memorize(self._runtime, self._catalog, header, pieces, deadline), deadline)

    def recall(
        self, query: RecallQuery, *, deadline: float | None = None
    ) -> AsyncGenerator[QueryEvent, None]:
        """Clues as they are written."""
        query = replace(query, memories=_distinct(query.memories))
        return self._observed("recall", until(recall(self._runtime, query, deadline), deadline))

    def retrieve(
        self, query: RetrieveQuery, *, deadline: float | None = None
    ) -> AsyncGenerator[QueryEvent, None]:
        """Passages of the query and the clues that the caller names."""
        query = replace(query, memories=_distinct(query.memories))
        return until(retrieve(self._runtime, query), deadline)

    def generate(
        self, query: GenerateQuery, *, deadline: float | None = None
    ) -> AsyncGenerator[QueryEvent, None]:
        """An answer with its clues and evidence."""
        query = replace(query, memories=_distinct(query.memories))
        return self._observed("generate", until(generate(self._runtime, query, deadline), deadline))

    async def _observed(
        self, stage: str, stream: AsyncGenerator[QueryEvent, None]
    ) -> AsyncGenerator[QueryEvent, None]:
        """The same events; their times go into the metrics."""
        metrics = self._runtime.metrics
        last: float | None = None
        async with aclosing(stream) as events:
            async for event in events:
                if isinstance(event, Token):
                    now = time.monotonic()
                    if last is not None:
                        metrics.between_tokens_seconds.observe(now - last)
                    last = now
                if isinstance(event, Final) and event.usage.first_token_s is not None:
                    metrics.first_token_seconds.labels(stage).observe(event.usage.first_token_s)
                yield event


def _distinct(refs: Sequence[MemoryRef]) -> tuple[MemoryRef, ...]:
    """Memories of a query, each once, in order; raises InvalidArgument where none is named."""
    if not refs:
        raise InvalidArgument("memories", "name at least one")
    return tuple(dict.fromkeys(refs))
