"""Random pools with sequences in shuffled pages; everything nobody owns is NaN."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from memoserve_kernels.eight_bits import quantise
from memoserve_kernels.layout import AttentionLayout, MemoryPages, SequenceLayout


@dataclass(frozen=True)
class Shape:
    """One sequence of a step: query rows, memory rows, window rows before them."""

    queries: int
    memory: int
    before: int = 0
    beacons: int = 0  # the last of the queries see their own step only

    @property
    def window(self) -> int:
        return self.before + self.queries


@dataclass(frozen=True)
class Step:
    """Arguments of ``window_attention`` and, per query row, the keys and values it sees."""

    q: Tensor
    kv: Tensor
    layout: AttentionLayout
    scale: float
    memory: MemoryPages | None = None

    def by_hand(self) -> Tensor:
        """Attention row by row in float64, following the page tables; NaN in rows of nobody."""
        return self._walk()[0]

    def lse_by_hand(self) -> Tensor:
        """Natural log of each row's sum of exponentials ``[N, H]``, likewise."""
        return self._walk()[1]

    def to(self, device: torch.device) -> Step:
        """The same step with its tensors on a device."""
        layout, memory = self.layout, self.memory
        if memory is not None:
            memory = MemoryPages(memory.data.to(device), memory.scales.to(device))
        columns, limits, starts = (
            part.to(device) for part in (layout.columns, layout.limits, layout.starts)
        )
        moved = AttentionLayout(layout.sequences, columns, limits, starts)
        return Step(self.q.to(device), self.kv.to(device), moved, self.scale, memory)

    def _walk(self) -> tuple[Tensor, Tensor]:
        out = torch.full(self.q.shape, math.nan, dtype=torch.float64)
        lse = torch.full(self.q.shape[:2], math.nan, dtype=torch.float64)
        for sequence in self.layout.sequences:
            memory = self._rows(sequence.memory_pages, sequence.memory_rows, self.memory)
            window = self._rows(sequence.window_pages, sequence.window_rows, None)
            for row in range(sequence.first_row, sequence.last_row):
                seen = window[:, self._columns(row)]
                keys, values = torch.cat([memory, seen], dim=1)
                weights = torch.einsum("khd,hd->kh", keys, self.q[row].double()) * self.scale
                lse[row] = weights.logsumexp(dim=0)
                out[row] = torch.einsum("kh,khd->hd", (weights - lse[row]).exp(), values)
        return out, lse

    def _columns(self, row: int) -> list[int]:
        """Window columns that a row sees, one by one."""
        own, limit, start = (
            int(part[row]) for part in (self.layout.columns, self.layout.limits, self.layout.starts)
        )
        return [c for c in range(own + 1) if c < limit or c >= start]

    def _rows(self, pages: tuple[int, ...], rows: int, memory: MemoryPages | None) -> Tensor:
        """Keys and values of a table as every query head sees them: ``[2, rows, H, D]``."""
        pool = self.kv if memory is None else memory.data
        size, heads = pool.shape[3], self.q.shape[1]
        found = torch.zeros(2, rows, heads, pool.shape[4], dtype=torch.float64)
        for row in range(rows):
            page, slot = pages[row // size], row % size
            one = pool[:, page, :, slot].double()
            if memory is not None:
                one = one * memory.scales[:, page, :, slot, None].double()
            found[:, row] = one.repeat_interleave(heads // pool.shape[2], dim=1)
        return found


class _Pool:
    """Pages in random order, taken one by one; what nobody took stays NaN."""

    def __init__(
        self, kv: Tensor, memory: MemoryPages | None, free: list[int], generator: torch.Generator
    ) -> None:
        self._kv, self._memory, self._free, self._generator = kv, memory, free, generator

    def take(self, rows: int, in_memory: bool) -> tuple[int, ...]:
        """Pages for that many rows, filled with random ones."""
        memory = self._memory if in_memory else None
        pool = self._kv if memory is None else memory.data
        size = pool.shape[3]
        pages = tuple(self._free.pop(0) for _ in range(-(-rows // size)))
        for row in range(rows):
            at = (slice(None), pages[row // size], slice(None), row % size)
            drawn = torch.randn(2, pool.shape[2], pool.shape[4], generator=self._generator)
            if memory is None:
                pool[at] = drawn.to(pool.dtype)
            else:
                memory.data[at], memory.scales[at] = quantise(drawn, memory.data.dtype)
        return pages


def make_step(
    shapes: list[Shape],
    *,
    heads: int = 4,
    kv_heads: int = 2,
    dim: int = 8,
    page_size: int = 4,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
    shuffled: bool = True,
    memory_dtype: torch.dtype | None = None,
    memory_page_size: int = 4,
    gap: int = 0,
) -> Step:
    """A step whose pages lie in random order among free pages full of NaN.

    With a ``memory_dtype`` the memories lie in 8 bits in pages of ``memory_page_size``. ``gap``
    query rows before each sequence and after the last belong to nobody.
    """
    generator = torch.Generator().manual_seed(seed)
    past_size = memory_page_size if memory_dtype else page_size
    need = sum(-(-s.memory // past_size) - (-s.window // page_size) for s in shapes)
    num_pages = need + 3
    order = torch.randperm(num_pages, generator=generator).tolist()
    kv = torch.full((2, num_pages, kv_heads, page_size, dim), math.nan, dtype=dtype)
    memory = None
    if memory_dtype is not None:
        rows = (2, num_pages, kv_heads, memory_page_size)
        data = torch.full((*rows, dim), 77.0).to(memory_dtype)
        memory = MemoryPages(data, torch.full(rows, math.nan))
    pool = _Pool(kv, memory, order if shuffled else list(range(num_pages)), generator)
    nobody = torch.zeros(gap, dtype=torch.int64)
    sequences, visible, first = [], [(nobody, nobody, nobody)], gap
    for shape in shapes:
        sequences.append(
            SequenceLayout(
                first_row=first,
                last_row=first + shape.queries,
                memory_pages=pool.take(shape.memory, in_memory=True),
                memory_rows=shape.memory,
                window_pages=pool.take(shape.window, in_memory=False),
                window_rows=shape.window,
                causal=shape.beacons == 0,
            )
        )
        visible += [_visibility(shape, each_sees_itself=seed % 2 == 1), (nobody, nobody, nobody)]
        first += shape.queries + gap
    columns, limits, starts = (torch.cat(parts) for parts in zip(*visible, strict=True))
    layout = AttentionLayout(tuple(sequences), columns, limits, starts)
    q = torch.randn(first, heads, dim, generator=generator).to(dtype)
    return Step(q, kv, layout, dim**-0.5, memory)


def _visibility(shape: Shape, *, each_sees_itself: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Columns, limits and starts of a shape's query rows.

    Appended beacons see the raw rows up to the end of their step, and of the beacons themselves
    alone or all up to themselves.
    """
    own = torch.arange(shape.before, shape.window)
    if shape.beacons == 0:
        return own, torch.zeros_like(own), torch.zeros_like(own)
    raw = shape.window - shape.beacons
    step = max(raw // shape.beacons, 1)
    beacon = own - raw
    limit = torch.where(beacon < 0, 0, ((beacon + 1) * step).clamp(max=raw))
    first = own if each_sees_itself else torch.full_like(own, raw)
    return own, limit, torch.where(beacon < 0, 0, first)
