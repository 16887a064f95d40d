"""Plans of ``paged_decode`` on the device: one buffer of integers, and room for partial results."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from memoserve_kernels.decode_plan import ITEM_FIELDS, DecodePlan, DecodeShape
from memoserve_kernels.layout import AttentionLayout

# Sections begin at 16 bytes, as the compiled kernels are promised.
_ALIGN = 4


@dataclass(frozen=True)
class DecodeCapacity:
    """What tables have room for: query rows, items, rows of items, pages of runs."""

    rows: int
    items: int
    entries: int
    pages: int

    @classmethod
    def of(cls, plan: DecodePlan) -> DecodeCapacity:
        """Exactly enough for a plan."""
        return cls(len(plan.row_slots) - 1, len(plan.items), len(plan.entries), len(plan.pages))

    @classmethod
    def for_batch(
        cls, shape: DecodeShape, rows: int, pages: int, levels: int = 4
    ) -> DecodeCapacity:
        """Enough for ``rows`` decode rows whose runs have ``pages`` pages in all.

        ``levels`` is the number of runs on a reader's way through both its tables; where all
        readers go separate ways two suffice. Cuts between programs are counted on top.
        """
        cuts = [(lane.programs, min(rows, lane.block_m // shape.group)) for lane in shape.lists]
        return cls(
            rows=rows,
            items=rows * levels + sum(programs for programs, _ in cuts),
            entries=rows * levels + sum(programs * held for programs, held in cuts),
            pages=pages,
        )


@dataclass(frozen=True)
class DecodeTables:
    """A plan on the device, for all layers of a step, and scratch that its launches share.

    ``packed`` int32: for each list of items the first item of each program, then the first slot
    of each query row, items, entries and pages (see ``DecodePlan``). ``partial [E, H, D]`` and
    ``partial_lse [E, H]`` float32, the latter in base 2. ``busy``: the lists that are launched.

    In a CUDA graph: every address and grid is fixed, and the programs read their counts from
    ``packed``. So allocate tables once a batch size, attach them to the layout whose tensors the
    graph reads, capture, and before each replay fill them with the step's plan::

        shape = decode_shape(q, kv, memory, decode_tiles(q.dtype, head_dim, arch))
        tables = DecodeTables.allocate(shape, DecodeCapacity.for_batch(shape, rows, pages), device)
        layout = AttentionLayout((), columns, limits, starts)   # static tensors of ``rows``
        tables.attach(layout)
        ...capture: ops.paged_decode(q, kv, layout, scale, out=out) in every layer...
        plan = plan_decode(sequences, rows, shape)              # each step
        if tables.fits(plan): tables.fill(plan); graph.replay() # else: the step without a graph

    Rows that no sequence names (padding of a batch size) have no slots: they are neither read nor
    written. Between replays ``fill`` must wait for nothing but the stream's own order, if it is
    given a pinned ``staging`` buffer whose last copy is done.
    """

    shape: DecodeShape
    capacity: DecodeCapacity
    packed: Tensor
    partial: Tensor
    partial_lse: Tensor
    busy: tuple[bool, ...]

    @classmethod
    def allocate(
        cls, shape: DecodeShape, capacity: DecodeCapacity, device: torch.device
    ) -> DecodeTables:
        """Empty tables of a fixed capacity; lists that its rows can fill are always launched."""
        packed = torch.zeros(_words(shape, capacity), dtype=torch.int32, device=device)
        # A lane is for what the one before cannot hold.
        held = [0] + [lane.block_m for lane in shape.lanes[:-1]]
        busy = tuple(capacity.rows * shape.group > below for below in held)
        return cls._with_scratch(shape, capacity, packed, busy * (len(shape.lists) // len(busy)))

    @classmethod
    def fresh(
        cls, shape: DecodeShape, plan: DecodePlan, upload: Callable[[NDArray[np.int32]], Tensor]
    ) -> DecodeTables:
        """Tables of just the size of a plan; ``upload`` brings the integers over."""
        capacity = DecodeCapacity.of(plan)
        words = np.zeros(_words(shape, capacity), dtype=np.int32)
        _pack(shape, capacity, plan, words)
        busy = tuple(bool(programs[-1] > programs[0]) for programs in plan.programs)
        return cls._with_scratch(shape, capacity, upload(words), busy)

    @classmethod
    def _with_scratch(
        cls, shape: DecodeShape, capacity: DecodeCapacity, packed: Tensor, busy: tuple[bool, ...]
    ) -> DecodeTables:
        partial = torch.empty(
            (capacity.entries, shape.heads, shape.head_dim),
            dtype=torch.float32,
            device=packed.device,
        )
        return cls(shape, capacity, packed, partial, torch.empty_like(partial[..., 0]), busy)

    def attach(self, layout: AttentionLayout) -> None:
        """Make ``paged_decode`` with this layout use these tables instead of planning."""
        if layout.once(self.key(self.shape), lambda: self) is not self:
            raise ValueError("the layout has tables of this shape already")

    @staticmethod
    def key(shape: DecodeShape) -> tuple[str, DecodeShape]:
        """Where a layout keeps its tables."""
        return ("decode tables", shape)

    def fits(self, plan: DecodePlan) -> bool:
        """Whether there is room for a plan."""
        need, have = DecodeCapacity.of(plan), self.capacity
        return (
            need.rows <= have.rows
            and need.items <= have.items
            and need.entries <= have.entries
            and need.pages <= have.pages
        )

    def fill(self, plan: DecodePlan, staging: Tensor | None = None) -> None:
        """Replace the plan: one copy, in the order of the stream.

        ``staging`` int32 on the host, pinned, as long as ``packed``: the copy is asynchronous and
        the buffer must not change before it is done. Raises ValueError where a plan does not fit.
        """
        if not self.fits(plan):
            raise ValueError(f"no room for {DecodeCapacity.of(plan)} in {self.capacity}")
        host = torch.empty(self.packed.shape, dtype=torch.int32) if staging is None else staging
        words = host.numpy()
        words[:] = 0
        _pack(self.shape, self.capacity, plan, words)
        self.packed.copy_(host, non_blocking=staging is not None)

    @cached_property
    def programs(self) -> tuple[Tensor, ...]:
        """First item of each program, list by list."""
        return tuple(self._parts[: len(self.shape.lists)])

    @property
    def row_slots(self) -> Tensor:
        """First slot of each query row, and the end of the last."""
        return self._parts[-4]

    @property
    def items(self) -> Tensor:
        """Items, see ``DecodePlan``."""
        return self._parts[-3]

    @property
    def entries(self) -> Tensor:
        """Query row and slot of each row of each item."""
        return self._parts[-2]

    @property
    def pages(self) -> Tensor:
        """Pages of all runs."""
        return self._parts[-1]

    @cached_property
    def _parts(self) -> list[Tensor]:
        offsets = _offsets(self.shape, self.capacity)
        return [self.packed[a:b] for a, b in pairwise(offsets)]


def _offsets(shape: DecodeShape, capacity: DecodeCapacity) -> list[int]:
    sizes = [lane.programs + 1 for lane in shape.lists]
    sizes += [capacity.rows + 1, capacity.items * ITEM_FIELDS, capacity.entries * 2, capacity.pages]
    return list(accumulate((-(-size // _ALIGN) * _ALIGN for size in sizes), initial=0))


def _words(shape: DecodeShape, capacity: DecodeCapacity) -> int:
    return _offsets(shape, capacity)[-1]


def _pack(
    shape: DecodeShape, capacity: DecodeCapacity, plan: DecodePlan, words: NDArray[np.int32]
) -> None:
    """Write a plan into a buffer of zeros."""
    offsets = _offsets(shape, capacity)
    # Rows past those of the plan are padding: no slots.
    padding = np.full(capacity.rows + 1 - len(plan.row_slots), plan.row_slots[-1], dtype=np.int32)
    parts = [*plan.programs, np.concatenate([plan.row_slots, padding])]
    parts += [plan.items.reshape(-1), plan.entries.reshape(-1), plan.pages]
    for offset, part in zip(offsets, parts, strict=False):
        words[offset : offset + len(part)] = part
