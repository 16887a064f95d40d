"""The extractive generator: answers with sentences of the evidence, word for word."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from memoserve.errors import InvalidArgument
from memoserve.generators.base import (
    AnswerItem,
    AnswerRequest,
    Evidence,
    Finished,
    QuotedSentence,
)
from memoserve.generators.lexical import overlaps
from memoserve.generators.sentences import sentence_spans
from memoserve.retrieval.embedder import Embedder, Vectors


@dataclass(frozen=True)
class QuoteOptions:
    """How sentences are chosen.

    ``lexical_weight`` mixes word overlap (1) with meaning (0). A sentence scoring below
    ``relative_threshold`` times the best one is left out. Only the ``max_candidates`` sentences
    that repeat most of the question are embedded, which bounds the time of one answer.
    """

    max_sentences: int = 3
    relative_threshold: float = 0.75
    lexical_weight: float = 0.4
    max_candidates: int = 64

    def __post_init__(self) -> None:
        for field in ("max_sentences", "max_candidates"):
            if getattr(self, field) < 1:
                raise InvalidArgument(field, f"must be positive, not {getattr(self, field)}")
        for field in ("relative_threshold", "lexical_weight"):
            if not 0.0 <= getattr(self, field) <= 1.0:
                raise InvalidArgument(field, f"must be in [0, 1], not {getattr(self, field)}")


class QuoteGenerator:
    """Streams the sentences that answer best, in the order of the evidence.

    Without a question (a summary) it takes those nearest to the middle of the evidence.
    Nothing is worded anew: every item's text is ``source[start_char:end_char]``.
    Of the sampling only ``max_tokens`` counts, in tokens of the embedder; where a sentence would
    pass it, that one and all that score less are left out.
    """

    def __init__(self, embedder: Embedder, options: QuoteOptions | None = None) -> None:
        self._embedder = embedder
        self._options = options or QuoteOptions()

    @property
    def name(self) -> str:
        """Name that a request chooses it by."""
        return "quote"

    async def answer(self, request: AnswerRequest) -> AsyncGenerator[AnswerItem, None]:
        """Quote; ends with "evidence", with "length" where ``max_tokens`` left a sentence out,
        or with "no_evidence" where there was no sentence to quote.
        """
        sentences = split_evidence(request.evidence)
        if not sentences:
            yield Finished("no_evidence")
            return
        scores = await asyncio.to_thread(self._scores, request.question, sentences)
        best = self._best(scores)
        kept = self._within(request.sampling.max_tokens, best, sentences)
        for index in sorted(kept):
            yield replace(sentences[index], score=scores[index])
        yield Finished("evidence" if len(kept) == len(best) else "length")

    def _scores(self, question: str, sentences: Sequence[QuotedSentence]) -> dict[int, float]:
        """Scores in [0, 1] of the candidates, by their index."""
        lexical = overlaps(question, [sentence.text for sentence in sentences])
        ranked = sorted(range(len(sentences)), key=lambda index: -lexical[index])
        candidates = ranked[: self._options.max_candidates]
        vectors = self._embedder.embed_documents([sentences[index].text for index in candidates])
        cosines = vectors @ self._wanted(question, vectors)
        weight = self._options.lexical_weight
        return {
            index: (1.0 - weight) * max(0.0, float(cosine)) + weight * lexical[index]
            for index, cosine in zip(candidates, cosines, strict=True)
        }

    def _wanted(self, question: str, vectors: Vectors) -> Vectors:
        """The direction to look in, ``[dimension]``; without a question, what most is about."""
        if question.strip():
            (asked,) = self._embedder.embed_queries([question])
            wanted: Vectors = asked
        else:
            mean = vectors.mean(axis=0)
            wanted = mean / max(float(np.linalg.norm(mean)), 1e-12)
        return wanted

    def _best(self, scores: dict[int, float]) -> list[int]:
        """The indices worth quoting, best first; always at least one."""
        ranked = sorted(scores, key=lambda index: (-scores[index], index))
        least = self._options.relative_threshold * scores[ranked[0]]
        return [index for index in ranked if scores[index] >= least][: self._options.max_sentences]

    def _within(
        self, max_tokens: int, best: list[int], sentences: Sequence[QuotedSentence]
    ) -> list[int]:
        """The best ones that fit into ``max_tokens`` together."""
        kept: list[int] = []
        for index in best:
            max_tokens -= self._embedder.count_tokens(sentences[index].text)
            if max_tokens < 0:
                break
            kept.append(index)
        return kept


def split_evidence(evidence: Sequence[Evidence]) -> list[QuotedSentence]:
    """Sentences of the evidence in its order, each wording once, not yet scored."""
    found: dict[str, QuotedSentence] = {}
    for passage in evidence:
        for start, end in sentence_spans(passage.text):
            text = passage.text[start:end]
            start_byte = passage.start_byte + len(passage.text[:start].encode("utf-8"))
            found.setdefault(
                text,
                QuotedSentence(
                    text=text,
                    source_id=passage.source_id,
                    start_char=passage.start_char + start,
                    end_char=passage.start_char + end,
                    start_byte=start_byte,
                    end_byte=start_byte + len(text.encode("utf-8")),
                    memory=passage.memory,
                    score=0.0,
                ),
            )
    return list(found.values())
