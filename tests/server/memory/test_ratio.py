"""Settling the ratio: one entry, a sequence, adapt, and never a draw."""

from __future__ import annotations

import pytest

from memoserve.errors import InvalidArgument
from memoserve.memory.ratio import RatioPolicy, capacity, check_ratio, settle
from memoserve.memory.window import Placement, RatioSchedule, WindowRules

RULES = WindowRules(16)
APPEND = WindowRules(16, Placement.APPEND)


def policy(
    *ratios: int, mix: str = "step-random", max_positions: int = 40, default: int = 4
) -> RatioPolicy:
    return RatioPolicy(ratios, mix, max_positions, default)


def test_one_entry_is_taken_as_it_is() -> None:
    assert settle(RULES, policy(3)) == RatioSchedule((3,))
    assert settle(RULES, policy(0)) == RatioSchedule((0,))
    assert settle(RULES, policy(3, mix="adapt-5"), expected_tokens=999) == RatioSchedule((3,))


def test_several_keep_the_divisors_of_the_window() -> None:
    assert policy(0, 2, 3, 4, 16, 32).allowed(RULES) == (0, 2, 4, 16)
    assert settle(RULES, policy(2, 3, 8, mix="sequence")) == RatioSchedule((2, 8))


@pytest.mark.parametrize("mix", ["step-random", "instance-random"])
def test_a_random_choice_is_settled_not_drawn(mix: str) -> None:
    assert settle(RULES, policy(2, 4, 8, mix=mix)) == RatioSchedule((4,))
    assert settle(RULES, policy(2, 4, 8, mix=mix, default=8)) == RatioSchedule((8,))
    assert settle(RULES, policy(2, 4, 8, mix=mix), requested=2) == RatioSchedule((2,))


def test_the_request_goes_first() -> None:
    assert settle(RULES, policy(8), requested=0) == RatioSchedule((0,))
    assert settle(RULES, policy(2, 4, mix="sequence"), requested=5) == RatioSchedule((5,))


# Capacities (P - W) r + W with P = 40, W = 16: 64, 112, 208.
@pytest.mark.parametrize(
    ("expected", "ratio"), [(1, 2), (40, 2), (41, 4), (60, 4), (88, 4), (89, 8), (184, 8), (999, 8)]
)
def test_adapt_takes_the_smallest_capacity_that_holds(expected: int, ratio: int) -> None:
    settled = settle(RULES, policy(2, 4, 8, mix="adapt-24"), expected_tokens=expected)
    assert settled == RatioSchedule((ratio,))


def test_adapt_knows_ratio_0_and_an_unknown_length() -> None:
    with_plain = policy(0, 2, 4, mix="adapt-10")
    assert settle(RULES, with_plain, expected_tokens=30) == RatioSchedule((0,))
    assert settle(RULES, with_plain, expected_tokens=31) == RatioSchedule((2,))
    assert settle(RULES, with_plain) == RatioSchedule((4,))


def test_capacity() -> None:
    """Published numbers: P = 32,768, W = 2048."""
    rules = WindowRules(2048)
    found = [capacity(rules, 32_768, r) for r in (0, 2, 4, 8, 16)]
    assert found == [32_768, 63_488, 124_928, 247_808, 493_568]
    assert capacity(WindowRules(64), 40, 4) == 40


@pytest.mark.parametrize(
    ("rules", "ratio", "said"),
    [
        (RULES, -1, "negative"),
        (APPEND, 3, "does not divide"),
        (APPEND, 32, "does not divide"),
    ],
)
def test_a_ratio_that_loses_text_is_refused(rules: WindowRules, ratio: int, said: str) -> None:
    with pytest.raises(InvalidArgument, match=said) as caught:
        check_ratio(rules, ratio, "options.ratio")
    assert caught.value.field == "options.ratio"
    with pytest.raises(InvalidArgument):
        settle(rules, policy(2, 4), requested=ratio)


def test_what_is_accepted() -> None:
    for rules, ratio in ((RULES, 0), (RULES, 3), (RULES, 16), (APPEND, 0), (APPEND, 8)):
        check_ratio(rules, ratio)


def test_a_default_that_does_not_fit_is_refused() -> None:
    with pytest.raises(InvalidArgument):
        settle(APPEND, policy(2, 8, default=3))


def test_interleaved_beacons_take_any_ratio() -> None:
    """Their count goes on over window borders, so one above the window loses nothing."""
    check_ratio(RULES, RULES.window + 1)
    wide = RULES.window + 1
    assert settle(RULES, policy(wide)).ratios == (wide,)


def test_only_a_policy_that_may_need_it_reaches_the_default() -> None:
    assert policy(2, 4).reaches_default(RULES)
    assert not policy(3).reaches_default(RULES)
