"""A stand-in for a server whose memories are perfect: each knows the texts written into it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, TypeVar

from benchmarks.quality.scores import Place
from benchmarks.quality.server import Asker, NotHeldError, Recalled
from memoserve_client import MemoryStats
from memoserve_training.worlds import Document, Question

T = TypeVar("T")

WINDOW = 64
AROUND = 3
COUNTS = ("memory_rows", "window_rows", "pages", "wasted_slots", "kv_bytes", "full_kv_bytes")
COUNTS += ("stored_bytes", "text_bytes", "sources", "passages")  # type: ignore[assignment]


@dataclass
class PerfectAsker(Asker):
    """Two tokens a word. ``documents``: those whose questions it can be asked.

    The question alone finds the first gold sentence, and the others last; a clue finds itself,
    where it is told. ``quotes``: gold sentences that a memory quotes at most. ``drafts``: those
    asked for a draft.
    """

    documents: Sequence[Document]
    capacity_tokens: int = 100_000
    quotes: int = 9
    drafts: list[str] = field(default_factory=list)
    texts: dict[str, str] = field(default_factory=dict)
    written: list[tuple[str, int, bool]] = field(default_factory=list)

    def __post_init__(self) -> None:
        model: Any = SimpleNamespace(window=WINDOW, default_ratio=4)
        self.info: Any = SimpleNamespace(model=model)
        self._lock = threading.Lock()

    def each(self, jobs: Sequence[Callable[[], T]], done: Callable[[], None]) -> list[T]:
        results = []
        for job in jobs:
            results.append(job())
            done()
        return results

    def holds(self, length: int, ratio: int) -> bool:
        return length <= self.capacity_tokens * max(ratio, 1)

    def write(self, name: str, text: str, ratio: int, *, index: bool = False) -> MemoryStats:
        self.texts[name] = text
        self.written.append((name, ratio, index))
        if not self.holds(self._tokens(name), ratio):
            raise NotHeldError(name)
        return self._stats(name)

    def append(
        self, name: str, text: str, ratio: int, source: str, *, index: bool = False
    ) -> MemoryStats:
        self.texts[name] += f"\n{text}"
        return self._stats(name)

    def forget(self, name: str) -> None:
        del self.texts[name]

    def _tokens(self, name: str) -> int:
        return AROUND + 2 * len(self.texts[name].split())

    def _stats(self, name: str) -> MemoryStats:
        tokens = self._tokens(name)
        counts: dict[str, int] = dict.fromkeys(COUNTS, 0)
        return MemoryStats(
            raw_tokens=tokens,
            windows_closed=tokens // WINDOW,
            capacity_tokens=self.capacity_tokens,
            **counts,
        )

    def _known(self, name: str, question: str) -> tuple[Document, Question] | None:
        for document in self.documents:
            for asked in document.questions:
                if asked.text == question and document.text in self.texts[name]:
                    return document, asked
        return None

    def code(self, name: str, question: str) -> str:
        known = self._known(name, question)
        return f" {known[1].answer}." if known else "0000"

    def draft(self, name: str, question: str, max_tokens: int = 16) -> str:
        self.drafts.append(name)
        return self.code(name, question)

    def recall(self, name: str, question: str, clue_tokens: int) -> Recalled:
        known = self._known(name, question)
        if known is None:
            return Recalled((), (), "")
        quotes = known[0].quotes(known[1])[: self.quotes]
        return Recalled(quotes, (*quotes, *known[1].surrogates), known[1].answer)

    def best(self, name: str, question: str, clues: Sequence[str], top_k: int) -> list[Place]:
        text = self.texts[name]
        known = self._known(name, question)
        assert known is not None, "evidence is searched in the text that the question is about"
        gold = known[0].quotes(known[1])
        hits = [gold[0], *clues]
        if not clues:
            told = [text[span.start : span.end] for span in known[0].sentences]
            hits += [*(line for line in told if line not in gold), *gold]
        places = [Place(text.find(hit), text.find(hit) + len(hit)) for hit in hits]
        return list(dict.fromkeys(place for place in places if place.start >= 0))
