"""Who reads which keys in ``paged_decode``, and which program reads them: integers only.

Page tables that begin alike are read once for all their readers (``decode_prefix``). The rows of
the readers of a run times the heads of a group are cut into tiles. Every list of tiles of one
size is laid end to end and cut into equal shares, one a program (Stream-K, arXiv 2301.03598), so
that long runs are split over the machine and short ones are not. What a program takes of one tile
is an *item*; what it finds is a partial result.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from memoserve_kernels.decode_prefix import shared_runs
from memoserve_kernels.layout import SequenceLayout

Ints: TypeAlias = NDArray[np.int64]
# Integers of an item: table, first key, first key under a mask, end, first entry, rows, is
# window, query heads of a row; 32 bytes.
ITEM_FIELDS: Final = 8


@dataclass(frozen=True)
class Lane:
    """Items of one tile size: BLOCK_M rows times heads, BLOCK_N keys, programs a kv head."""

    block_m: int
    block_n: int
    programs: int


@dataclass(frozen=True)
class DecodeShape:
    """What a plan depends on besides the sequences.

    ``lanes`` ascend by block_m. ``memory_page_size`` is 0 where the memory lies in the cache
    itself; else its items go to lists of their own, those of the lanes for the memory first.
    """

    heads: int
    kv_heads: int
    head_dim: int
    page_size: int
    memory_page_size: int
    lanes: tuple[Lane, ...]

    @property
    def parts(self) -> int:
        """Parts that a group of query heads is cut into, so that one fits the largest tile."""
        whole, most = self.heads // self.kv_heads, self.lanes[-1].block_m
        return next(n for n in range(1, whole + 1) if whole % n == 0 and whole // n <= most)

    @property
    def group(self) -> int:
        """Query heads of a part; all of them share a kv head."""
        return self.heads // (self.kv_heads * self.parts)

    @property
    def lists(self) -> tuple[Lane, ...]:
        """The lane of each list of items."""
        return self.lanes * 2 if self.memory_page_size else self.lanes


@dataclass(frozen=True)
class DecodePlan:
    """Items, who runs them, and where their results go.

    List l: program p takes items ``[programs[l][p], programs[l][p + 1])``. ``items [I, 8]``, see
    ``ITEM_FIELDS``; key k of an item lies in page ``pages[table + k // page size]``. ``entries
    [E, 2]``: query row and slot of its partial result, for each row of each item. The partial
    results of query row n are the slots ``[row_slots[n], row_slots[n + 1])``.
    """

    programs: tuple[NDArray[np.int32], ...]
    items: NDArray[np.int32]
    entries: NDArray[np.int32]
    row_slots: NDArray[np.int32]
    pages: NDArray[np.int32]


@dataclass(frozen=True)
class _Tasks:
    """Tiles of runs before they are cut; arrays of one length, and the rows they point into."""

    table: Ints
    first: Ints
    clear: Ints
    end: Ints
    window: Ints
    row_start: Ints
    row_count: Ints
    lane: Ints
    rows: Ints
    pages: Ints


def plan_decode(sequences: Sequence[SequenceLayout], rows: int, shape: DecodeShape) -> DecodePlan:
    """Plan a step of ``rows`` query rows in all; those that no sequence names get no slot."""
    tasks = _tasks(sequences, shape)
    pieces = [_cut(tasks, index, lane) for index, lane in enumerate(shape.lists)]
    task = np.concatenate([piece[0] for piece in pieces])
    first, end = (np.concatenate([piece[kind] for piece in pieces]) for kind in (1, 2))
    before = np.cumsum([0] + [len(piece[0]) for piece in pieces])
    counts = tasks.row_count[task]
    starts = np.cumsum(counts) - counts
    entry_rows = tasks.rows[_ranges(tasks.row_start[task], counts)]
    items = np.zeros((len(task), ITEM_FIELDS), dtype=np.int32)
    items[:, 0] = tasks.table[task]
    items[:, 1] = first
    items[:, 2] = np.clip(tasks.clear[task], first, end)
    items[:, 3] = end
    items[:, 4] = starts
    items[:, 5] = counts
    items[:, 6] = tasks.window[task]
    items[:, 7] = shape.group
    entries = np.empty((len(entry_rows), 2), dtype=np.int32)
    entries[:, 0] = entry_rows
    entries[np.argsort(entry_rows, kind="stable"), 1] = np.arange(len(entry_rows))
    row_slots = np.zeros(rows + 1, dtype=np.int32)
    np.cumsum(np.bincount(entry_rows, minlength=rows), out=row_slots[1:])
    return DecodePlan(
        programs=tuple(
            (piece[3] + offset).astype(np.int32)
            for piece, offset in zip(pieces, before, strict=False)
        ),
        items=items,
        entries=entries,
        row_slots=row_slots,
        pages=tasks.pages.astype(np.int32),
    )


def _ranges(starts: Ints, counts: Ints) -> Ints:
    """``starts[i], starts[i] + 1, ...`` of each i, ``counts[i]`` of them, end to end."""
    before = np.cumsum(counts) - counts
    ranges: Ints = np.repeat(starts - before, counts) + np.arange(counts.sum())
    return ranges


def _ints(values: Sequence[int]) -> Ints:
    return np.array(values, dtype=np.int64)


def _tasks(sequences: Sequence[SequenceLayout], shape: DecodeShape) -> _Tasks:
    sizes = (shape.memory_page_size or shape.page_size, shape.page_size)
    memory = shared_runs([(s.memory_pages, s.memory_rows) for s in sequences], sizes[0])
    window = shared_runs([(s.window_pages, s.window_rows) for s in sequences], sizes[1])
    runs = memory + window
    is_window = np.arange(len(runs)) >= len(memory)
    first, end = _ints([run.first for run in runs]), _ints([run.end for run in runs])
    page_size = np.where(is_window, sizes[1], sizes[0])
    first_page, last_page = first // page_size, -(-end // page_size)
    pages: list[int] = []
    for run, low, high in zip(runs, first_page.tolist(), last_page.tolist(), strict=True):
        pages += run.pages[low:high]
    table = np.cumsum(last_page - first_page) - last_page

    readers = _ints(list(chain.from_iterable(run.readers for run in runs)))
    num_readers = _ints([len(run.readers) for run in runs])
    first_rows = _ints([s.first_row for s in sequences])
    num_rows = _ints([s.last_row for s in sequences]) - first_rows
    rows = _ranges(first_rows[readers], num_rows[readers])
    # Without a causal layout nothing is known here of what a row sees: all of it under the mask.
    seen = _ints([s.window_rows + 1 if s.causal else 0 for s in sequences]) - num_rows
    clear = end.copy()
    run_rows = np.zeros(len(runs), dtype=np.int64)
    if runs:
        begins = np.cumsum(num_readers) - num_readers
        run_rows = np.add.reduceat(num_rows[readers], begins)
        clear[is_window] = np.minimum.reduceat(seen[readers], begins)[is_window]
    return _tiles(shape, _Tasks(table, first, clear, end, is_window.astype(np.int64),
                                np.cumsum(run_rows) - run_rows, run_rows, run_rows, rows,
                                _ints(pages)))  # fmt: skip


def _tiles(shape: DecodeShape, runs: _Tasks) -> _Tasks:
    """Cut the rows of each run to what the largest tile holds; whole rows, all heads of a group."""
    block_ms = _ints([lane.block_m for lane in shape.lanes])
    most = int(block_ms[-1]) // shape.group
    tiles = -(-runs.row_count // most)
    run = np.repeat(np.arange(len(tiles)), tiles)
    skipped = _ranges(np.zeros_like(tiles), tiles) * most
    counts = np.minimum(runs.row_count[run] - skipped, most)
    lane = np.searchsorted(block_ms, counts * shape.group)
    if shape.memory_page_size:
        lane = lane + runs.window[run] * len(shape.lanes)
    return _Tasks(
        table=runs.table[run],
        first=runs.first[run],
        clear=runs.clear[run],
        end=runs.end[run],
        window=runs.window[run],
        row_start=runs.row_start[run] + skipped,
        row_count=counts,
        lane=lane,
        rows=runs.rows,
        pages=runs.pages,
    )


def _cut(tasks: _Tasks, index: int, lane: Lane) -> tuple[Ints, Ints, Ints, Ints]:
    """Cut the tasks of list ``index`` into equal shares.

    Returns each piece's task, first key and end, and the first piece of each program.
    """
    task = np.flatnonzero(tasks.lane == index)
    first, end = tasks.first[task], tasks.end[task]
    ends = np.cumsum(-(-(end - first) // lane.block_n))
    total = int(ends[-1]) if len(ends) else 0
    if not total:
        return task, first, end, np.zeros(lane.programs + 1, dtype=np.int64)
    cuts = np.arange(1, lane.programs) * total // lane.programs
    # A cut near the border of two tasks moves there: a short piece costs more than it balances.
    slack = total // lane.programs // 8
    above = np.searchsorted(ends, cuts)
    borders = np.concatenate([[0], ends])
    for border in (borders[above], borders[above + 1]):
        cuts = np.where(np.abs(cuts - border) <= slack, border, cuts)
    edges = np.unique(np.concatenate([ends, cuts[cuts > 0]]))
    begins = np.concatenate([[0], edges[:-1]])
    owner = np.searchsorted(ends, begins, side="right")
    start = ends[owner] - -(-(end - first) // lane.block_n)[owner]
    piece_first = first[owner] + (begins - start) * lane.block_n
    piece_end = np.minimum(first[owner] + (edges - start) * lane.block_n, end[owner])
    program = np.searchsorted(cuts, begins, side="right")
    firsts = np.searchsorted(program, np.arange(lane.programs + 1))
    return task[owner], piece_first, piece_end, firsts.astype(np.int64)
