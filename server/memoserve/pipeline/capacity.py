"""How much text a memory may hold. The engine itself has no such limit."""

from __future__ import annotations

from collections.abc import Callable

from memoserve.errors import OutOfRange
from memoserve.memory.ratio import capacity
from memoserve.memory.window import Placement, RatioSchedule
from memoserve.pipeline.runtime import Runtime
from memoserve.pipeline.values import MemorizeHeader, Notice

KNOWN_RATIOS = (2, 4, 8, 16, 32, 64)


class CapacityCheck:
    """Refuses, or where extrapolation is allowed tells once, that a text is too long."""

    def __init__(
        self,
        runtime: Runtime,
        header: MemorizeHeader,
        schedule: RatioSchedule,
        tell: Callable[[Notice], None],
    ) -> None:
        self._rules = runtime.worker.rules
        self._policy = runtime.policy
        self._positions = runtime.model.rope.max_positions
        self._hard = runtime.model.rope.hard_limit is not None
        self._header = header
        self._tell = tell
        self._told = False
        self._ratio = schedule.ratios[0]
        self.limit = min(self._capacity(ratio) for ratio in schedule.ratios)

    def _capacity(self, ratio: int) -> int:
        return capacity(self._rules, self._positions, ratio)

    def __call__(self, tokens: int) -> None:
        """Check the length a memory would have; raises OutOfRange."""
        if tokens <= self.limit or self._told:
            return
        need = max(tokens, self._header.expected_tokens or 0)
        fitting = self._fitting_ratio(need)
        advice = f"ratio {fitting} would hold {need}" if fitting else f"no ratio holds {need}"
        text = (
            f"the text has at least {need} tokens; the model holds {self.limit} at ratio "
            f"{self._ratio}; {advice}"
        )
        if self._hard or not self._header.allow_extrapolation:
            raise OutOfRange(
                text, capacity_tokens=self.limit, tokens=need, fitting_ratio=fitting or "none"
            )
        self._told = True
        self._tell(Notice("BEYOND_CAPACITY", text))

    def _fitting_ratio(self, tokens: int) -> int | None:
        candidates = sorted({*self._policy.allowed(self._rules), *KNOWN_RATIOS} - {0})
        whole = self._rules.placement is Placement.INTERLEAVE
        usable = [
            r
            for r in candidates
            if r <= self._rules.window and (whole or self._rules.window % r == 0)
        ]
        return next((ratio for ratio in usable if self._capacity(ratio) >= tokens), None)
