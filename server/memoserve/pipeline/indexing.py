"""Passages of the text being memorized, cut and embedded beside the engine's work."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

import numpy as np

from memoserve.pipeline.library import no_vectors
from memoserve.pipeline.runtime import Runtime
from memoserve.pipeline.sources import SourceTexts
from memoserve.pipeline.values import TextPiece
from memoserve.retrieval.chunker import Chunk, StreamChunker
from memoserve.retrieval.index import Matrix

A = TypeVar("A")
T = TypeVar("T")

# Pieces not cut and batches not embedded yet; beyond them the text is held back.
MAX_UNCUT = 8
MAX_WAITING = 8


class Indexer:
    """Cuts each source into passages and embeds them in batches, in order.

    ``on_batch`` is called after each batch.
    """

    def __init__(self, runtime: Runtime, enabled: bool, on_batch: Callable[[], None]) -> None:
        self._embedder = runtime.embedder
        self._executor = runtime.indexing
        self._batch = runtime.limits.embed_batch
        self._enabled = enabled
        self._on_batch = on_batch
        self._opened = 0
        self._text: asyncio.Queue[StreamChunker | str | None] = asyncio.Queue(MAX_UNCUT)
        self._batches: asyncio.Queue[list[Chunk] | None] = asyncio.Queue(MAX_WAITING)
        self._waiting: list[Chunk] = []
        self.chunks: list[Chunk] = []
        self._vectors: list[Matrix] = []

    @property
    def count(self) -> int:
        """Passages embedded so far."""
        return len(self.chunks)

    @property
    def vectors(self) -> Matrix:
        """All vectors, ``[passages, dimension]``."""
        return np.concatenate([no_vectors(self._embedder.dimension), *self._vectors])

    async def feed(self, piece: TextPiece, sources: SourceTexts) -> None:
        """Take a piece of the open source."""
        if not self._enabled:
            return
        if sources.opened != self._opened:
            self._opened = sources.opened
            source_id, char, byte = sources.place
            count = self._embedder.count_tokens
            await self._text.put(StreamChunker(source_id, count, start_char=char, start_byte=byte))
        await self._text.put(piece.text)

    async def finish(self) -> None:
        """The text has ended."""
        await self._text.put(None)

    async def run(self) -> None:
        """Cut and embed until the text has ended and all of it is embedded."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._cut())
            group.create_task(self._embed())

    async def _cut(self) -> None:
        chunker: StreamChunker | None = None
        while True:
            item = await self._text.get()
            if isinstance(item, str):
                if chunker is not None:
                    await self._take(await self._beside(chunker.feed, item))
                continue
            if chunker is not None:
                await self._take(await self._beside(StreamChunker.finish, chunker))
            chunker = item
            if item is None:
                break
        if self._waiting:
            await self._batches.put(self._waiting)
        await self._batches.put(None)

    async def _take(self, chunks: list[Chunk]) -> None:
        self._waiting += chunks
        while len(self._waiting) >= self._batch:
            await self._batches.put(self._waiting[: self._batch])
            self._waiting = self._waiting[self._batch :]

    async def _embed(self) -> None:
        while (batch := await self._batches.get()) is not None:
            texts = [chunk.text for chunk in batch]
            self._vectors.append(await self._beside(self._embedder.embed_documents, texts))
            self.chunks += batch
            self._on_batch()

    async def _beside(self, work: Callable[[A], T], argument: A) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._executor, work, argument)
