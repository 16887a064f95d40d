"""How wishes become sampling parameters, and how much text a memory may hold."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, cast

import pytest

from memoserve.engine.sampler import SamplingParams
from memoserve.errors import InvalidArgument, OutOfRange
from memoserve.memory.ratio import RatioPolicy
from memoserve.memory.window import Coverage, Placement, RatioSchedule, WindowRules
from memoserve.pipeline.api import MAX_STOPS
from memoserve.pipeline.capacity import CapacityCheck
from memoserve.pipeline.runtime import Runtime
from memoserve.pipeline.sampling import resolve
from memoserve.pipeline.values import MemorizeHeader, MemoryName, Notice, SamplingOptions

CHECKPOINT = {"do_sample": True, "temperature": 0.7, "top_k": 20, "top_p": 0.8} | {
    "repetition_penalty": 1.05
}


def test_without_wishes_the_checkpoint_decides() -> None:
    assert resolve(SamplingOptions(), CHECKPOINT, 99, 4096) == SamplingParams(
        99, 0.7, 20, 0.8, 1.05, None
    )


def test_a_checkpoint_that_does_not_sample_is_greedy_but_keeps_its_penalty() -> None:
    for stated in (
        CHECKPOINT | {"do_sample": False},
        {k: CHECKPOINT[k] for k in list(CHECKPOINT)[1:]},
    ):
        params = resolve(SamplingOptions(), stated, 99, 4096)
        assert params == SamplingParams(99, repetition_penalty=1.05)
        assert params.greedy


def test_a_checkpoint_that_samples_without_a_temperature_means_one() -> None:
    params = resolve(SamplingOptions(), {"do_sample": True}, 9, 4096)
    assert (params.temperature, params.top_k, params.top_p) == (1.0, 0, 1.0)


def test_wishes_go_first_also_where_they_are_zero() -> None:
    wishes = SamplingOptions(3, 0.0, 0, 1.0, 1.0, 5)
    assert resolve(wishes, CHECKPOINT, 99, 4096) == SamplingParams(3, seed=5)
    assert resolve(SamplingOptions(temperature=0.5), {}, 99, 4096).temperature == 0.5


def test_nonsense_of_a_checkpoint_is_passed_over() -> None:
    params = resolve(SamplingOptions(), {"do_sample": True, "top_k": "many", "top_p": None}, 9, 99)
    assert (params.top_k, params.top_p) == (0, 1.0)


@pytest.mark.parametrize(
    ("wish", "field"),
    [
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 4097}, "max_tokens"),
        ({"temperature": -0.1}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"top_p": 0.0}, "top_p"),
        ({"top_k": -1}, "top_k"),
        ({"repetition_penalty": 0.0}, "repetition_penalty"),
        ({"seed": 2**63}, "seed"),
        ({"stop": ("x",) * (MAX_STOPS + 1)}, "stop"),
    ],
    ids=str,
)
def test_a_bad_wish_names_its_field(wish: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        resolve(SamplingOptions(**wish), CHECKPOINT, 99, 4096)
    assert caught.value.field == f"sampling.{field}"


# -- capacity


@dataclass
class _Rope:
    max_positions: int
    hard_limit: int | None = None


class _Fake:
    """The few parts of a runtime that capacity looks at."""

    def __init__(self, window: int, positions: int, placement: Placement) -> None:
        rules = WindowRules(window=window, placement=placement, coverage=Coverage.FULL)
        self.worker = type("Worker", (), {"rules": rules})()
        self.policy = RatioPolicy((2, 4, 8, 16, 32), "step-random", positions)
        self.model = type("Model", (), {"rope": _Rope(positions)})()


def check_for(
    ratio: int,
    *,
    positions: int = 32768,
    window: int = 2048,
    placement: Placement = Placement.INTERLEAVE,
    hard: bool = False,
    **header: Any,
) -> tuple[CapacityCheck, list[Notice]]:
    told: list[Notice] = []
    fake = _Fake(window, positions, placement)
    fake.model.rope.max_positions = positions
    fake.model.rope.hard_limit = positions if hard else None
    name = MemorizeHeader(MemoryName("default", "book"))
    runtime = cast("Runtime", fake)
    schedule = RatioSchedule((ratio,))
    return CapacityCheck(runtime, replace(name, **header), schedule, told.append), told


@pytest.mark.parametrize(
    ("ratio", "tokens"),
    [(0, 32_768), (2, 63_488), (4, 124_928), (8, 247_808), (16, 493_568), (32, 985_088)],
)
def test_capacity_is_that_of_the_published_windows(ratio: int, tokens: int) -> None:
    check, _ = check_for(ratio)
    assert check.limit == tokens
    check(tokens)
    with pytest.raises(OutOfRange) as caught:
        check(tokens + 1)
    assert caught.value.metadata["capacity_tokens"] == str(tokens)


def test_the_refusal_names_the_smallest_ratio_that_fits() -> None:
    check, _ = check_for(2)
    with pytest.raises(OutOfRange) as caught:
        check(124_929)
    assert caught.value.metadata["fitting_ratio"] == "8"
    assert "63488" in caught.value.message
    assert "ratio 8" in caught.value.message


def test_the_announced_length_counts_for_the_advice() -> None:
    check, _ = check_for(2, expected_tokens=400_000)
    with pytest.raises(OutOfRange) as caught:
        check(63_489)
    assert caught.value.metadata["fitting_ratio"] == "16"


def test_where_no_ratio_fits_it_says_so() -> None:
    check, _ = check_for(32)
    with pytest.raises(OutOfRange) as caught:
        check(10**9)
    assert caught.value.metadata["fitting_ratio"] == "none"


def test_appended_beacons_offer_only_divisors_of_the_window() -> None:
    check, _ = check_for(2, window=40, positions=100, placement=Placement.APPEND)
    with pytest.raises(OutOfRange) as caught:
        check(60 * 8 + 41)  # 16 and 32 do not divide 40
    assert caught.value.metadata["fitting_ratio"] == "none"


def test_extrapolation_is_told_once_and_then_allowed() -> None:
    check, told = check_for(2, allow_extrapolation=True)
    for tokens in (63_488, 63_489, 70_000):
        check(tokens)
    assert [notice.code for notice in told] == ["BEYOND_CAPACITY"]


def test_a_hard_limit_cannot_be_passed() -> None:
    check, told = check_for(2, allow_extrapolation=True, hard=True)
    with pytest.raises(OutOfRange):
        check(63_489)
    assert told == []
