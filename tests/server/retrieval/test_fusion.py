from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memoserve.errors import InvalidArgument
from memoserve.retrieval.fusion import (
    Fused,
    Located,
    cap,
    fuse_rrf,
    fuse_union,
    merge_shards,
)
from memoserve.retrieval.index import Hit

# Two queries over two memories.
SHARDS = [
    [[Hit(4, 0.9), Hit(1, 0.5)], [Hit(1, 0.8), Hit(2, 0.1)]],
    [[Hit(0, 0.7), Hit(3, 0.6)], [Hit(0, 0.8), Hit(9, 0.3)]],
]
MERGED = [
    [Located(0, 4, 0.9), Located(1, 0, 0.7), Located(1, 3, 0.6)],
    [Located(0, 1, 0.8), Located(1, 0, 0.8), Located(1, 9, 0.3)],
]


def test_shards_are_merged_by_score_then_document_order() -> None:
    assert merge_shards(SHARDS, 3) == MERGED


def test_merging_needs_the_same_queries_and_a_positive_k() -> None:
    with pytest.raises(ValueError):
        merge_shards([SHARDS[0], SHARDS[1][:1]], 3)
    with pytest.raises(InvalidArgument):
        merge_shards(SHARDS, 0)


def test_union_is_every_passage_once_in_document_order() -> None:
    assert fuse_union(MERGED) == [
        Fused(0, 1, 0.8, 0.8, query=1, queries=1),
        Fused(0, 4, 0.9, 0.9, query=0, queries=1),
        Fused(1, 0, 0.8, 0.8, query=1, queries=2),
        Fused(1, 3, 0.6, 0.6, query=0, queries=1),
        Fused(1, 9, 0.3, 0.3, query=1, queries=1),
    ]


def test_rrf_sums_reciprocal_ranks() -> None:
    fused = fuse_rrf(MERGED)
    assert [hit.place for hit in fused] == [(1, 0), (0, 4), (0, 1), (1, 3), (1, 9)]
    assert [hit.score for hit in fused] == pytest.approx(
        [1 / 62 + 1 / 62, 1 / 61, 1 / 61, 1 / 63, 1 / 63]
    )
    assert fused[0].cosine == 0.8
    assert fuse_rrf(MERGED, constant=1.0)[0].score == pytest.approx(2 / 3)


def test_an_earlier_query_keeps_a_tie() -> None:
    tied = [[Located(0, 5, 0.4)], [Located(0, 5, 0.4)]]
    assert fuse_union(tied) == [Fused(0, 5, 0.4, 0.4, query=0, queries=2)]


TOKENS = {(0, 1): 10, (0, 4): 50, (1, 0): 10, (1, 3): 10, (1, 9): 5}


@pytest.mark.parametrize(
    ("max_passages", "max_tokens", "places"),
    [
        (0, 0, [(0, 1), (0, 4), (1, 0), (1, 3), (1, 9)]),
        (2, 0, [(0, 1), (0, 4)]),
        (0, 70, [(0, 1), (0, 4), (1, 0)]),
        (0, 49, [(0, 1), (1, 0), (1, 3), (1, 9)]),  # the best one is too long by itself
        (1, 49, [(0, 1)]),
        (0, 4, []),
    ],
)
def test_cap_drops_the_lowest_scores_and_keeps_the_order(
    max_passages: int, max_tokens: int, places: list[tuple[int, int]]
) -> None:
    kept = cap(
        fuse_union(MERGED),
        lambda hit: TOKENS[hit.place],
        max_passages=max_passages,
        max_tokens=max_tokens,
    )
    assert [hit.place for hit in kept] == places


@given(
    st.lists(
        st.lists(
            st.builds(Located, st.integers(0, 2), st.integers(0, 9), st.floats(-1, 1)),
            max_size=6,
            unique_by=lambda hit: hit.place,
        ),
        max_size=5,
    ),
    st.integers(0, 6),
    st.integers(0, 40),
)
def test_fusions_hold_the_same_passages_and_caps_hold(
    per_query: list[list[Located]], max_passages: int, max_tokens: int
) -> None:
    union, rrf = fuse_union(per_query), fuse_rrf(per_query)
    assert {hit.place for hit in union} == {hit.place for hits in per_query for hit in hits}
    assert sorted(hit.place for hit in rrf) == [hit.place for hit in union]
    assert [hit.score for hit in rrf] == sorted((hit.score for hit in rrf), reverse=True)
    for fused in (union, rrf):
        kept = cap(fused, lambda hit: hit.row, max_passages=max_passages, max_tokens=max_tokens)
        assert [hit for hit in fused if hit in kept] == kept
        assert not max_passages or len(kept) <= max_passages
        assert not max_tokens or sum(hit.row for hit in kept) <= max_tokens
