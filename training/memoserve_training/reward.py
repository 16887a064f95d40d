"""What clues are worth by what comes of them: the evidence they find, and the answer in it.

The end result of MemoRAG's feedback (arXiv 2409.05591, section 3) with a retriever as an argument.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

from memoserve_training.data_files import PreferenceRow
from memoserve_training.worlds import Span

# Cormack, Clarke and Buettcher, SIGIR 2009; the server fuses with the same constant.
RRF_CONSTANT: Final = 60.0
_WORD = re.compile(r"\w+")
_SENTENCE = re.compile(r"\S.*?(?:[.!?\u3002\uff01\uff1f]+(?=\s|$)|(?=\n)|$)", re.DOTALL)


class Ranker(Protocol):
    """Scores passages for a query: the higher, the better."""

    def __call__(self, query: str, passages: Sequence[str]) -> Sequence[float]:
        """One score for each of ``passages``."""
        ...


def words_of(text: str) -> list[str]:
    """Words without case or punctuation."""
    return [word.casefold() for word in _WORD.findall(text)]


@dataclass(frozen=True)
class Bm25:
    """Okapi BM25 over the passages of one context (Robertson and Zaragoza, 2009, section 3).

    ``saturation`` is k1, ``length`` is b.
    """

    saturation: float = 1.2
    length: float = 0.75

    def __call__(self, query: str, passages: Sequence[str]) -> list[float]:
        """See Ranker."""
        counted = [Counter(words_of(passage)) for passage in passages]
        sizes = [sum(words.values()) for words in counted]
        mean = max(1.0, sum(sizes) / max(1, len(sizes)))
        asked = set(words_of(query))
        known = {word: sum(word in words for words in counted) for word in asked}
        rarity = {
            word: math.log(1 + (len(passages) - found + 0.5) / (found + 0.5))
            for word, found in known.items()
        }
        scores = []
        for words, size in zip(counted, sizes, strict=True):
            damping = self.saturation * (1 - self.length + self.length * size / mean)
            shares = {w: words[w] * (self.saturation + 1) / (words[w] + damping) for w in asked}
            # In a fixed order: a sum of floats depends on it.
            scores.append(sum(rarity[w] * shares[w] for w in sorted(asked)))
        return scores


def passages_of(text: str, most_words: int) -> list[Span]:
    """Whole sentences in a row, up to ``most_words`` words together; a longer one stands alone."""
    passages: list[Span] = []
    words = 0
    for found in _SENTENCE.finditer(text):
        size = len(_WORD.findall(found.group()))
        if passages and words + size <= most_words:
            passages[-1] = Span(passages[-1].start, found.end())
            words += size
        else:
            passages.append(Span(found.start(), found.end()))
            words = size
    return passages


@dataclass(frozen=True)
class EndResult:
    """Reward of a clue set: evidence recall@``top_k``, and ``answer_weight`` for the answer.

    The question and each clue rank the passages; their ranks are fused. Evidence counts as found
    where a passage found shares characters with it; the answer where its words stand together in
    a passage found.
    """

    ranker: Ranker = field(default_factory=Bm25)
    top_k: int = 3
    passage_words: int = 40
    answer_weight: float = 0.5

    def of(self, row: PreferenceRow, clues: Sequence[str]) -> float:
        """From 0 to 1 + ``answer_weight``."""
        spans = passages_of(row.context, self.passage_words)
        found = [spans[i] for i in self._best([row.question, *clues], row.context, spans)]
        told = [any(_meet(span, passage) for passage in found) for span in row.evidence]
        answer = f" {' '.join(words_of(row.answer))} "
        texts = (f" {' '.join(words_of(row.context[p.start : p.end]))} " for p in found)
        answered = any(answer in text for text in texts)
        return sum(told) / len(told) + self.answer_weight * answered

    def _best(self, queries: Sequence[str], context: str, spans: Sequence[Span]) -> list[int]:
        """Places of the ``top_k`` passages by the sum of 1 / (constant + rank)."""
        texts = [context[span.start : span.end] for span in spans]
        sums = [0.0] * len(spans)
        for query in queries:
            scores = self.ranker(query, texts)
            ranked = sorted(range(len(spans)), key=lambda i: (-scores[i], i))
            # Passages that share nothing with a query are not found by it.
            for rank, i in enumerate((i for i in ranked if scores[i] > 0), start=1):
                sums[i] += 1.0 / (RRF_CONSTANT + rank)
        found = [i for i in range(len(spans)) if sums[i] > 0]
        return sorted(found, key=lambda i: (-sums[i], i))[: self.top_k]


def _meet(one: Span, other: Span) -> bool:
    return one.start < other.end and other.start < one.end


def clues_of(text: str) -> tuple[str, ...]:
    """The lines that were written, each once; empty ones are none."""
    lines = (line.strip() for line in text.split("\n"))
    return tuple(dict.fromkeys(line for line in lines if line))
