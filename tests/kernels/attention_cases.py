"""Random pools with sequences in shuffled pages; everything nobody owns is NaN."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from memoserve_kernels.layout import AttentionLayout, SequenceLayout


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

    def by_hand(self) -> Tensor:
        """Attention row by row, head by head, in float64, following the page tables."""
        out = torch.full(self.q.shape, math.nan, dtype=torch.float64)
        for sequence in self.layout.sequences:
            for row in range(sequence.first_row, sequence.last_row):
                slots = self._seen(sequence, row)
                for head in range(self.q.shape[1]):
                    out[row, head] = self._one(row, head, slots)
        return out

    def _seen(self, sequence: SequenceLayout, row: int) -> list[tuple[int, int]]:
        size = self.kv.shape[3]
        own, limit, start = (
            int(part[row]) for part in (self.layout.columns, self.layout.limits, self.layout.starts)
        )
        columns = [c for c in range(own + 1) if c < limit or c >= start]
        memory = [(sequence.memory_pages[r // size], r % size) for r in range(sequence.memory_rows)]
        return memory + [(sequence.window_pages[c // size], c % size) for c in columns]

    def _one(self, row: int, head: int, slots: list[tuple[int, int]]) -> Tensor:
        kv_head = head * self.kv.shape[2] // self.q.shape[1]
        keys, values = (
            torch.stack([self.kv[kind, page, kv_head, offset] for page, offset in slots]).double()
            for kind in (0, 1)
        )
        scores = keys @ self.q[row, head].double() * self.scale
        return (scores - scores.max()).exp() @ values / (scores - scores.max()).exp().sum()


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
) -> Step:
    """A step whose pages lie in random order among free pages full of NaN."""
    generator = torch.Generator().manual_seed(seed)
    need = sum(-(-s.memory // page_size) - (-s.window // page_size) for s in shapes)
    num_pages = need + 3
    order = torch.randperm(num_pages, generator=generator).tolist()
    pages = order if shuffled else list(range(num_pages))
    kv = torch.full((2, num_pages, kv_heads, page_size, dim), math.nan, dtype=dtype)
    sequences, columns, limits, starts, first = [], [], [], [], 0

    def table(rows: int) -> tuple[int, ...]:
        own = tuple(pages.pop(0) for _ in range(-(-rows // page_size)))
        for row in range(rows):
            drawn = torch.randn(2, kv_heads, dim, generator=generator)
            kv[:, own[row // page_size], :, row % page_size] = drawn.to(dtype)
        return own

    for shape in shapes:
        causal = shape.beacons == 0
        own = torch.arange(shape.before, shape.window)
        limit, start = torch.zeros_like(own), torch.zeros_like(own)
        if not causal:
            raw = shape.window - shape.beacons
            step = max(raw // shape.beacons, 1)
            beacon = own - raw
            limit = torch.where(beacon < 0, 0, ((beacon + 1) * step).clamp(max=raw))
            start = torch.where(beacon < 0, 0, own if seed % 2 else torch.full_like(own, raw))
        sequences.append(
            SequenceLayout(
                first_row=first,
                last_row=first + shape.queries,
                memory_pages=table(shape.memory),
                memory_rows=shape.memory,
                window_pages=table(shape.window),
                window_rows=shape.window,
                causal=causal,
            )
        )
        columns.append(own)
        limits.append(limit)
        starts.append(start)
        first += shape.queries
    layout = AttentionLayout(
        tuple(sequences), torch.cat(columns), torch.cat(limits), torch.cat(starts)
    )
    q = torch.randn(first, heads, dim, generator=generator).to(dtype)
    return Step(q, kv, layout, dim**-0.5)
