"""Single tokens are placed in plain integers: where their plan would have put them."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from memoserve.engine.placed import ROW_INTEGERS, Chunk, Planned, Singles
from memoserve.engine.sequence import Logits
from memoserve.engine.step import take_step
from memoserve.memory import window as win
from memoserve.memory.kv_cache import KVCache, KVShape
from memoserve.memory.memory import PagedState
from memoserve.memory.page_pool import PagePool
from memoserve.memory.window import Coverage, Placement, RatioSchedule, WindowRules

SHAPE = KVShape(1, 1, 2, torch.float32)
PAGES, SIZE = 200, 3


@st.composite
def rules(draw: st.DrawFn) -> WindowRules:
    placement = draw(st.sampled_from(Placement))
    coverages = [Coverage.FULL] if placement is Placement.INTERLEAVE else list(Coverage)
    return WindowRules(
        draw(st.integers(2, 9)),
        placement,
        draw(st.sampled_from(coverages)),
        draw(st.booleans()),
        draw(st.integers(0, 3)),
    )


def states(rules: WindowRules, tokens: list[tuple[int, int]]) -> tuple[KVCache, list[PagedState]]:
    """A sequence for each (ratio, tokens fed); every second one is a fork of the one before."""
    pool, made = PagePool(PAGES, SIZE), list[PagedState]()
    for number, (ratio, fed) in enumerate(tokens):
        if number % 2:
            made.append(made[-1].fork())
            continue
        paged = PagedState.fresh(pool, RatioSchedule((ratio,)))
        paged.state = win.advance(rules, paged.schedule, paged.state, fed)
        paged.memory.extend(paged.state.memory_rows)
        paged.window.extend(win.open_rows(rules, paged.schedule, paged.state))
        made.append(paged)
    return KVCache(SHAPE, PAGES, SIZE, torch.device("cpu")), made


def singles_of(rules: WindowRules, paged: list[PagedState]) -> list[Chunk]:
    logits = (Logits.LAST, Logits.ALL)
    chunks = [Chunk(p, (40 + n,), logits[n % 2]) for n, p in enumerate(paged)]
    return [chunk for chunk in chunks if chunk.is_single(rules)]


FED = st.lists(st.tuples(st.sampled_from([0, 1, 2, 4]), st.integers(0, 30)), min_size=1, max_size=5)


@given(rules(), FED)
def test_a_single_token_stands_where_its_plan_says(
    rules: WindowRules, fed: list[tuple[int, int]]
) -> None:
    assume(
        rules.placement is Placement.INTERLEAVE
        or all(not ratio or rules.window % ratio == 0 for ratio, _ in fed)
    )
    cache, paged = states(rules, fed)
    other_cache, same = states(rules, fed)
    single = Singles(rules, cache, singles_of(rules, paged))
    plan = Planned(rules, other_cache, singles_of(rules, same))
    for name in ROW_INTEGERS:
        np.testing.assert_array_equal(single.rows[name], plan.rows[name], err_msg=name)
    np.testing.assert_array_equal(single.is_beacon, plan.is_beacon)
    np.testing.assert_array_equal(single.wanted, plan.wanted)
    assert (single.counts, single.after) == (plan.counts, plan.after)
    assert single.layouts(5) == plan.layouts(5)
    assert single.asking(5) == plan.asking(5)
    behind = [s for s in plan.layouts(0) if s.last_row - s.first_row == 2]
    assert [s.window_rows for s in single.beacons(7)] == [s.window_rows for s in behind]
    assert [s.first_row for s in single.beacons(7)] == list(range(7, 7 + len(behind)))


def test_single_tokens_come_first_and_answers_go_to_who_asked() -> None:
    rules = WindowRules(8)
    cache, paged = states(rules, [(4, 3), (4, 3), (4, 2), (4, 0), (0, 4)])
    chunks = [
        Chunk(paged[0], (1, 2), Logits.ALL),
        Chunk(paged[1], (3,), Logits.LAST),  # its fourth token: a beacon follows
        Chunk(paged[3], (4, 5), Logits.NONE),
        Chunk(paged[4], (6,), Logits.LAST),
    ]
    step = take_step(rules, cache, chunks)
    assert step.integers["ids"].tolist() == [3, 0, 6, 1, 0, 2, 4, 5, 0]
    assert step.integers["beacon"].tolist() == [1, 4, 8]
    assert step.integers["output_rows"].tolist() == [0, 2, 3, 5]
    assert step.integers["output_columns"].tolist() == [3, 4, 3, 5]
    assert [step.counts[id(chunk)] for chunk in chunks] == [2, 1, 0, 1]
    assert [(s.first_row, s.last_row) for s in step.layouts] == [(0, 2), (2, 3), (3, 6), (6, 9)]
    assert [(s.first_row, s.last_row) for s in step.asking] == [(0, 1), (1, 2), (2, 4)]
