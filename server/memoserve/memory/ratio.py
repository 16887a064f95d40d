"""Settling which ratio every window of a memory uses, before its first chunk.

The reference draws ``step-random`` and ``instance-random`` from a generator that is never reset,
so the same text gives another memory each time. Here a memory's ratios are settled once, stored
with it, and never drawn.
"""

from __future__ import annotations

from dataclasses import dataclass

from memoserve.errors import InvalidArgument
from memoserve.memory.window import Placement, RatioSchedule, WindowRules


@dataclass(frozen=True)
class RatioPolicy:
    """``beacon_ratio`` and ``beacon_ratio_mix`` of a checkpoint.

    ``max_positions`` is the length that ``adapt-F`` reckons with: ``max_position_embeddings`` times
    the rope factor. ``default`` is taken where the policy would draw at random and the request
    names none.
    """

    ratios: tuple[int, ...]
    mix: str
    max_positions: int
    default: int = 4

    def allowed(self, rules: WindowRules) -> tuple[int, ...]:
        """The listed ratios that may be used: a single one as is, else the divisors of a window."""
        if len(self.ratios) == 1:
            return self.ratios
        return tuple(
            r for r in self.ratios if r == 0 or (r <= rules.window and rules.window % r == 0)
        )

    def reaches_default(self, rules: WindowRules) -> bool:
        """Some memory without a ratio of its own would take ``default``."""
        return len(self.allowed(rules)) > 1 and self.mix != "sequence"


def capacity(rules: WindowRules, max_positions: int, ratio: int) -> int:
    """Raw tokens whose memory and open window stay within ``max_positions``.

    ``(P - W) r + W`` of the reference; ratio 0 holds ``P``.
    """
    if ratio == 0:
        return max_positions
    return max(max_positions - rules.window, 0) * ratio + min(rules.window, max_positions)


def check_ratio(rules: WindowRules, ratio: int, field: str = "ratio") -> None:
    """Refuse a ratio that would lose text without a word."""
    if ratio < 0:
        raise InvalidArgument(field, f"{ratio} is negative")
    if ratio and rules.placement is Placement.APPEND and rules.window % ratio:
        raise InvalidArgument(
            field,
            f"{ratio} does not divide the window of {rules.window} tokens; with appended beacons "
            "the rest of each window would be lost",
        )


def settle(
    rules: WindowRules,
    policy: RatioPolicy,
    *,
    requested: int | None = None,
    expected_tokens: int | None = None,
) -> RatioSchedule:
    """The schedule of a new memory: the request's ratio, else the policy's, else the default.

    ``adapt-F`` takes the ratio whose capacity is the smallest that holds ``expected_tokens + F``,
    or the largest ratio where none does; without a known length, the default.
    """
    if requested is not None:
        check_ratio(rules, requested)
        return RatioSchedule((requested,))
    allowed = policy.allowed(rules)
    if len(allowed) == 1:
        return RatioSchedule(allowed)
    if policy.mix == "sequence":
        return RatioSchedule(allowed)
    if policy.mix.startswith("adapt-") and expected_tokens is not None:
        return RatioSchedule((_adapt(rules, policy, allowed, expected_tokens),))
    check_ratio(rules, policy.default, "default_ratio")
    return RatioSchedule((policy.default,))


def _adapt(
    rules: WindowRules, policy: RatioPolicy, allowed: tuple[int, ...], expected_tokens: int
) -> int:
    need = expected_tokens + int(policy.mix.removeprefix("adapt-"))
    fits = [r for r in allowed if capacity(rules, policy.max_positions, r) >= need]
    if not fits:
        return max(allowed)
    return min(fits, key=lambda r: capacity(rules, policy.max_positions, r))
