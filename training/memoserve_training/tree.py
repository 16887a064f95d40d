"""Rows of a training sequence: a trunk that is memorized, and branches that each ask it.

Integers only. A trunk is a document; a branch is what a query feeds behind it on a fork of its
own. All trunks of a batch have one length, and all branches: one plan serves the whole batch.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from memoserve.memory.window import (
    Flags,
    Ints,
    Plan,
    RatioSchedule,
    WindowRules,
    WindowState,
    plan,
    room,
)


@dataclass(frozen=True)
class Piece:
    """The rows that one run puts into one window; ``first`` is its first row in the run."""

    first: int
    before: WindowState
    plan: Plan

    @property
    def rows(self) -> slice:
        """Rows of the run."""
        return slice(self.first, self.first + self.plan.rows)


@dataclass(frozen=True)
class Run:
    """Raw tokens fed one after the other from ``before``, cut at window borders."""

    before: WindowState
    pieces: tuple[Piece, ...]

    @property
    def rows(self) -> int:
        """Rows, raw and beacon."""
        return sum(piece.plan.rows for piece in self.pieces)

    @property
    def after(self) -> WindowState:
        """State behind the last token."""
        return self.pieces[-1].plan.after if self.pieces else self.before

    @property
    def is_beacon(self) -> Flags:
        """Which rows are beacons."""
        flags = [piece.plan.is_beacon for piece in self.pieces]
        return np.concatenate(flags) if flags else np.zeros(0, dtype=np.bool_)

    @property
    def raw_rows(self) -> Ints:
        """The row of each token."""
        return np.flatnonzero(~self.is_beacon)


def run(rules: WindowRules, schedule: RatioSchedule, before: WindowState, tokens: int) -> Run:
    """Plan ``tokens`` raw tokens behind ``before``."""
    pieces: list[Piece] = []
    state, first = before, 0
    while tokens:
        step = plan(rules, schedule, state, min(tokens, room(rules, state)))
        pieces.append(Piece(first, state, step))
        state, first, tokens = step.after, first + step.rows, tokens - step.tokens
    return Run(before, tuple(pieces))


@dataclass(frozen=True)
class Tree:
    """One trunk and ``branches`` branches of equal length behind it."""

    trunk: Run
    branch: Run
    branches: int

    @property
    def rows(self) -> int:
        """Rows of one document: its trunk's, then those of each branch."""
        return self.trunk.rows + self.branches * self.branch.rows

    @property
    def is_beacon(self) -> Flags:
        """Which rows are beacons, in the order of ``rows``."""
        branch = np.tile(self.branch.is_beacon, self.branches)
        return np.concatenate([self.trunk.is_beacon, branch])


def tree(
    rules: WindowRules,
    schedule: RatioSchedule,
    trunk_tokens: int,
    branch_tokens: int = 0,
    branches: int = 0,
) -> Tree:
    """Plan a document of ``trunk_tokens`` and ``branches`` branches of ``branch_tokens``."""
    if bool(branch_tokens) != bool(branches):
        raise ValueError(f"{branches} branches of {branch_tokens} tokens")
    trunk = run(rules, schedule, WindowState(), trunk_tokens)
    return Tree(trunk, run(rules, schedule, trunk.after, branch_tokens), branches)


@dataclass(frozen=True)
class Places:
    """Positions of memory rows: ``slots [M]``, increasing; without gaps a slot's own number."""

    slots: Ints

    def start(self, memory_rows: int) -> int:
        """Position of the first row behind ``memory_rows`` rows of memory."""
        return int(self.slots[memory_rows - 1]) + 1 if memory_rows else 0

    def of_rows(self, piece: Piece) -> Ints:
        """Positions of a piece's rows."""
        memory = piece.before.memory_rows
        return piece.plan.positions - memory + self.start(memory)

    def behind(self, memory_rows: int, rows: int) -> Places:
        """Positions of ``rows`` slots, the last ``rows - memory_rows`` of them behind these."""
        shift = self.start(len(self.slots)) - memory_rows
        return Places(np.arange(rows, dtype=np.int64) + shift)


def places(rng: np.random.Generator, rows: int, span: int = 0) -> Places:
    """Positions of ``rows`` memory rows: without gaps, or drawn from ``span`` positions.

    A model that meets gaps in training reads memories longer than any it was trained on
    (measured in docs/training-log.md).
    """
    if span <= rows:
        return Places(np.arange(rows, dtype=np.int64))
    return Places(np.sort(rng.choice(span, rows, replace=False)).astype(np.int64))
