"""A whole server without its edge, on a random model of some thousand parameters."""

from __future__ import annotations

import asyncio
import random
import re
import threading
import zlib
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from memoserve.cli.assemble import Assembled, Parts, put_together
from memoserve.config import ServerConfig
from memoserve.engine.engine import Engine
from memoserve.models.tokenizer import TextTokenizer
from memoserve.pipeline.contents import WINDOW_PART, Contents, read_contents
from memoserve.pipeline.runtime import Limits
from memoserve.pipeline.service import MemoPipeline
from memoserve.pipeline.values import (
    Committed,
    Final,
    GenerateQuery,
    MemorizeEvent,
    MemorizeHeader,
    MemoryName,
    MemoryRef,
    QueryEvent,
    RecallQuery,
    RetrieveQuery,
    Task,
    TextPiece,
)
from memoserve.retrieval.embedder import Vectors
from tests.server.fixtures import tiny_model

WINDOW = 32
POSITIONS = 8192
WORDS = re.findall(
    r"\S+",
    "amber anchor barley bridge candle cellar copper daughter engine feather garden harbour iron "
    "jacket kettle ladder lantern market needle orchard paper quarry river saddle thimble "
    "umbrella valley window yarn zinc Größe naïve 数据 mill's re-use 42",
)


def make_text(sentences: int, seed: int = 0) -> str:
    """Sentences of random words, a paragraph every fifth."""
    draw = random.Random(seed)
    parts = []
    for number in range(sentences):
        words = " ".join(draw.choices(WORDS, k=draw.randint(6, 12)))
        parts.append(words.capitalize() + (".\n\n" if number % 5 == 4 else ". "))
    return "".join(parts).strip()


def cut(text: str, seed: int, most: int = 40) -> list[str]:
    """A random split of a text into pieces, some of them empty."""
    draw = random.Random(seed)
    pieces = []
    while text:
        size = draw.randint(0, most)
        pieces.append(text[:size])
        text = text[size:]
    return pieces


class WordEmbedder:
    """Hashes each word to an axis. While ``gate`` is clear, documents wait."""

    name = "words"
    dimension = 64
    max_tokens = 256

    def __init__(self, fingerprint: str = "words-1") -> None:
        self.fingerprint = fingerprint
        self.gate = threading.Event()
        self.gate.set()
        self.batches = 0

    def count_tokens(self, text: str) -> int:
        return len(text.split()) + 2

    def embed_documents(self, texts: Sequence[str]) -> Vectors:
        assert self.gate.wait(30)
        self.batches += 1
        return np.stack([self._one(text) for text in texts])

    def embed_queries(self, texts: Sequence[str]) -> Vectors:
        return np.stack([self._one(text) for text in texts])

    def _one(self, text: str) -> Vectors:
        vector = np.zeros(self.dimension, np.float32)
        for word in text.lower().replace(".", " ").replace("?", " ").split():
            vector[zlib.crc32(word.encode()) % self.dimension] += 1.0
        norm = float(np.linalg.norm(vector))
        return vector / norm if norm else vector


# 1,024 entries of plain English: the model in the box may get another without touching the tests.
TOKENIZER = Path(__file__).parents[1] / "tokenizer"
_TOKENIZER: list[TextTokenizer] = []


def make_parts(
    *,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    fingerprint: str = "model-1",
    generation: dict[str, Any] | None = None,
    trusted: bool = True,
    **config: Any,
) -> Parts:
    """A random model behind the tokenizer of the tests."""
    if not _TOKENIZER:
        _TOKENIZER.append(TextTokenizer.from_directory(TOKENIZER))
    shape: dict[str, Any] = {
        "vocab_size": 1024,
        "max_position_embeddings": POSITIONS,
        "beacon_window": WINDOW,
        "beacon_stride": WINDOW,
        "beacon_ratio": [2, 4, 8],
        "memoserve_clues_trusted": trusted,
    }
    model = tiny_model(seed=seed, dtype=dtype, **(shape | config))
    model = replace(model, fingerprint=fingerprint, generation=generation or {})
    return Parts(model, _TOKENIZER[0], WordEmbedder())


@dataclass
class House:
    """A running pipeline, with short ways to use it and to look into it."""

    assembled: Assembled
    embedder: WordEmbedder

    @property
    def pipeline(self) -> MemoPipeline:
        return self.assembled.pipeline

    async def engine(self, look: Any) -> Any:
        """Run a function on the engine's thread."""
        return await asyncio.wrap_future(self.assembled.runtime.worker.call(look))

    async def free_pages(self) -> int:
        """Free pages once all commands so far have been run."""
        free: int = await self.engine(lambda engine: engine.pool.num_free)
        return free

    # -- writing ----------------------------------------------------------------------------

    async def events(
        self, name: str, text: str | Iterable[str | TextPiece], **header: Any
    ) -> list[MemorizeEvent]:
        written = self.pipeline.memorize(
            MemorizeHeader(named(name), **header), pieces_of(text), deadline=None
        )
        return [event async for event in written]

    async def memorize(
        self, name: str, text: str | Iterable[str | TextPiece], **header: Any
    ) -> Committed:
        last = (await self.events(name, text, **header))[-1]
        assert isinstance(last, Committed)
        return last

    # -- asking -----------------------------------------------------------------------------

    async def recall(self, *names: str, query: str = "which bridge?", **more: Any) -> list[Any]:
        asked = RecallQuery(refs(*names), query, **more)
        return [event async for event in self.pipeline.recall(asked)]

    async def retrieve(self, *names: str, query: str = "which bridge?", **more: Any) -> list[Any]:
        asked = RetrieveQuery(refs(*names), query, **more)
        return [event async for event in self.pipeline.retrieve(asked)]

    async def generate(self, *names: str, query: str = "which bridge?", **more: Any) -> list[Any]:
        asked = GenerateQuery(refs(*names), query, **more)
        return [event async for event in self.pipeline.generate(asked)]

    async def answer(self, *names: str, query: str = "which bridge?", **more: Any) -> str:
        """The greedy answer of the memory alone."""
        return final(await self.generate(*names, query=query, task=Task.MEMORY_ONLY, **more)).text

    # -- looking in -------------------------------------------------------------------------

    def contents(self, name: str, version: int | None = None) -> Contents:
        return read_contents(self.assembled.runtime.store.get(named(name), version))

    def ids(self, name: str) -> list[int]:
        """All token ids a memory was fed."""
        record = self.assembled.runtime.store.get(named(name))
        runs = [
            self.assembled.runtime.store.load_tensors(record, run.part)["ids"]
            for run in self.contents(name).token_runs
        ]
        ids: list[int] = torch.cat(runs).tolist()
        return ids

    def rows(self, name: str) -> Tensor:
        """All stored keys and values: closed windows', then the open one's."""
        store, contents = self.assembled.runtime.store, self.contents(name)
        record = store.get(named(name))
        parts = [*(run.part for run in contents.memory_runs), WINDOW_PART]
        return torch.cat([store.load_tensors(record, part)["kv"] for part in parts])

    async def check_clean(self) -> None:
        """Nothing runs, nothing is pinned, and every page belongs to a known memory."""
        if not self.pipeline.healthy:
            return
        residents = self.assembled.runtime.residents

        def look(engine: Engine) -> None:
            engine.check_integrity()
            assert not engine._sequences
            known = [entry.handle for entry in residents._entries.values()]
            for handle in engine._admission.handles:
                assert handle.pins == 0, "a memory stayed pinned"
                assert handle in known, "a memory is held by nobody"

        await self.engine(look)
        assert all(entry.users == 0 for entry in residents._entries.values())
        for view in (await self.pipeline.list("default", 1000, "", ""))[0]:
            await self.pipeline.delete(view.name, "")
        used = await self.engine(lambda engine: engine.pool.num_used)
        assert used == 0, f"{used} pages are left when all memories are gone"


@asynccontextmanager
async def open_house(
    data_dir: Path, parts: Parts | None = None, **config: Any
) -> AsyncIterator[House]:
    """A house that is checked to be clean before it closes, unless its engine is down."""
    parts = parts or make_parts()
    settings: dict[str, Any] = {"num_pages": 1024, "page_size": 4, "step_target_s": 0.05}
    assembled = put_together(
        ServerConfig(data_dir, **(settings | config)), parts, Limits(embed_batch=2)
    )
    embedder = parts.embedder
    assert isinstance(embedder, WordEmbedder)
    house = House(assembled, embedder)
    try:
        yield house
        if house.pipeline.healthy:
            await settle(house)
    finally:
        embedder.gate.set()
        await asyncio.to_thread(assembled.close)


async def settle(house: House) -> None:
    """Wait for what was cancelled without being awaited, then check."""
    for _ in range(200):
        if not await house.engine(lambda engine: engine._sequences):
            break
        await asyncio.sleep(0.01)


def named(name: str) -> MemoryName:
    return MemoryName("default", name)


def refs(*names: str) -> tuple[MemoryRef, ...]:
    """``name`` or ``name@version``."""
    found = []
    for name in names:
        memory, _, version = name.partition("@")
        found.append(MemoryRef(named(memory), int(version) if version else None))
    return tuple(found)


async def pieces_of(text: str | Iterable[str | TextPiece]) -> AsyncIterator[TextPiece]:
    for piece in [text] if isinstance(text, str) else text:
        yield piece if isinstance(piece, TextPiece) else TextPiece("book", piece)


def final(events: Sequence[QueryEvent]) -> Final:
    last = events[-1]
    assert isinstance(last, Final)
    assert not any(isinstance(event, Final) for event in events[:-1])
    return last


def of_kind(events: Iterable[Any], kind: type) -> list[Any]:
    return [event for event in events if isinstance(event, kind)]


def files_of(data_dir: Path) -> set[str]:
    """Every file of a store, by its path in there."""
    return {str(p.relative_to(data_dir)) for p in data_dir.rglob("*") if p.is_file()}
