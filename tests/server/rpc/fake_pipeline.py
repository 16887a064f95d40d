"""A pipeline that records what it is asked and answers as the test says."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from memoserve.pipeline.values import (
    Committed,
    CreateSpec,
    GenerateQuery,
    Language,
    MemorizeEvent,
    MemorizeHeader,
    MemoryName,
    MemoryRef,
    MemoryStats,
    MemoryView,
    ModelInfo,
    QueryEvent,
    RecallQuery,
    RetrieveQuery,
    ServerInfo,
    TextPiece,
    Tier,
)

STATS = MemoryStats(1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13)


def make_view(memory_id: str = "book", **changes: Any) -> MemoryView:
    """Every field differs from its default."""
    facts: dict[str, Any] = {
        "name": MemoryName("team", memory_id),
        "version": 3,
        "etag": "e3",
        "model": "tiny",
        "ratio": 8,
        "ratios": (4, 8),
        "window": 64,
        "language": Language.ZH,
        "labels": {"kind": "novel"},
        "description": "a book",
        "created_unix_s": 1700000000.25,
        "updated_unix_s": 1700000001.5,
        "tier": Tier.HOST,
        "pinned": True,
        "stats": STATS,
    }
    return MemoryView(**(facts | changes))


INFO = ServerInfo(
    version="1.2.3",
    backend="cpu",
    device="a CPU",
    model=ModelInfo(
        "tiny", "qwen2", "f00d", 64, (2, 4), 4, 4096, 2, 1, 16, "float32", "untrained", True
    ),
    generators=("quote", "engine"),
    default_generator="quote",
    embedder="minilm",
    page_size=16,
    pages_total=100,
    pages_free=60,
    max_message_bytes=4194304,
    max_piece_bytes=1048576,
    max_query_bytes=65536,
)


@dataclass
class FakePipeline:
    """``failure`` is raised by every call, by streams after their events.

    ``hang`` makes a stream wait for ever after its events, ``endless`` makes it repeat them;
    ``permits`` is taken once for each piece; after ``takes`` pieces
    no more are read. ``closed`` is set when a stream or a hanging unary
    call has ended, for whatever reason, and ``cancelled`` tells whether it was cut short.
    """

    healthy: bool = True
    calls: list[tuple[Any, ...]] = field(default_factory=list)
    failure: BaseException | None = None
    views: list[MemoryView] = field(default_factory=lambda: [make_view()])
    next_token: str = ""
    events: tuple[QueryEvent, ...] = ()
    written: tuple[MemorizeEvent, ...] = (Committed(make_view(), 0.5, 7),)
    hang: bool = False
    endless: bool = False
    takes: int | None = None
    permits: asyncio.Semaphore | None = None
    pieces: list[TextPiece] = field(default_factory=list)
    text_ended: int = 0
    deadline: float | None = None
    started: asyncio.Event = field(default_factory=asyncio.Event)
    closed: asyncio.Event = field(default_factory=asyncio.Event)
    cancelled: bool = False

    def info(self) -> ServerInfo:
        self._note("info")
        return INFO

    async def create(self, spec: CreateSpec) -> MemoryView:
        self._note("create", spec)
        return self.views[0]

    async def get(self, ref: MemoryRef) -> MemoryView:
        async for _ in self._stream(("get", ref), (), None):
            raise AssertionError("a unary call has no events")
        return self.views[0]

    async def list(
        self, namespace: str, page_size: int, page_token: str, filter: str
    ) -> tuple[list[MemoryView], str]:
        self._note("list", namespace, page_size, page_token, filter)
        return self.views[:page_size], self.next_token

    async def update(
        self,
        name: MemoryName,
        labels: Mapping[str, str] | None,
        description: str | None,
        etag: str,
    ) -> MemoryView:
        self._note("update", name, labels, description, etag)
        return self.views[0]

    async def delete(self, name: MemoryName, etag: str) -> None:
        self._note("delete", name, etag)

    async def memorize(
        self,
        header: MemorizeHeader,
        pieces: AsyncIterator[TextPiece],
        *,
        deadline: float | None = None,
    ) -> AsyncGenerator[MemorizeEvent, None]:
        self.calls.append(("memorize", header))
        self.started.set()
        if self.permits:
            await self.permits.acquire()
        async for piece in pieces:
            self.pieces.append(piece)
            if len(self.pieces) == self.takes:
                break
            if self.permits:
                await self.permits.acquire()
        self.text_ended += 1
        async with aclosing(self._stream((), self.written, deadline)) as events:
            async for event in events:
                yield event

    def recall(
        self, query: RecallQuery, *, deadline: float | None = None
    ) -> AsyncGenerator[QueryEvent, None]:
        return self._stream(("recall", query), self.events, deadline)

    def retrieve(
        self, query: RetrieveQuery, *, deadline: float | None = None
    ) -> AsyncGenerator[QueryEvent, None]:
        return self._stream(("retrieve", query), self.events, deadline)

    def generate(
        self, query: GenerateQuery, *, deadline: float | None = None
    ) -> AsyncGenerator[QueryEvent, None]:
        return self._stream(("generate", query), self.events, deadline)

    def _note(self, *call: Any) -> None:
        self.calls.append(call)
        if self.failure:
            raise self.failure

    async def _stream(
        self, call: tuple[Any, ...], events: tuple[Any, ...], deadline: float | None
    ) -> AsyncGenerator[Any, None]:
        self.calls.append(call)
        self.deadline = deadline
        self.started.set()
        self.cancelled = True
        try:
            for event in events:
                yield event
            while self.endless:
                for event in events:
                    yield event
            if self.hang:
                await asyncio.Event().wait()
            if self.failure:
                raise self.failure
            self.cancelled = False
        finally:
            await asyncio.sleep(0.02)  # giving pages back takes the engine a step
            self.closed.set()
