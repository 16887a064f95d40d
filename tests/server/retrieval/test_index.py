from __future__ import annotations

import numpy as np
import pytest
from safetensors.numpy import save

from memoserve.errors import DataLoss, InvalidArgument
from memoserve.retrieval.index import Matrix, PassageIndex


def unit_rows(seed: int, count: int, dimension: int) -> Matrix:
    rows = np.random.default_rng(seed).normal(size=(count, dimension)).astype(np.float32)
    normed: Matrix = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return normed


@pytest.mark.parametrize(("count", "dimension", "k"), [(1, 3, 5), (63, 8, 3), (500, 384, 10)])
def test_search_is_exact(count: int, dimension: int, k: int) -> None:
    rows, queries = unit_rows(1, count, dimension), unit_rows(2, 5, dimension)
    index = PassageIndex(dimension)
    for part in np.array_split(rows, 3):
        index.add(part)
    assert len(index) == count
    scores = queries.astype(np.float64) @ rows.astype(np.float64).T
    for found, exact in zip(index.search(queries, k), scores, strict=True):
        assert [hit.row for hit in found] == list(np.argsort(-exact)[:k])
        np.testing.assert_allclose(
            [hit.score for hit in found], np.sort(exact)[::-1][:k], atol=1e-6
        )


def test_equal_scores_come_in_row_order() -> None:
    index = PassageIndex(4)
    index.add(np.tile(unit_rows(3, 1, 4), (6, 1)))
    assert [hit.row for hit in index.search(unit_rows(3, 1, 4), 6)[0]] == list(range(6))


def test_nothing_to_search_gives_nothing() -> None:
    index = PassageIndex(4)
    assert index.search(unit_rows(1, 2, 4), 3) == [[], []]
    index.add(unit_rows(1, 2, 4))
    assert index.search(np.empty((0, 4), np.float32), 3) == []


def test_encoded_index_comes_back_the_same() -> None:
    index = PassageIndex(16)
    index.add(unit_rows(4, 33, 16))
    again = PassageIndex.decode(index.encode(), 16)
    np.testing.assert_array_equal(again.vectors(), index.vectors())
    queries = unit_rows(5, 3, 16)
    assert again.search(queries, 7) == index.search(queries, 7)
    assert index.encode() == again.encode()
    assert len(PassageIndex.decode(PassageIndex(16).encode(), 16)) == 0


def test_a_copy_is_independent() -> None:
    index = PassageIndex(4)
    index.add(unit_rows(1, 2, 4))
    copy = index.copy()
    copy.add(unit_rows(2, 1, 4))
    assert (len(index), len(copy)) == (2, 3)


BAD = [
    pytest.param(np.zeros((2, 5), np.float32), id="dimension"),
    pytest.param(np.zeros((4,), np.float32), id="one-axis"),
    pytest.param(np.zeros((2, 4), np.float64), id="float64"),
    pytest.param(np.array([[0, 1, np.nan, 0]], np.float32), id="nan"),
    pytest.param(np.array([[0, 1, np.inf, 0]], np.float32), id="inf"),
]


@pytest.mark.parametrize("matrix", BAD)
def test_bad_vectors_are_refused(matrix: Matrix) -> None:
    index = PassageIndex(4)
    index.add(unit_rows(1, 2, 4))
    with pytest.raises(InvalidArgument) as caught:
        index.add(matrix)
    assert caught.value.field == "vectors"
    with pytest.raises(InvalidArgument) as caught:
        index.search(matrix, 1)
    assert caught.value.field == "queries"
    with pytest.raises(DataLoss):
        PassageIndex.decode(save({"vectors": matrix}), 4)
    assert len(index) == 2


def test_damaged_bytes_are_refused() -> None:
    index = PassageIndex(4)
    index.add(unit_rows(1, 9, 4))
    data = index.encode()
    for damaged in (b"", data[:20], data[:-1], b"\xff" * 64, save({"other": index.vectors()})):
        with pytest.raises(DataLoss):
            PassageIndex.decode(damaged, 4)


def test_k_and_dimension_are_checked() -> None:
    with pytest.raises(InvalidArgument):
        PassageIndex(0)
    with pytest.raises(InvalidArgument) as caught:
        PassageIndex(4).search(unit_rows(1, 1, 4), 0)
    assert caught.value.field == "top_k"


def test_hits_are_plain_numbers() -> None:
    index = PassageIndex(4)
    index.add(unit_rows(1, 1, 4))
    (hit,) = index.search(unit_rows(1, 1, 4), 1)[0]
    assert hit.score == pytest.approx(1.0)
    assert (type(hit.row), type(hit.score)) == (int, float)
