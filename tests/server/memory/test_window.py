"""The plan of a window: integers against the rules spelled out token by token."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from memoserve.memory import window as win
from memoserve.memory.window import (
    Coverage,
    Placement,
    RatioSchedule,
    WindowRules,
    WindowState,
)


@dataclass
class Tape:
    """The rules, one raw token at a time: rows of the open window, rows of the memory."""

    rules: WindowRules
    schedule: RatioSchedule
    rows: list[str] = field(default_factory=list)
    memory: list[tuple[int, int]] = field(default_factory=list)  # (window, column) of each row
    counter: int = 0
    windows: int = 0

    @property
    def ratio(self) -> int:
        return self.schedule.ratios[self.windows % len(self.schedule.ratios)]

    def feed(self) -> bool:
        """One raw token; True if it closed the window."""
        self.rows.append("r")
        interleaved = self.rules.placement is Placement.INTERLEAVE
        full = self.rows.count("r") == self.rules.window
        if self.ratio and interleaved:
            self.counter += 1
            if self.counter == self.ratio:
                self.rows.append("b")
                self.counter = 0
        if self.ratio and not interleaved and full:
            self.rows += "b" * (self.rules.window // self.ratio)
        if full:
            self._close()
        return full

    def _close(self) -> None:
        if self.windows == 0:
            self.memory += [(0, c) for c in range(len(self.rows))][: self.rules.sink_size]
        kept = "rb" if self.ratio == 0 else "b"
        self.memory += [(self.windows, c) for c, kind in enumerate(self.rows) if kind in kept]
        self.rows = []
        self.windows += 1


@st.composite
def settings_of_a_memory(draw: st.DrawFn) -> tuple[WindowRules, RatioSchedule]:
    window = draw(st.integers(1, 12))
    append = draw(st.booleans())
    expansion = append and draw(st.booleans())
    rules = WindowRules(
        window,
        Placement.APPEND if append else Placement.INTERLEAVE,
        Coverage.STEP_EXPANSION if expansion else Coverage.FULL,
        draw(st.booleans()),
        draw(st.integers(0, 4)),
    )
    divisors = [0, *(r for r in range(1, window + 1) if window % r == 0)]
    several = st.lists(st.sampled_from(divisors), min_size=1, max_size=4)
    uneven = st.integers(0, window).map(lambda r: [r])
    return rules, RatioSchedule(tuple(draw(several if append else several | uneven)))


memories = settings_of_a_memory()
counts = st.integers(0, 60)


def after(rules: WindowRules, schedule: RatioSchedule, tokens: int) -> tuple[Tape, WindowState]:
    tape = Tape(rules, schedule)
    for _ in range(tokens):
        tape.feed()
    return tape, win.advance(rules, schedule, WindowState(), tokens)


@given(memory=memories, tokens=counts)
def test_state_counts_what_the_tape_holds(
    memory: tuple[WindowRules, RatioSchedule], tokens: int
) -> None:
    rules, schedule = memory
    tape, state = after(rules, schedule, tokens)
    assert state.windows_closed == tape.windows == tokens // rules.window
    assert state.memory_rows == len(tape.memory)
    assert win.open_rows(rules, schedule, state) == len(tape.rows)
    assert win.counter(rules, schedule, state) == tape.counter
    assert win.tokens_fed(rules, state) == tokens
    assert win.room(rules, state) == rules.window - tokens % rules.window
    flags = win.beacon_flags(rules, schedule, state, np.arange(len(tape.rows)))
    assert "".join("b" if flag else "r" for flag in flags) == "".join(tape.rows)
    assert len(tape.rows) <= win.full_rows(rules, schedule)


@given(memory=memories, tokens=counts, data=st.data())
def test_plan_of_a_chunk(
    memory: tuple[WindowRules, RatioSchedule], tokens: int, data: st.DataObject
) -> None:
    rules, schedule = memory
    tape, state = after(rules, schedule, tokens)
    chunk = data.draw(st.integers(1, win.room(rules, state)))
    held, held_memory, before = len(tape.rows), len(tape.memory), tape.ratio
    later = Tape(rules, schedule, list(tape.rows), list(tape.memory), tape.counter, tape.windows)
    closed = [later.feed() for _ in range(chunk)][-1]
    plan = win.plan(rules, schedule, state, chunk)
    assert (plan.tokens, plan.first_column, plan.closes) == (chunk, held, closed)
    assert plan.after == win.advance(rules, schedule, state, chunk)
    assert not plan.is_beacon.all() and (~plan.is_beacon).sum() == chunk
    # Rows of the window now: those held, then those planned.
    flags = win.beacon_flags(rules, schedule, state, np.arange(held + plan.rows))
    assert flags[held:].tolist() == plan.is_beacon.tolist()
    if not closed:
        assert held + plan.rows == len(later.rows)
        assert len(plan.sources) == len(plan.targets) == len(plan.deltas) == 0
        return
    survivors = [column for _, column in later.memory[held_memory:]]
    assert plan.sources.tolist() == survivors
    assert len(survivors) == win.kept_rows(rules, schedule, state)
    assert plan.targets.tolist() == list(range(held_memory, len(later.memory)))
    planned = [planned_position(rules, before, held_memory, c) for c in survivors]
    assert plan.deltas.tolist() == (plan.targets - np.array(planned, dtype=int)).tolist()


def planned_position(rules: WindowRules, ratio: int, memory_rows: int, column: int) -> int:
    """The index in [memory | window], but for a beacon that sees its own step only."""
    if rules.coverage is Coverage.FULL or ratio == 0 or column < rules.window:
        return memory_rows + column
    beacon = column - rules.window
    return memory_rows + (beacon + 1) * ratio + (beacon if rules.attend_prev else 0)


@given(memory=memories, tokens=counts, data=st.data())
def test_positions_and_visibility(
    memory: tuple[WindowRules, RatioSchedule], tokens: int, data: st.DataObject
) -> None:
    rules, schedule = memory
    _, state = after(rules, schedule, tokens)
    plan = win.plan(rules, schedule, state, data.draw(st.integers(1, win.room(rules, state))))
    ratio = schedule.at(state.windows_closed)
    narrow = rules.coverage is Coverage.STEP_EXPANSION and ratio > 0
    assert plan.causal == (not (narrow and plan.is_beacon.any()))
    for row in range(plan.rows):
        own = plan.first_column + row
        assert plan.positions[row] == planned_position(rules, ratio, state.memory_rows, own)
        seen = {c for c in range(own + 1) if c < plan.limits[row] or c >= plan.starts[row]}
        if narrow and plan.is_beacon[row]:
            beacon = own - rules.window
            raw = set(range((beacon + 1) * ratio))
            earlier = set(range(rules.window, own)) if rules.attend_prev else set()
            assert seen == raw | earlier | {own}
        else:
            assert seen == set(range(own + 1))


@given(memory=memories, tokens=counts, more=counts)
def test_advance_adds_up(memory: tuple[WindowRules, RatioSchedule], tokens: int, more: int) -> None:
    rules, schedule = memory
    once = win.advance(rules, schedule, WindowState(), tokens + more)
    assert win.advance(rules, schedule, after(rules, schedule, tokens)[1], more) == once


@given(memory=memories, windows=st.integers(0, 7))
def test_border_is_the_state_right_after_a_close(
    memory: tuple[WindowRules, RatioSchedule], windows: int
) -> None:
    rules, schedule = memory
    tape, _ = after(rules, schedule, windows * rules.window)
    border = win.border(rules, schedule, windows)
    assert (border.windows_closed, border.open_tokens) == (windows, 0)
    assert (border.memory_rows, border.open_counter) == (len(tape.memory), tape.counter)


def test_an_uneven_ratio_carries_its_rest_into_the_next_window() -> None:
    rules, schedule = WindowRules(16), RatioSchedule((3,))
    counters = [win.border(rules, schedule, w).open_counter for w in range(4)]
    kept = [win.border(rules, schedule, w).memory_rows for w in range(4)]
    assert counters == [0, 1, 2, 0]
    assert kept == [0, 5, 10, 16]


def test_the_published_setting_has_the_published_sizes() -> None:
    """131,072 raw tokens at window 2048: a memory of a half to a sixteenth of the rows."""
    for ratio in (2, 4, 8, 16):
        rules, schedule = WindowRules(2048), RatioSchedule((ratio,))
        state = win.advance(rules, schedule, WindowState(), 131_072)
        assert state == WindowState(64, 0, 0, 131_072 // ratio)
        assert win.full_rows(rules, schedule) >= 2048 + 2048 // ratio


def test_a_chunk_stays_in_its_window() -> None:
    rules, schedule = WindowRules(8), RatioSchedule((4,))
    for tokens in (0, 9, -1):
        with pytest.raises(ValueError, match="1 to 8"):
            win.plan(rules, schedule, WindowState(), tokens)
    with pytest.raises(ValueError, match="1 to 3"):
        win.plan(rules, schedule, WindowState(open_tokens=5), 4)


def test_rules_that_cannot_be() -> None:
    with pytest.raises(ValueError, match="window"):
        WindowRules(0)
    with pytest.raises(ValueError, match="sink_size"):
        WindowRules(4, sink_size=-1)
    with pytest.raises(ValueError, match="full coverage"):
        WindowRules(4, Placement.INTERLEAVE, Coverage.STEP_EXPANSION)
    for ratios in ((), (4, -1)):
        with pytest.raises(ValueError, match="ratios"):
            RatioSchedule(ratios)
