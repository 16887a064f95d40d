"""Passages of the text being memorized, embedded beside the engine's work."""

from __future__ import annotations

import asyncio

import numpy as np

from memoserve.pipeline.library import no_vectors
from memoserve.pipeline.runtime import Runtime
from memoserve.pipeline.sources import SourceTexts
from memoserve.pipeline.values import TextPiece
from memoserve.retrieval.chunker import Chunk, StreamChunker
from memoserve.retrieval.index import Matrix

# Batches cut but not embedded yet; beyond it the text is held back.
MAX_WAITING = 8


class Indexer:
    """Cuts each source into passages and embeds them in batches, in order."""

    def __init__(self, runtime: Runtime, enabled: bool) -> None:
        self._embedder = runtime.embedder
        self._batch = runtime.limits.embed_batch
        self._enabled = enabled
        self._chunker: StreamChunker | None = None
        self._opened = 0
        self._waiting: list[Chunk] = []
        self._queue: asyncio.Queue[list[Chunk] | None] = asyncio.Queue(MAX_WAITING)
        self.chunks: list[Chunk] = []
        self._vectors: list[Matrix] = []

    @property
    def count(self) -> int:
        """Passages embedded so far."""
        return sum(len(part) for part in self._vectors)

    @property
    def vectors(self) -> Matrix:
        """All vectors, ``[passages, dimension]``."""
        return np.concatenate([no_vectors(self._embedder.dimension), *self._vectors])

    async def feed(self, piece: TextPiece, sources: SourceTexts) -> None:
        """Take a piece of the open source."""
        if not self._enabled:
            return
        if sources.opened != self._opened:
            await self._close_source()
            self._opened = sources.opened
            source_id, start_char, start_byte = sources.place
            self._chunker = StreamChunker(
                source_id,
                self._embedder.count_tokens,
                start_char=start_char,
                start_byte=start_byte,
            )
        if self._chunker is not None:
            await self._take(await asyncio.to_thread(self._chunker.feed, piece.text))

    async def _close_source(self) -> None:
        if self._chunker is not None:
            await self._take(await asyncio.to_thread(self._chunker.finish))
            self._chunker = None

    async def _take(self, chunks: list[Chunk]) -> None:
        self._waiting += chunks
        while len(self._waiting) >= self._batch:
            await self._queue.put(self._waiting[: self._batch])
            self._waiting = self._waiting[self._batch :]

    async def finish(self) -> None:
        """The text has ended: embed the rest."""
        await self._close_source()
        if self._waiting:
            await self._queue.put(self._waiting)
        await self._queue.put(None)

    async def run(self) -> None:
        """Embed batch after batch until ``finish``."""
        while (batch := await self._queue.get()) is not None:
            texts = [chunk.text for chunk in batch]
            self._vectors.append(await asyncio.to_thread(self._embedder.embed_documents, texts))
            self.chunks += batch
