"""Puts the hits of several queries over several memories together into one evidence list."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from memoserve.errors import InvalidArgument
from memoserve.retrieval.index import Hit

RRF_CONSTANT = 60.0
"""Dampens the first ranks; the value of Cormack, Clarke and Buettcher, SIGIR 2009."""


@dataclass(frozen=True)
class Located:
    """A hit and the index, by its place in the request, that it was found in."""

    shard: int
    row: int
    score: float

    @property
    def place(self) -> tuple[int, int]:
        """Document order: memories as named, then passages as they stand in the text."""
        return (self.shard, self.row)


@dataclass(frozen=True)
class Fused:
    """A passage that at least one query found.

    ``score`` is what it is ranked by: the best cosine (union) or the reciprocal rank sum (rrf).
    ``query`` is the query that found it with the highest cosine, ``queries`` how many found it.
    """

    shard: int
    row: int
    score: float
    cosine: float
    query: int
    queries: int

    @property
    def place(self) -> tuple[int, int]:
        """Document order: memories as named, then passages as they stand in the text."""
        return (self.shard, self.row)


def merge_shards(per_shard: Sequence[Sequence[Sequence[Hit]]], k: int) -> list[list[Located]]:
    """The ``k`` best of each query over all indexes: ``per_shard[shard][query]`` in, best first.

    All indexes must have been asked the same queries of the same embedder.
    """
    if k < 1:
        raise InvalidArgument("top_k", f"must be positive, not {k}")
    merged: list[list[Located]] = []
    for hits_of_query in zip(*per_shard, strict=True):
        located = [
            Located(shard, hit.row, hit.score)
            for shard, hits in enumerate(hits_of_query)
            for hit in hits
        ]
        merged.append(sorted(located, key=lambda hit: (-hit.score, hit.place))[:k])
    return merged


def fuse_union(per_query: Sequence[Sequence[Located]]) -> list[Fused]:
    """Every passage any query found, once, in document order, scored by its best cosine."""
    return sorted(_by_best_cosine(per_query).values(), key=lambda fused: fused.place)


def fuse_rrf(
    per_query: Sequence[Sequence[Located]], *, constant: float = RRF_CONSTANT
) -> list[Fused]:
    """Reciprocal rank fusion: the sum of 1 / (constant + rank), ranks from 1; best first."""
    sums: dict[tuple[int, int], float] = {}
    for hits in per_query:
        for rank, hit in enumerate(hits, start=1):
            sums[hit.place] = sums.get(hit.place, 0.0) + 1.0 / (constant + rank)
    fused = [
        replace(found, score=sums[place]) for place, found in _by_best_cosine(per_query).items()
    ]
    return sorted(fused, key=lambda found: (-found.score, -found.cosine, found.place))


def cap(
    hits: Sequence[Fused],
    tokens_of: Callable[[Fused], int],
    *,
    max_passages: int = 0,
    max_tokens: int = 0,
) -> list[Fused]:
    """Drop the lowest scores until both limits hold (0 = none); the order given is kept.

    Passages are taken best first; one that no longer fits is passed over, a smaller one after it
    may still fit.
    """
    kept: set[tuple[int, int]] = set()
    tokens = 0
    for hit in sorted(hits, key=lambda found: (-found.score, found.place)):
        if max_passages and len(kept) == max_passages:
            break
        size = tokens_of(hit)
        if max_tokens and tokens + size > max_tokens:
            continue
        kept.add(hit.place)
        tokens += size
    return [hit for hit in hits if hit.place in kept]


def _by_best_cosine(per_query: Sequence[Sequence[Located]]) -> dict[tuple[int, int], Fused]:
    found: dict[tuple[int, int], Fused] = {}
    for query, hits in enumerate(per_query):
        for hit in hits:
            old = found.get(hit.place)
            times = old.queries + 1 if old else 1
            if old and old.cosine >= hit.score:
                found[hit.place] = replace(old, queries=times)
            else:
                found[hit.place] = Fused(hit.shard, hit.row, hit.score, hit.score, query, times)
    return found
