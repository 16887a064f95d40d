"""Who takes part in the next step, with how many tokens."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from memoserve.engine.sequence import Sequence
from memoserve.memory import window as win
from memoserve.memory.window import WindowRules

FIRST_CUT = 32
MEASURED_FROM = 16
SMOOTHING = 0.3
LEAST_PROGRESS = 16


@dataclass(frozen=True)
class StepLimits:
    """How large a step may be.

    ``chunk_tokens``: most tokens of one sequence; ``step_tokens``: most tokens of all
    prompts and memorized windows together; ``target_s``: time a step may take while
    queries run (0: no cut).
    """

    chunk_tokens: int
    step_tokens: int
    target_s: float = 0.2

    def __post_init__(self) -> None:
        if self.chunk_tokens < 1 or self.step_tokens < 1 or self.target_s < 0:
            raise ValueError(f"a step needs room: {self}")


@dataclass(frozen=True)
class Share:
    """A sequence's part of a step."""

    sequence: Sequence
    tokens: int


class Scheduler:
    """Cuts steps. Decodes first, then prompts by age, then memories by who waited longest."""

    def __init__(self, rules: WindowRules, limits: StepLimits) -> None:
        self.rules = rules
        self.limits = limits
        self._tokens_per_s: float | None = None

    def schedule(self, running: Iterable[Sequence]) -> list[Share]:
        """Shares of the next step; empty where nobody has input."""
        ready = [s for s in running if s.pending]
        decodes = [s for s in ready if s.decoding]
        prompts = [s for s in ready if not s.decoding and not s.compresses]
        memories = sorted((s for s in ready if s.compresses), key=lambda s: s.last_step)
        shares = [Share(sequence, 1) for sequence in decodes]
        for group, cut in ((prompts, bool(decodes)), (memories, bool(decodes or prompts))):
            budget = self._budget(cut) - sum(share.tokens for share in shares)
            for place, sequence in enumerate(group):
                # The first of a group always moves on, or a busy server would starve it.
                tokens = self._chunk(sequence, max(budget, 0 if place else LEAST_PROGRESS))
                if tokens < 1:
                    break
                shares.append(Share(sequence, tokens))
                budget -= tokens
        return shares

    def _budget(self, cut: bool) -> int:
        if not cut or self.limits.target_s == 0:
            return self.limits.step_tokens
        if self._tokens_per_s is None:
            return min(FIRST_CUT, self.limits.step_tokens)
        fits = max(int(self._tokens_per_s * self.limits.target_s), 1)
        return min(fits, self.limits.step_tokens)

    def _chunk(self, sequence: Sequence, budget: int) -> int:
        if sequence.paged is None:
            raise ValueError("a running sequence has pages")
        room = win.room(self.rules, sequence.paged.state)
        return min(len(sequence.pending), room, budget, self.limits.chunk_tokens)

    def observe(self, tokens: int, seconds: float) -> None:
        """Learn the device's speed from a finished step."""
        if tokens < MEASURED_FROM or seconds <= 0:
            return
        speed = tokens / seconds
        known = self._tokens_per_s
        self._tokens_per_s = speed if known is None else known + SMOOTHING * (speed - known)
