"""Plans of ``paged_decode``: every key of every reader once, shared keys read once for all."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from memoserve_kernels.decode_plan import DecodePlan, DecodeShape, Lane, plan_decode
from memoserve_kernels.decode_prefix import shared_runs
from memoserve_kernels.decode_tables import DecodeCapacity, DecodeTables
from memoserve_kernels.layout import SequenceLayout

LANES = (Lane(4, 4, 3), Lane(16, 2, 2))
SHAPE = DecodeShape(2, 1, 8, page_size=4, memory_page_size=0, lanes=LANES)


@st.composite
def tables(draw: st.DrawFn, page_size: int) -> list[tuple[tuple[int, ...], int]]:
    """Page tables of which some begin like others, page by page or inside one."""
    made: list[tuple[tuple[int, ...], int]] = []
    fresh = iter(range(1000))
    for _ in range(draw(st.integers(1, 6))):
        kept: tuple[int, ...] = ()
        forked = draw(st.booleans())
        if made and forked:
            kept = draw(st.sampled_from(made))[0]
            kept = kept[: draw(st.integers(0, len(kept)))]
        pages = kept + tuple(next(fresh) for _ in range(draw(st.integers(0, 4))))
        unused = draw(st.integers(0, page_size - 1)) if pages else 0
        made.append((pages, len(pages) * page_size - unused))
    return made


@st.composite
def sequences(draw: st.DrawFn, memory_size: int, window_size: int) -> list[SequenceLayout]:
    memory, window = draw(tables(memory_size)), draw(tables(window_size))
    made, first = [], draw(st.integers(0, 2))
    for past, own in zip(memory, window, strict=False):
        rows = draw(st.integers(1, 3))
        if own[1] >= rows:
            causal = draw(st.booleans())
            made.append(SequenceLayout(first, first + rows, *past, *own, causal=causal))
        first += rows + draw(st.integers(0, 1))
    return made


def num_rows(layouts: list[SequenceLayout]) -> int:
    return max((s.last_row for s in layouts), default=0) + 1


def taken(plan: DecodePlan, shape: DecodeShape) -> Iterator[tuple[Lane, bool, list[int], range]]:
    """What each program of each list takes: lane, whether of the window, rows, keys."""
    for lane, programs in zip(shape.lists, plan.programs, strict=True):
        assert len(programs) == lane.programs + 1
        for first, last in pairwise(programs):
            for item in plan.items[first:last]:
                _, first_key, clear, end, entry, rows, window, group = item.tolist()
                assert first_key <= clear <= end
                assert group == shape.group and 0 < rows * group <= lane.block_m
                entries = plan.entries[entry : entry + rows]
                yield lane, bool(window), entries[:, 0].tolist(), range(first_key, end)


def pages_of(plan: DecodePlan, shape: DecodeShape) -> Counter[tuple[int, bool, int, int]]:
    """How often each (row, of window, key, page) is read."""
    found: Counter[tuple[int, bool, int, int]] = Counter()
    for item in plan.items.tolist():
        table, first, _, end, entry, rows, window, _ = item
        size = shape.page_size if window else shape.memory_page_size or shape.page_size
        for row in plan.entries[entry : entry + rows, 0].tolist():
            found.update(
                (row, bool(window), key, int(plan.pages[table + key // size]))
                for key in range(first, end)
            )
    return found


def wanted(
    layouts: list[SequenceLayout], shape: DecodeShape
) -> Counter[tuple[int, bool, int, int]]:
    found: Counter[tuple[int, bool, int, int]] = Counter()
    sizes = (shape.memory_page_size or shape.page_size, shape.page_size)
    for s in layouts:
        for window, (pages, rows) in enumerate(
            ((s.memory_pages, s.memory_rows), (s.window_pages, s.window_rows))
        ):
            found.update(
                (row, bool(window), key, pages[key // sizes[window]])
                for row in range(s.first_row, s.last_row)
                for key in range(rows)
            )
    return found


@given(st.data(), st.sampled_from([0, 2, 4]), st.sampled_from([1, 2, 4]))
def test_each_key_of_each_row_once(data: st.DataObject, memory_size: int, group: int) -> None:
    shape = replace(SHAPE, heads=group, memory_page_size=memory_size)
    layouts = data.draw(sequences(memory_size or 4, 4))
    plan = plan_decode(layouts, num_rows(layouts), shape)
    assert pages_of(plan, shape) == wanted(layouts, shape)
    # All items belong to one program each, and items of 8-bit pages stand in lists of their own.
    items = list(taken(plan, shape))
    assert len(items) == len(plan.items)
    if memory_size:
        halves = [bool(plan.items[i, 6]) for i in range(len(plan.items))]
        assert halves == sorted(halves)


@given(sequences(4, 4))
def test_slots_of_a_row_lie_side_by_side(layouts: list[SequenceLayout]) -> None:
    rows = num_rows(layouts)
    plan = plan_decode(layouts, rows, SHAPE)
    assert sorted(plan.entries[:, 1].tolist()) == list(range(len(plan.entries)))
    for row, slot in plan.entries.tolist():
        assert plan.row_slots[row] <= slot < plan.row_slots[row + 1]
    named = {row for s in layouts for row in range(s.first_row, s.last_row)}
    counts = np.diff(plan.row_slots)
    assert all(counts[row] == 0 for row in range(rows) if row not in named)


@given(sequences(4, 4))
def test_what_is_clear_is_seen_by_all(layouts: list[SequenceLayout]) -> None:
    """Before ``clear`` no row of an item needs a mask; in memory none ever does."""
    plan = plan_decode(layouts, num_rows(layouts), SHAPE)
    bounds = {}
    for s in layouts:
        for row in range(s.first_row, s.last_row):
            bounds[row] = s.window_rows - (s.last_row - 1 - row) if s.causal else 0
    for _, first, clear, end, entry, rows, window, _ in plan.items.tolist():
        seen = min(bounds[row] for row in plan.entries[entry : entry + rows, 0].tolist())
        if not window:
            assert clear == end
        elif rows * SHAPE.group <= LANES[-1].block_m // 2:  # otherwise of a larger run
            assert clear <= max(first, seen)


@given(tables(4))
def test_runs_cover_each_table_once(all_tables: list[tuple[tuple[int, ...], int]]) -> None:
    seen: list[list[tuple[int, int]]] = [[] for _ in all_tables]
    for run in shared_runs(all_tables, 4):
        for reader in run.readers:
            pages, rows = all_tables[reader]
            assert run.first % 4 == 0 and run.first < run.end <= rows
            mine = pages[run.first // 4 : -(-run.end // 4)]
            assert mine == tuple(run.pages[run.first // 4 : -(-run.end // 4)])
            seen[reader].append((run.first, run.end))
    for reader, (_, rows) in enumerate(all_tables):
        keys = [key for first, end in seen[reader] for key in range(first, end)]
        assert sorted(keys) == list(range(rows))


@given(tables(4))
def test_shared_full_pages_are_read_once(all_tables: list[tuple[tuple[int, ...], int]]) -> None:
    """Pages come from forks, so a page stands behind the same pages wherever it stands."""
    read: Counter[int] = Counter()
    for run in shared_runs(all_tables, 4):
        read.update(run.pages[run.first // 4 : run.end // 4])
    full = {page for pages, rows in all_tables for page in pages[: rows // 4]}
    assert read == Counter(dict.fromkeys(full, 1))


def reader(first: int, memory: tuple[int, ...], rows: int, own: int) -> SequenceLayout:
    return SequenceLayout(first, first + 1, memory, rows, (own,), 1, causal=True)


def test_one_memory_of_many_readers_is_read_once() -> None:
    """Also its partly filled last page; equal tables count as the same."""
    memory = tuple(range(10))
    readers = [reader(n, tuple(memory), 39, 100 + n) for n in range(8)]
    plan = plan_decode(readers, 8, SHAPE)
    items = [(rows, keys) for _, window, rows, keys in taken(plan, SHAPE) if not window]
    assert sorted(key for _, keys in items for key in keys) == list(range(39))
    assert all(rows == list(range(8)) for rows, _ in items)


def test_shared_levels() -> None:
    """Four readers of one memory, of which two share what was appended to it."""
    pages = tuple(range(100, 106))
    longer, other = (*pages[:5], 7, 8), (*pages[:5], 9)
    readers = [reader(0, pages, 23, 0), reader(1, longer, 28, 1), reader(2, longer, 28, 2),
               reader(3, other, 22, 3)]  # fmt: skip
    runs = shared_runs([(s.memory_pages, s.memory_rows) for s in readers], 4)
    found = sorted((run.first, run.end, sorted(run.readers)) for run in runs)
    assert found == [(0, 20, [0, 1, 2, 3]), (20, 22, [3]), (20, 23, [0]), (20, 28, [1, 2])]


def test_a_last_page_with_fewer_rows_is_not_shared() -> None:
    """Its common rows would have to be cut inside a page."""
    runs = shared_runs([((1, 2), 8), ((1, 2), 7), ((1, 2), 8)], 4)
    found = sorted((run.first, run.end, sorted(run.readers)) for run in runs)
    assert found == [(0, 4, [0, 1, 2]), (4, 7, [1]), (4, 8, [0, 2])]


def test_a_long_run_is_split_evenly() -> None:
    shape = replace(SHAPE, lanes=(Lane(16, 16, 33),))
    long = SequenceLayout(0, 1, tuple(range(1000)), 4000, (2000,), 1, causal=True)
    plan = plan_decode([long], 1, shape)
    loads = tiles_of_programs(plan, 16)
    assert sum(loads) == 4000 // 16 + 1
    assert 6 <= min(loads) <= max(loads) <= 8


def test_short_runs_are_not_split() -> None:
    shape = replace(SHAPE, lanes=(Lane(16, 16, 4),))
    readers = [
        SequenceLayout(n, n + 1, tuple(range(n * 9, n * 9 + 8)), 32, (500 + n,), 1, causal=True)
        for n in range(30)
    ]
    plan = plan_decode(readers, 30, shape)
    assert len(plan.items) == 60
    loads = tiles_of_programs(plan, 16)
    assert sum(loads) == 90
    assert 21 <= min(loads) <= max(loads) <= 24


def tiles_of_programs(plan: DecodePlan, block_n: int) -> list[int]:
    tiles = -(-(plan.items[:, 3] - plan.items[:, 1]) // block_n)
    return [int(tiles[first:last].sum()) for first, last in pairwise(plan.programs[0])]


def test_cuts_lie_at_borders_of_tiles() -> None:
    """Counted from the first key of a page, so that tiles never cross one where they divide it."""
    shape = replace(SHAPE, page_size=8, lanes=(Lane(16, 4, 5),))
    readers = [SequenceLayout(n, n + 1, tuple(range(9)), 70, (90 + n,), 3, True) for n in range(3)]
    plan = plan_decode(readers, 3, shape)
    assert len(plan.items) > 4
    assert all(first % 4 == 0 for first in plan.items[:, 1].tolist())


@pytest.mark.parametrize(("heads", "parts"), [(16, 1), (17, 17), (18, 2), (64, 4)])
def test_a_group_larger_than_the_largest_tile_is_cut(heads: int, parts: int) -> None:
    shape = replace(SHAPE, heads=heads)
    assert (shape.parts, shape.group) == (parts, heads // parts)
    plan = plan_decode([reader(0, (1, 2), 8, 5)], 1, shape)
    assert pages_of(plan, shape) == wanted([reader(0, (1, 2), 8, 5)], shape)


def test_fixed_tables_say_what_fits() -> None:
    torch = pytest.importorskip("torch")
    memory = tuple(range(10))
    small = plan_decode([reader(0, memory, 39, 50)], 1, SHAPE)
    large = plan_decode([reader(n, memory, 39, 50 + n) for n in range(4)], 4, SHAPE)
    capacity = DecodeCapacity.of(small)
    held = DecodeTables.allocate(SHAPE, capacity, torch.device("cpu"))
    assert held.fits(small) and not held.fits(large)
    with pytest.raises(ValueError, match="no room"):
        held.fill(large)
    roomy = DecodeCapacity.for_batch(SHAPE, rows=4, pages=14)
    held = DecodeTables.allocate(SHAPE, roomy, torch.device("cpu"))
    assert held.fits(large)
    held.fill(large)
    held.fill(small)
    # Nothing of the plan before is left: rows past the new ones have no slots.
    assert held.row_slots[:5].tolist() == [0, *[len(small.entries)] * 4]
    assert held.items[: small.items.size].tolist() == small.items.reshape(-1).tolist()
    assert int(held.items[small.items.size :].abs().sum()) == 0
    for mine, programs in zip(held.programs, small.programs, strict=True):
        assert mine[: len(programs)].tolist() == programs.tolist()
