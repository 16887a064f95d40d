"""The plan of a beacon window: which rows a chunk has, where they stand, what they see.

Integers only (numpy, no torch). Source: arXiv 2401.03462 section 3 and arXiv 2409.05591; the
window counts raw tokens, closes in the very forward of its last raw token, and keeps only its
beacons. A row's position is its index in ``[sink | beacons | open window]``, except under
step-expansion, where the plan says otherwise.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]


class Placement(enum.Enum):
    """Where beacon rows stand: after every ``ratio`` raw tokens, or after the whole window."""

    INTERLEAVE = "interleave"
    APPEND = "append"


class Coverage(enum.Enum):
    """What a beacon of the open window sees of it: all before it, or its own step."""

    FULL = "full-coverage"
    STEP_EXPANSION = "step-expansion"


@dataclass(frozen=True)
class WindowRules:
    """Settings of a memory model that never change. ``window`` and ``sink_size`` in rows."""

    window: int
    placement: Placement = Placement.INTERLEAVE
    coverage: Coverage = Coverage.FULL
    attend_prev: bool = True
    sink_size: int = 0

    def __post_init__(self) -> None:
        if self.window < 1:
            raise ValueError(f"window must be at least 1, not {self.window}")
        if self.sink_size < 0:
            raise ValueError(f"sink_size must not be negative: {self.sink_size}")
        if self.placement is Placement.INTERLEAVE and self.coverage is not Coverage.FULL:
            raise ValueError("interleaved beacons are defined for full coverage only")


@dataclass(frozen=True)
class RatioSchedule:
    """Window ``w`` uses ``ratios[w % len(ratios)]``; 0 keeps every row of the window.

    ``sink`` False leaves the model's sink out: ratio 0 is then the base model exactly, which with
    a sink would read its first rows twice.
    """

    ratios: tuple[int, ...]
    sink: bool = True

    def __post_init__(self) -> None:
        if not self.ratios or min(self.ratios) < 0:
            raise ValueError(f"ratios must be non-empty and not negative: {self.ratios}")

    def at(self, window_index: int) -> int:
        """Ratio of the window with this index, counted from the start of the sequence."""
        return self.ratios[window_index % len(self.ratios)]


@dataclass(frozen=True)
class WindowState:
    """All a continuation needs to know beside the K and V themselves.

    ``open_counter`` is the number of raw tokens since the last beacon when the open window
    began; the counter of any later moment follows from it.
    """

    windows_closed: int = 0
    open_tokens: int = 0
    open_counter: int = 0
    memory_rows: int = 0


@dataclass(frozen=True)
class Plan:
    """One chunk of one sequence, all inside one window.

    Row ``i`` is window column ``first_column + i`` and sees all memory rows and the window
    columns ``[0, limits[i])`` and ``[starts[i], its own column]``. When ``closes``, source
    column ``sources[k]`` moves to memory row ``targets[k]`` and its key turns by ``deltas[k]``.
    """

    tokens: int
    first_column: int
    is_beacon: Flags
    positions: Ints
    limits: Ints
    starts: Ints
    closes: bool
    sources: Ints
    targets: Ints
    deltas: Ints
    after: WindowState

    @property
    def rows(self) -> int:
        """Rows of the forward, raw and beacon."""
        return len(self.is_beacon)

    @property
    def causal(self) -> bool:
        """Every row sees every window column up to itself."""
        return not self.starts.any() and not self.limits.any()


def tokens_fed(rules: WindowRules, state: WindowState) -> int:
    """Raw tokens fed from the start of the sequence."""
    return state.windows_closed * rules.window + state.open_tokens


def room(rules: WindowRules, state: WindowState) -> int:
    """Raw tokens that the open window still takes; never 0."""
    return rules.window - state.open_tokens


def columns(rules: WindowRules, ratio: int, counter: int, tokens: int) -> int:
    """Rows of a window after ``tokens`` raw tokens, entered with ``counter``."""
    if ratio == 0:
        return tokens
    if rules.placement is Placement.INTERLEAVE:
        return tokens + (counter + tokens) // ratio
    return tokens + (rules.window // ratio if tokens == rules.window else 0)


def open_rows(rules: WindowRules, schedule: RatioSchedule, state: WindowState) -> int:
    """Rows of the open window that are stored now."""
    ratio = schedule.at(state.windows_closed)
    return columns(rules, ratio, state.open_counter, state.open_tokens)


def rows_after(rules: WindowRules, schedule: RatioSchedule, state: WindowState, tokens: int) -> int:
    """Rows of the open window once ``tokens`` more are in it, before it closes."""
    return open_rows(rules, schedule, replace(state, open_tokens=state.open_tokens + tokens))


def full_rows(rules: WindowRules, schedule: RatioSchedule) -> int:
    """Most rows that any whole window can have."""
    return max(columns(rules, r, max(r - 1, 0), rules.window) for r in schedule.ratios)


def counter(rules: WindowRules, schedule: RatioSchedule, state: WindowState) -> int:
    """Raw tokens since the last beacon; stands still under append and at ratio 0."""
    ratio = schedule.at(state.windows_closed)
    if ratio == 0 or rules.placement is Placement.APPEND:
        return state.open_counter
    return (state.open_counter + state.open_tokens) % ratio


def beacon_flags(
    rules: WindowRules, schedule: RatioSchedule, state: WindowState, cols: Ints
) -> Flags:
    """Which columns of the open window are beacons."""
    ratio = schedule.at(state.windows_closed)
    if ratio == 0:
        return np.zeros(len(cols), dtype=np.bool_)
    if rules.placement is Placement.INTERLEAVE:
        flags: Flags = (cols + state.open_counter) % (ratio + 1) == ratio
        return flags
    return cols >= rules.window


def _positions(rules: WindowRules, ratio: int, memory_rows: int, cols: Ints) -> Ints:
    """Planned position of window columns: the index, or the step's end under step-expansion."""
    if rules.coverage is Coverage.FULL or ratio == 0:
        return memory_rows + cols
    beacon = cols - rules.window
    step_end = (beacon + 1) * ratio + (beacon if rules.attend_prev else 0)
    return memory_rows + np.where(beacon < 0, cols, step_end)


def _visibility(rules: WindowRules, ratio: int, cols: Ints) -> tuple[Ints, Ints]:
    """(limits, starts) of each row; plain causal unless it is a step-expansion beacon."""
    if rules.coverage is Coverage.FULL or ratio == 0:
        return np.zeros_like(cols), np.zeros_like(cols)
    beacon = cols - rules.window
    limits = np.where(beacon < 0, 0, (beacon + 1) * ratio)
    first = np.full_like(cols, rules.window) if rules.attend_prev else cols
    return limits, np.where(beacon < 0, 0, first)


def _close(
    rules: WindowRules, schedule: RatioSchedule, state: WindowState, num_columns: int
) -> tuple[Ints, Ints, Ints]:
    """(sources, targets, deltas) of the rows that survive the window."""
    ratio = schedule.at(state.windows_closed)
    cols = np.arange(num_columns, dtype=np.int64)
    kept = cols if ratio == 0 else cols[beacon_flags(rules, schedule, state, cols)]
    if state.windows_closed == 0 and schedule.sink:
        # The sink is extra: its rows may also be kept as beacons, at another slot.
        kept = np.concatenate([cols[: rules.sink_size], kept])
    targets = state.memory_rows + np.arange(len(kept), dtype=np.int64)
    return kept, targets, targets - _positions(rules, ratio, state.memory_rows, kept)


def plan(rules: WindowRules, schedule: RatioSchedule, state: WindowState, tokens: int) -> Plan:
    """Plan the next ``tokens`` raw tokens; at most ``room`` of them."""
    if not 1 <= tokens <= room(rules, state):
        raise ValueError(f"a chunk takes 1 to {room(rules, state)} tokens, not {tokens}")
    ratio = schedule.at(state.windows_closed)
    fed = replace(state, open_tokens=state.open_tokens + tokens)
    first, last = open_rows(rules, schedule, state), rows_after(rules, schedule, state, tokens)
    cols = np.arange(first, last, dtype=np.int64)
    limits, starts = _visibility(rules, ratio, cols)
    closes = fed.open_tokens == rules.window
    none = np.zeros(0, dtype=np.int64)
    sources, targets, deltas = (
        _close(rules, schedule, state, last) if closes else (none, none, none)
    )
    after = fed if not closes else _next_window(rules, schedule, fed, len(sources))
    return Plan(
        tokens=tokens,
        first_column=first,
        is_beacon=beacon_flags(rules, schedule, state, cols),
        positions=_positions(rules, ratio, state.memory_rows, cols),
        limits=limits,
        starts=starts,
        closes=closes,
        sources=sources,
        targets=targets,
        deltas=deltas,
        after=after,
    )


def _next_window(
    rules: WindowRules, schedule: RatioSchedule, full: WindowState, kept: int
) -> WindowState:
    return WindowState(
        windows_closed=full.windows_closed + 1,
        open_tokens=0,
        open_counter=counter(rules, schedule, full),
        memory_rows=full.memory_rows + kept,
    )


def kept_rows(rules: WindowRules, schedule: RatioSchedule, state: WindowState) -> int:
    """Rows that the open window will leave in memory when it closes."""
    ratio = schedule.at(state.windows_closed)
    total = columns(rules, ratio, state.open_counter, rules.window)
    kept = total if ratio == 0 else total - rules.window
    has_sink = state.windows_closed == 0 and schedule.sink
    return kept + (min(rules.sink_size, total) if has_sink else 0)


def advance(
    rules: WindowRules, schedule: RatioSchedule, state: WindowState, tokens: int
) -> WindowState:
    """State after ``tokens`` more raw tokens, without planning their rows."""
    while tokens >= room(rules, state):
        tokens -= room(rules, state)
        full = replace(state, open_tokens=rules.window)
        state = _next_window(rules, schedule, full, kept_rows(rules, schedule, state))
    return replace(state, open_tokens=state.open_tokens + tokens)


def border(rules: WindowRules, schedule: RatioSchedule, windows: int) -> WindowState:
    """State of a sequence right after its first ``windows`` windows closed."""
    return advance(rules, schedule, WindowState(), windows * rules.window)
