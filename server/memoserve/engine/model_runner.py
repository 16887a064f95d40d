"""One forward of many sequences: plans to tensors, the paged ``attend``, window eviction."""

from __future__ import annotations

import math
from collections.abc import Sequence as Items
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
import torch
from torch import Tensor

from memoserve.engine.sequence import Logits
from memoserve.errors import OutOfRange
from memoserve.memory import window as win
from memoserve.memory.kv_cache import KVCache
from memoserve.memory.memory import PagedState
from memoserve.memory.page_table import Ints
from memoserve.memory.window import Plan, WindowRules
from memoserve.models.batch import ForwardBatch, RowSplit
from memoserve.models.layers import BeaconLM
from memoserve.models.rope import Rope
from memoserve_kernels import ops
from memoserve_kernels.layout import AttentionLayout, Rotation, SequenceLayout


@dataclass(frozen=True)
class Chunk:
    """The next ``tokens`` of one sequence, all inside its open window."""

    paged: PagedState
    tokens: tuple[int, ...]
    logits: Logits


@dataclass(frozen=True)
class _Placed:
    """A planned chunk with its pages taken; ``memory_rows`` as they were before it."""

    chunk: Chunk
    plan: Plan
    memory_rows: int
    window_rows: int


class PagedAttend:
    """Attention over the page pool; the model's only way to keys and values."""

    def __init__(
        self,
        cache: KVCache,
        rope: tuple[Rotation, Rotation],
        layouts: tuple[AttentionLayout, AttentionLayout],
        slots: Tensor,
    ) -> None:
        self.cache = cache
        self.rotation, self.output_rotation = rope
        self.layout, self.output_layout = layouts
        self.slots = slots
        self.last_layer = cache.shape.layers - 1
        self.scale = 1.0 / math.sqrt(cache.shape.head_dim)

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Store k and v, attend with q; see ``models.batch.Attend``."""
        kv, memory = self.cache.layer(layer), self.cache.memory_layer(layer)
        if layer < self.last_layer:
            turned = ops.rope_and_append(q, k, v, self.rotation, kv, self.slots)
            return ops.attention(turned, kv, self.layout, self.scale, memory=memory)
        ops.append(k, v, self.rotation, kv, self.slots)
        turned = ops.rotate(q, self.output_rotation)
        return ops.attention(turned, kv, self.output_layout, self.scale, memory=memory)


class ModelRunner:
    """Runs chunks through the model. It takes pages; a failed forward gives them back."""

    def __init__(self, model: BeaconLM, rope: Rope, rules: WindowRules, cache: KVCache) -> None:
        self.model = model
        self.rules = rules
        self.cache = cache
        self.rope = rope
        self.device = cache.data.device
        self.inv_freq = rope.frequencies(cache.shape.dtype).to(self.device)

    def pages_needed(self, paged: PagedState, tokens: int) -> int:
        """Pages that a chunk of this many tokens takes."""
        after = win.rows_after(self.rules, paged.schedule, paged.state, tokens)
        closes = tokens == win.room(self.rules, paged.state)
        kept = win.kept_rows(self.rules, paged.schedule, paged.state) if closes else 0
        rows = after - paged.window.length
        return paged.window.pages_to_extend(rows) + paged.memory.pages_to_extend(kept)

    def check_positions(self, paged: PagedState, tokens: int) -> None:
        """Raise OutOfRange where a chunk would pass a length beyond which angles are wrong."""
        limit = self.rope.hard_limit
        if limit is None:
            return
        rows = win.rows_after(self.rules, paged.schedule, paged.state, tokens)
        length = paged.memory.length + rows
        if length > limit:
            raise OutOfRange(
                f"position {length} is beyond {limit}, where this model's "
                "dynamic rope would change the angles of all keys already stored",
                limit=limit,
            )

    @torch.inference_mode()
    def run(self, chunks: Items[Chunk]) -> list[Tensor]:
        """Feed the chunks; logits ``[wanted rows, vocab]`` of each. All or nothing happens."""
        marks = [(c.paged.memory.length, c.paged.window.length) for c in chunks]
        try:
            placed = [self._place(chunk) for chunk in chunks]
            wanted = [_wanted_rows(p) for p in placed]
            logits = self.model(self._batch(placed, wanted))
            self._close_windows(placed)
        except BaseException:
            for chunk, (memory, window) in zip(chunks, marks, strict=True):
                chunk.paged.memory.truncate(memory)
                chunk.paged.window.truncate(window)
            raise
        for p in placed:
            p.chunk.paged.state = p.plan.after
            if p.plan.closes:
                p.chunk.paged.window.release()
        return list(logits.split([len(rows) for rows in wanted]))

    def _place(self, chunk: Chunk) -> _Placed:
        """Plan a chunk and take its pages; a copied tail page is whole again at once."""
        paged = chunk.paged
        plan = win.plan(self.rules, paged.schedule, paged.state, len(chunk.tokens))
        memory_rows = paged.memory.length
        self.cache.copy_pages(paged.window.extend(plan.rows))
        self.cache.copy_memory_pages(paged.memory.extend(len(plan.targets)))
        return _Placed(chunk, plan, memory_rows, paged.window.length)

    def _tensor(self, parts: Items[Ints]) -> Tensor:
        whole = np.concatenate(parts) if parts else np.zeros(0, dtype=np.int64)
        return torch.from_numpy(whole).to(self.device)

    def _batch(self, placed: list[_Placed], wanted: list[Ints]) -> ForwardBatch:
        flags = np.concatenate([p.plan.is_beacon for p in placed])
        ids = np.zeros(len(flags), dtype=np.int64)
        ids[~flags] = np.concatenate([np.asarray(p.chunk.tokens, dtype=np.int64) for p in placed])
        first_rows = list(accumulate((p.plan.rows for p in placed), initial=0))
        output_rows = self._tensor([w + f for w, f in zip(wanted, first_rows, strict=False)])
        all_rows = [np.arange(p.plan.rows, dtype=np.int64) for p in placed]
        positions = self._tensor([p.plan.positions for p in placed])
        attend = PagedAttend(
            self.cache,
            (self._rotation(positions), self._rotation(positions[output_rows])),
            (self._layout(placed, all_rows), self._layout(placed, wanted)),
            self._tensor([_window_slots(p) for p in placed]),
        )
        split = RowSplit.of(torch.from_numpy(flags).to(self.device))
        return ForwardBatch(torch.from_numpy(ids).to(self.device), split, output_rows, attend)

    def _rotation(self, positions: Tensor, factor: float | None = None) -> Rotation:
        return Rotation(positions, self.inv_freq, self.rope.factor if factor is None else factor)

    def _layout(self, placed: list[_Placed], rows: list[Ints]) -> AttentionLayout:
        """Layout of the given rows of each chunk, counted from the chunk's first."""
        asking = [(p, own) for p, own in zip(placed, rows, strict=True) if len(own)]
        ends = list(accumulate((len(own) for _, own in asking), initial=0))
        sequences = tuple(
            _sequence_layout(p, own, first) for (p, own), first in zip(asking, ends, strict=False)
        )
        return AttentionLayout(
            sequences=sequences,
            columns=self._tensor([own + p.plan.first_column for p, own in asking]),
            limits=self._tensor([p.plan.limits[own] for p, own in asking]),
            starts=self._tensor([p.plan.starts[own] for p, own in asking]),
        )

    def _close_windows(self, placed: list[_Placed]) -> None:
        """The KV eviction: surviving rows of all closing windows move to their memory slots."""
        closing = [p for p in placed if p.plan.closes and len(p.plan.sources)]
        if not closing:
            return
        deltas = self._tensor([p.plan.deltas for p in closing])
        ops.evict_window(
            self.cache.data,
            self._tensor([p.chunk.paged.window.slots_of(p.plan.sources) for p in closing]),
            self._tensor([p.chunk.paged.memory.slots_of(p.plan.targets) for p in closing]),
            # The attention factor was applied when the key was first written.
            self._rotation(deltas, factor=1.0),
            memory=self.cache.memory,
        )


def _sequence_layout(p: _Placed, rows: Ints, first: int) -> SequenceLayout:
    """Layout of rows of one chunk; window columns past the last asking row are nobody's keys."""
    consecutive = bool(rows[-1] - rows[0] == len(rows) - 1)
    causal = p.plan.causal and consecutive
    seen = p.plan.first_column + int(rows[-1]) + 1
    return SequenceLayout(
        first_row=first,
        last_row=first + len(rows),
        memory_pages=tuple(p.chunk.paged.memory.pages),
        memory_rows=p.memory_rows,
        window_pages=tuple(p.chunk.paged.window.pages),
        window_rows=seen if causal else p.window_rows,
        causal=causal,
    )


def _window_slots(p: _Placed) -> Ints:
    return p.chunk.paged.window.slots(p.window_rows - p.plan.rows, p.window_rows)


def _wanted_rows(p: _Placed) -> Ints:
    """Rows of the chunk whose logits are wanted: raw rows only."""
    raw: Ints = (~p.plan.is_beacon).nonzero()[0]
    match p.chunk.logits:
        case Logits.NONE:
            return raw[:0]
        case Logits.LAST:
            return raw[-1:]
    return raw
