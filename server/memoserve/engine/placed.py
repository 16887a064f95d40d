"""The integers of a step, on the host: where the rows of its chunks stand and what they see.

A serving step is mostly single tokens, hundreds of them, between two waits for the device: they
are placed in plain integers, a few microseconds each; chunks of prompts and texts by their plan.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence as Items
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memoserve.engine.sequence import Logits
from memoserve.memory import window as win
from memoserve.memory.kv_cache import KVCache
from memoserve.memory.memory import PagedState
from memoserve.memory.page_table import Ints
from memoserve.memory.window import Flags, Placement, Plan, WindowRules, WindowState
from memoserve_kernels.layout import SequenceLayout

# What each row has: its token, its position, its slot, and what it sees of the window.
ROW_INTEGERS = ("ids", "positions", "slots", "columns", "limits", "starts")


@dataclass(frozen=True)
class Chunk:
    """The next ``tokens`` of one sequence, all inside its open window."""

    paged: PagedState
    tokens: tuple[int, ...]
    logits: Logits

    def is_single(self, rules: WindowRules) -> bool:
        """One token whose logits are wanted and that closes no window."""
        if len(self.tokens) != 1 or self.logits is Logits.NONE:
            return False
        return self.paged.state.open_tokens + 1 < rules.window


class Placed(ABC):
    """Chunks with their pages taken, end to end; rows are counted from the first's first.

    ``rows`` are ``ROW_INTEGERS`` of all rows, ``wanted`` those rows whose logits are wanted and
    ``counts`` how many of them each chunk has. ``after`` are the states that follow.
    """

    chunks: list[Chunk]
    rows: dict[str, Ints]
    is_beacon: Flags
    wanted: Ints
    counts: list[int]
    after: list[WindowState]

    @abstractmethod
    def layouts(self, first: int) -> list[SequenceLayout]:
        """Of all rows, as query rows from ``first`` on."""

    @abstractmethod
    def asking(self, first: int) -> list[SequenceLayout]:
        """Of the wanted rows alone, as query rows from ``first`` on."""


class Singles(Placed):
    """Chunks of one token that close no window: a raw row each, some with a beacon behind it."""

    def __init__(self, rules: WindowRules, cache: KVCache, chunks: Items[Chunk]) -> None:
        self.chunks = list(chunks)
        self.after = []
        interleaved = rules.placement is Placement.INTERLEAVE
        ids, positions, slots, columns = list[int](), list[int](), list[int](), list[int]()
        flags, wanted = list[bool](), list[int]()
        for chunk in self.chunks:
            paged, state, table = chunk.paged, chunk.paged.state, chunk.paged.window
            open_tokens = state.open_tokens + 1
            ratio = paged.schedule.at(state.windows_closed)
            # The counter of tokens since a beacon stands still where there are none.
            with_beacon = interleaved and ratio and not (state.open_counter + open_tokens) % ratio
            first, size = table.length, table.page_size
            rows = 2 if with_beacon else 1
            cache.copy_pages(table.extend(rows))
            wanted.append(len(ids))
            ids += (chunk.tokens[0], 0)[:rows]
            flags += (False, True)[:rows]
            for column in range(first, first + rows):
                columns.append(column)
                positions.append(state.memory_rows + column)
                slots.append(table.pages[column // size] * size + column % size)
            after = WindowState(
                state.windows_closed, open_tokens, state.open_counter, state.memory_rows
            )
            self.after.append(after)
        no_limit = [0] * len(ids)
        lists = (ids, positions, slots, columns, no_limit, no_limit)
        self.rows = {
            name: np.array(values, dtype=np.int64)
            for name, values in zip(ROW_INTEGERS, lists, strict=True)
        }
        self.is_beacon = np.array(flags, dtype=np.bool_)
        self.wanted = np.array(wanted, dtype=np.int64)
        self.counts = [1] * len(self.chunks)

    def layouts(self, first: int) -> list[SequenceLayout]:
        """All rows: a sequence's last one stands in its last column."""
        ends = [*self.wanted.tolist(), len(self.is_beacon)]
        return [
            _causal(chunk.paged, begin + first, end + first, chunk.paged.window.length)
            for chunk, (begin, end) in zip(self.chunks, pairwise(ends), strict=True)
        ]

    def asking(self, first: int) -> list[SequenceLayout]:
        """The raw rows; a beacon behind one is nobody's key."""
        columns = self.rows["columns"][self.wanted].tolist()
        return [
            _causal(chunk.paged, row, row + 1, column + 1)
            for row, (chunk, column) in enumerate(zip(self.chunks, columns, strict=True), first)
        ]

    def beacons(self, first: int) -> list[SequenceLayout]:
        """The beacons alone, each as a sequence of one row, as query rows from ``first`` on."""
        ends = self.layouts(0)
        behind = [s for s in ends if s.last_row - s.first_row == 2]
        return [replace(s, first_row=row, last_row=row + 1) for row, s in enumerate(behind, first)]


def _causal(paged: PagedState, first: int, last: int, window_rows: int) -> SequenceLayout:
    memory, window = paged.memory, paged.window
    return SequenceLayout(
        first, last, memory.as_tuple, memory.length, window.as_tuple, window_rows, True
    )


@dataclass(frozen=True)
class _Chunk:
    """A planned chunk with its pages taken; ``memory_rows`` as they were before it."""

    paged: PagedState
    plan: Plan
    wanted: Ints
    memory_rows: int

    def layout(self, rows: Ints, first: int) -> SequenceLayout:
        """Layout of some rows of the chunk, the first of them query row ``first`` of the step.

        Window columns past the last asking row are nobody's keys.
        """
        consecutive = bool(rows[-1] - rows[0] == len(rows) - 1)
        causal = self.plan.causal and consecutive
        seen = self.plan.first_column + int(rows[-1]) + 1
        return SequenceLayout(
            first_row=first,
            last_row=first + len(rows),
            memory_pages=self.paged.memory.as_tuple,
            memory_rows=self.memory_rows,
            window_pages=self.paged.window.as_tuple,
            window_rows=seen if causal else self.paged.window.length,
            causal=causal,
        )


class Planned(Placed):
    """Chunks of any kind, by ``window.plan``."""

    def __init__(self, rules: WindowRules, cache: KVCache, chunks: Items[Chunk]) -> None:
        self.chunks = list(chunks)
        self._planned = [_take_pages(rules, cache, chunk) for chunk in self.chunks]
        plans = [p.plan for p in self._planned]
        self.after = [plan.after for plan in plans]
        self.is_beacon = _joined([plan.is_beacon for plan in plans], np.bool_)
        ids = np.zeros(len(self.is_beacon), dtype=np.int64)
        ids[~self.is_beacon] = [token for chunk in self.chunks for token in chunk.tokens]
        columns = [np.arange(p.rows, dtype=np.int64) + p.first_column for p in plans]
        self.rows = {
            "ids": ids,
            "positions": _joined([plan.positions for plan in plans]),
            "slots": _joined(
                [
                    p.paged.window.slots_of(own)
                    for p, own in zip(self._planned, columns, strict=True)
                ]
            ),
            "columns": _joined(columns),
            "limits": _joined([plan.limits for plan in plans]),
            "starts": _joined([plan.starts for plan in plans]),
        }
        firsts = accumulate((plan.rows for plan in plans), initial=0)
        pairs = zip(self._planned, firsts, strict=False)
        self.wanted = _joined([p.wanted + first for p, first in pairs])
        self.counts = [len(p.wanted) for p in self._planned]

    def layouts(self, first: int) -> list[SequenceLayout]:
        """All rows."""
        every = [np.arange(p.plan.rows, dtype=np.int64) for p in self._planned]
        return self._layouts(every, first)

    def asking(self, first: int) -> list[SequenceLayout]:
        """Chunks without a wanted row have no part in it."""
        return self._layouts([p.wanted for p in self._planned], first)

    def _layouts(self, rows: Items[Ints], first: int) -> list[SequenceLayout]:
        made = []
        for planned, own in zip(self._planned, rows, strict=True):
            if len(own):
                made.append(planned.layout(own, first))
                first += len(own)
        return made

    def moves(self) -> dict[str, Ints]:
        """What the windows that close leave in memory; nothing where none does."""
        closing = [(p.paged, p.plan) for p in self._planned if len(p.plan.sources)]
        if not closing:
            return {}
        return {
            "sources": _joined([paged.window.slots_of(plan.sources) for paged, plan in closing]),
            "targets": _joined([paged.memory.slots_of(plan.targets) for paged, plan in closing]),
            "deltas": _joined([plan.deltas for _, plan in closing]),
        }


def _take_pages(rules: WindowRules, cache: KVCache, chunk: Chunk) -> _Chunk:
    """Plan a chunk and take its pages; a copied tail page is whole again at once."""
    paged = chunk.paged
    plan = win.plan(rules, paged.schedule, paged.state, len(chunk.tokens))
    memory_rows = paged.memory.length
    cache.copy_pages(paged.window.extend(plan.rows))
    cache.copy_memory_pages(paged.memory.extend(len(plan.targets)))
    return _Chunk(paged, plan, _wanted(chunk.logits, plan), memory_rows)


def _wanted(logits: Logits, plan: Plan) -> Ints:
    """Rows of a chunk whose logits are wanted: raw rows only."""
    raw: Ints = (~plan.is_beacon).nonzero()[0]
    match logits:
        case Logits.NONE:
            return raw[:0]
        case Logits.LAST:
            return raw[-1:]
    return raw


def _joined(parts: Items[NDArray[Any]], dtype: type[np.generic] = np.int64) -> NDArray[Any]:
    return np.concatenate(parts) if parts else np.zeros(0, dtype=dtype)
