"""Where the rows of a step live and what they see: the arguments the ops share.

Shapes: N query rows of B sequences; P pages; S slots a page; H query heads, K kv heads, D head
dim. One layer's cache is ``kv [2, P, K, S, D]``, keys first, stored rotated.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import torch
from torch import Tensor


@dataclass(frozen=True)
class Rotation:
    """Angles of half-split rotary embedding: pair ``i`` with ``i + D/2``.

    ``positions [N]`` integers, ``inv_freq [D/2]`` in float32, or float64 to compute in it.
    ``factor`` scales cosine and sine (yarn's attention factor).
    """

    positions: Tensor
    inv_freq: Tensor
    factor: float = 1.0

    @cached_property
    def cos_sin(self) -> tuple[Tensor, Tensor]:
        """Cosines and sines ``[N, 1, D/2]``, computed from integers, never from a table."""
        angles = self.positions.to(self.inv_freq.dtype)[:, None, None] * self.inv_freq
        return angles.cos() * self.factor, angles.sin() * self.factor


@dataclass(frozen=True)
class PageRows:
    """The first ``rows`` rows of a page table; what is derived is derived once a step."""

    pages: tuple[int, ...]
    rows: int

    @cached_property
    def side_by_side(self) -> bool:
        """The pages ascend without a gap, so that a slice of the pool is a view of them."""
        return all(b - a == 1 for a, b in pairwise(self.pages))

    @cached_property
    def index(self) -> Tensor:
        """The pages as an index tensor."""
        return torch.tensor(self.pages, dtype=torch.int64)

    def full_pages(self, part: Tensor, count: int) -> Tensor:
        """First ``count`` pages of ``part [P, ...]``, in place where they lie side by side."""
        if self.side_by_side:
            return part[self.pages[0] : self.pages[0] + count]
        return part.index_select(0, self.index[:count])


@dataclass(frozen=True)
class SequenceLayout:
    """One sequence's share of a step, as Python numbers.

    Query rows ``[first_row, last_row)`` of the step; its keys are ``memory_rows`` rows in
    ``memory_pages`` and ``window_rows`` rows in ``window_pages``. ``causal``: each query row sees
    the memory and all window columns up to its own, and the rows' columns are consecutive.
    """

    first_row: int
    last_row: int
    memory_pages: tuple[int, ...]
    memory_rows: int
    window_pages: tuple[int, ...]
    window_rows: int
    causal: bool

    @cached_property
    def tables(self) -> tuple[PageRows, PageRows]:
        """Memory and window."""
        return (
            PageRows(self.memory_pages, self.memory_rows),
            PageRows(self.window_pages, self.window_rows),
        )


@dataclass(frozen=True)
class AttentionLayout:
    """Keys and visibility of all query rows of a step.

    Query row ``i`` stands at window column ``columns[i]`` of its sequence and sees every memory
    row and the window columns ``[0, limits[i])`` and ``[starts[i], columns[i]]``; int64 ``[N]``.
    """

    sequences: tuple[SequenceLayout, ...]
    columns: Tensor
    limits: Tensor
    starts: Tensor

    @property
    def rows(self) -> int:
        """Query rows in all."""
        return self.columns.shape[0]

    def visible(self, sequence: SequenceLayout) -> Tensor:
        """Mask ``[rows, memory_rows + window_rows]`` of one sequence, True where a key is seen."""
        part = slice(sequence.first_row, sequence.last_row)
        columns, limits, starts = self.columns[part], self.limits[part], self.starts[part]
        key = torch.arange(sequence.window_rows, device=columns.device)
        own = (key >= starts[:, None]) & (key <= columns[:, None])
        window = own | (key < limits[:, None])
        memory = window.new_ones(columns.shape[0], sequence.memory_rows)
        return torch.cat([memory, window], dim=1)
