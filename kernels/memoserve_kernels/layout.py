"""Where the rows of a step live and what they see: the arguments the ops share.

Shapes: N query rows of B sequences; P pages; S slots a page; H query heads, K kv heads, D head
dim. One layer's cache is ``kv [2, P, K, S, D]``, keys first, stored rotated.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import pairwise
from typing import Any, TypeAlias, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

# Brings integers of a step to the device, int32 or int64 as they are.
Upload: TypeAlias = Callable[[NDArray[Any]], Tensor]
T = TypeVar("T")


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
class MemoryPages:
    """Memory rows in 8 bits, beside the cache that holds the window rows.

    ``data [2, P, K, S, D]`` int8 or float8_e4m3fn, ``scales [2, P, K, S]`` float32; of all layers,
    both with an L in front. A row's value is ``data * scale``. Scales are powers of two, so that
    the value is exact in bfloat16 and a row can leave the cache and come back unchanged. S may
    differ from the page size of the cache: the same bytes hold more rows.
    """

    data: Tensor
    scales: Tensor

    def layer(self, index: int) -> MemoryPages:
        """One layer of all."""
        return MemoryPages(self.data[index], self.scales[index])


@dataclass(frozen=True)
class AttentionLayout:
    """Keys and visibility of the query rows of a step.

    Query row ``i`` stands at window column ``columns[i]`` of its sequence and sees every memory
    row and the window columns ``[0, limits[i])`` and ``[starts[i], columns[i]]``; int64 ``[N]``.
    Rows that no sequence names are neither computed nor written. ``upload`` brings the tables that
    a backend derives from the sequences to the device of ``columns``.
    """

    sequences: tuple[SequenceLayout, ...]
    columns: Tensor
    limits: Tensor
    starts: Tensor
    upload: Upload | None = None
    _derived: dict[Hashable, Any] = field(default_factory=dict, repr=False, compare=False)

    @property
    def rows(self) -> int:
        """Query rows in all."""
        return self.columns.shape[0]

    def once(self, key: Hashable, make: Callable[[], T]) -> T:
        """What a backend derives from this layout: made at the first call, shared by all layers."""
        if key not in self._derived:
            self._derived[key] = make()
        made: T = self._derived[key]
        return made

    def to_device(self, values: NDArray[Any]) -> Tensor:
        """Integers on the device of ``columns``."""
        if self.upload is not None:
            return self.upload(values)
        return torch.from_numpy(np.ascontiguousarray(values)).to(self.columns.device)

    def divided(
        self, key: Hashable, belongs: Callable[[SequenceLayout], bool]
    ) -> tuple[AttentionLayout, AttentionLayout]:
        """The sequences that ``belongs`` names, and the others; made once a ``key``."""
        return self.once(("divided", key), lambda: self._divide(belongs))

    def _divide(
        self, belongs: Callable[[SequenceLayout], bool]
    ) -> tuple[AttentionLayout, AttentionLayout]:
        named = [belongs(sequence) for sequence in self.sequences]
        both = (
            tuple(s for s, own in zip(self.sequences, named, strict=True) if own is wanted)
            for wanted in (True, False)
        )
        first, second = (replace(self, sequences=part, _derived={}) for part in both)
        return first, second

    def visible(self, sequence: SequenceLayout) -> Tensor:
        """Mask ``[rows, memory_rows + window_rows]`` of one sequence, True where a key is seen."""
        part = slice(sequence.first_row, sequence.last_row)
        columns, limits, starts = self.columns[part], self.limits[part], self.starts[part]
        key = torch.arange(sequence.window_rows, device=columns.device)
        own = (key >= starts[:, None]) & (key <= columns[:, None])
        window = own | (key < limits[:, None])
        memory = window.new_ones(columns.shape[0], sequence.memory_rows)
        return torch.cat([memory, window], dim=1)
