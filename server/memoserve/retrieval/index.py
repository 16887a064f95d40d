"""Exact search over the passages of one memory."""

from __future__ import annotations

from dataclasses import dataclass

import faiss
import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load, save

from memoserve.errors import DataLoss, InvalidArgument

_KEY = "vectors"
Matrix = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Hit:
    """A passage found: its row (the order of adding) and the inner product with the query."""

    row: int
    score: float


class PassageIndex:
    """Unit vectors of passages, row i belonging to passage i; search is exact.

    Searching from several threads at once is fine, adding meanwhile is not: a writer adds to a
    ``copy()`` and publishes that.
    """

    def __init__(self, dimension: int) -> None:
        if dimension < 1:
            raise InvalidArgument("dimension", f"must be positive, not {dimension}")
        self._dimension = dimension
        self._flat = faiss.IndexFlatIP(dimension)

    def __len__(self) -> int:
        """Number of passages."""
        return int(self._flat.ntotal)

    @property
    def dimension(self) -> int:
        """Length of a vector."""
        return self._dimension

    def add(self, vectors: Matrix) -> None:
        """Append rows, ``[passages, dimension]`` float32.

        Raises:
            InvalidArgument: another shape or dtype, or a value that is not finite.
        """
        self._flat.add(self._checked("vectors", vectors))

    def search(self, queries: Matrix, k: int) -> list[list[Hit]]:
        """The ``k`` best rows of each query, ``[queries, dimension]``, best first.

        Equal scores come in row order; fewer than ``k`` where the index is smaller.
        """
        if k < 1:
            raise InvalidArgument("top_k", f"must be positive, not {k}")
        queries = self._checked("queries", queries)
        if not len(queries) or not len(self):
            return [[] for _ in range(len(queries))]
        # Counts for the calling thread and for faiss alone: no second pool beside the engine's.
        faiss.omp_set_num_threads(1)
        scores, rows = self._flat.search(queries, min(k, len(self)))
        return [
            sorted(
                (Hit(int(row), float(score)) for row, score in zip(*found, strict=True)),
                key=lambda hit: (-hit.score, hit.row),
            )
            for found in zip(rows, scores, strict=True)
        ]

    def vectors(self) -> Matrix:
        """A copy of all rows, ``[passages, dimension]``."""
        rows: Matrix = self._flat.reconstruct_n(0, len(self))
        return rows.reshape(len(self), self._dimension)

    def copy(self) -> PassageIndex:
        """An independent index with the same rows."""
        other = PassageIndex(self._dimension)
        other.add(self.vectors())
        return other

    def encode(self) -> bytes:
        """The rows as safetensors: data only, nothing that is run when read."""
        return save({_KEY: self.vectors()})

    @classmethod
    def decode(cls, data: bytes, dimension: int) -> PassageIndex:
        """Rebuild an index of ``dimension`` from ``encode``'s bytes.

        Raises:
            DataLoss: the bytes are no such index, or one of another dimension.
        """
        try:
            tensors = load(data)
        except (SafetensorError, ValueError, KeyError) as error:
            raise DataLoss(f"the passage index cannot be read: {error}") from error
        if list(tensors) != [_KEY]:
            raise DataLoss("the passage index holds other tensors than its vectors")
        index = cls(dimension)
        try:
            index.add(tensors[_KEY])
        except InvalidArgument as error:
            raise DataLoss(f"the passage index is damaged: {error.description}") from error
        return index

    def _checked(self, field: str, matrix: Matrix) -> Matrix:
        if matrix.dtype != np.float32 or matrix.ndim != 2 or matrix.shape[1] != self._dimension:
            raise InvalidArgument(
                field,
                f"must be float32 [n, {self._dimension}], not {matrix.dtype} {list(matrix.shape)}",
            )
        if not np.isfinite(matrix).all():
            raise InvalidArgument(field, "holds a value that is not finite")
        return np.ascontiguousarray(matrix)
