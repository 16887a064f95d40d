"""Drawing a token: what is cut, what is counted, against numbers computed by hand."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from memoserve.engine import sampler
from memoserve.engine.cpu_device import CpuDevice
from memoserve.engine.device import DeviceOptions
from memoserve.engine.sampler import Sampler, SamplingParams, Turn
from memoserve.engine.uploads import Uploads
from memoserve.errors import InvalidArgument

# Probabilities 0.5, 0.25, 0.15, 0.07, 0.03 at temperature 1.
WEIGHTS = [0.15, 0.5, 0.03, 0.25, 0.07]
LOGITS = torch.tensor(WEIGHTS).log()


CPU = torch.device("cpu")
UPLOADS = Uploads(CpuDevice(CPU, DeviceOptions()))


def sample(
    logits: Tensor, params: SamplingParams, seen: Sequence[int], generator: torch.Generator | None
) -> int:
    """One token, drawn alone; raises FloatingPointError where there is none."""
    (token,) = Sampler(UPLOADS).draw([Turn(logits, params, seen, generator)])
    if isinstance(token, Exception):
        raise token
    return token


def draws(count: int = 3000, seen: tuple[int, ...] = (), **params: Any) -> dict[int, float]:
    """Share of each token in many draws."""
    wanted = SamplingParams(**{"temperature": 1.0, "seed": 1} | params)
    turn = Turn(LOGITS, wanted, seen, wanted.generator(CPU))
    found = Counter(Sampler(UPLOADS).draw([turn] * count))
    return {token: times / count for token, times in found.items() if isinstance(token, int)}


def assert_shares(found: dict[int, float], wanted: dict[int, float]) -> None:
    assert found.keys() == wanted.keys()
    for token, share in wanted.items():
        assert found[token] == pytest.approx(share, abs=0.035), token


def test_greedy_takes_the_largest() -> None:
    for greedy in (SamplingParams(), SamplingParams(temperature=3.0, top_k=1)):
        assert sample(LOGITS, greedy, (), None) == 1


def test_temperature() -> None:
    assert_shares(draws(), dict(enumerate(WEIGHTS)))
    flat = [w**0.5 for w in WEIGHTS]
    assert_shares(draws(temperature=2.0), {i: w / sum(flat) for i, w in enumerate(flat)})


@pytest.mark.parametrize("temperature", [1e-3, 1e-30, 5e-324])
def test_a_tiny_temperature_is_greedy(temperature: float) -> None:
    assert_shares(draws(50, temperature=temperature), {1: 1.0})


def test_top_k() -> None:
    assert_shares(draws(top_k=2), {1: 2 / 3, 3: 1 / 3})
    assert_shares(draws(top_k=99), dict(enumerate(WEIGHTS)))


@pytest.mark.parametrize(
    ("top_p", "kept"),
    [(1e-320, [1]), (0.4, [1]), (0.6, [1, 3]), (0.76, [1, 3, 0]), (0.9, [1, 3, 0])],
)
def test_top_p_keeps_the_token_that_reaches_it(top_p: float, kept: list[int]) -> None:
    total = sum(WEIGHTS[i] for i in kept)
    assert_shares(draws(top_p=top_p), {i: WEIGHTS[i] / total for i in kept})


def test_top_p_counts_after_top_k() -> None:
    """Of the best two, 2/3 and 1/3, the first alone reaches 0.6; of all it would not."""
    assert_shares(draws(top_k=2, top_p=0.6), {1: 1.0})


def test_repetition_penalty_divides_positive_and_multiplies_negative() -> None:
    logits = torch.tensor([2.0, 1.9, -1.0, -1.1])
    params = SamplingParams(repetition_penalty=1.2)
    assert sample(logits, params, (), None) == 0
    assert sample(logits, params, (0, 0, 3), None) == 1  # 2 / 1.2 < 1.9
    assert sample(logits, params, (0, 1), None) == 0
    low = torch.tensor([-1.0, -1.1, -5.0])
    assert sample(low, params, (0,), None) == 1  # -1 * 1.2 < -1.1
    assert sample(low, SamplingParams(repetition_penalty=0.5), (2,), None) == 0


def test_a_penalty_counts_once_however_often_a_token_came() -> None:
    logits = torch.tensor([2.0, 1.5])
    params = SamplingParams(repetition_penalty=1.2)
    assert sample(logits, params, (0,) * 50, None) == 0  # 2 / 1.2 > 1.5
    assert torch.equal(logits, torch.tensor([2.0, 1.5]))


def test_a_seed_repeats() -> None:
    def drawn(seed: int | None) -> list[int]:
        params = SamplingParams(temperature=1.0, seed=seed)
        generator = params.generator(torch.device("cpu"))
        return [sample(LOGITS, params, (), generator) for _ in range(40)]

    assert drawn(5) == drawn(5) != drawn(6)
    assert drawn(None) != drawn(None)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_broken_logits_are_no_answer(bad: float) -> None:
    logits = LOGITS.clone()
    logits[2] = bad
    for params in (SamplingParams(), SamplingParams(temperature=1.0, seed=0)):
        with pytest.raises(FloatingPointError):
            sample(logits, params, (), params.generator(torch.device("cpu")))


def test_a_token_may_be_ruled_out_but_not_all() -> None:
    logits = LOGITS.clone()
    logits[1] = -math.inf
    assert sample(logits, SamplingParams(), (), None) == 3
    with pytest.raises(FloatingPointError):
        sample(torch.full((4,), -math.inf), SamplingParams(), (), None)


# -- many sequences in one draw -------------------------------------------------------------------

WAYS = [
    SamplingParams(),
    SamplingParams(temperature=2.0, top_k=1),
    SamplingParams(repetition_penalty=1.7),
    SamplingParams(temperature=0.7, seed=1),
    SamplingParams(temperature=1.3, seed=2, top_k=7),
    SamplingParams(temperature=1.0, seed=3, top_k=999),
    SamplingParams(temperature=1.0, seed=4, top_p=0.8),
    SamplingParams(temperature=1.5, seed=5, top_k=20, top_p=0.9, repetition_penalty=1.3),
    SamplingParams(temperature=0.9, seed=6, repetition_penalty=0.6),
]


class Fetches(CpuDevice):
    """Counts what comes back from the device."""

    def __init__(self) -> None:
        super().__init__(CPU, DeviceOptions(pinned_uploads=True))
        self.count = 0

    def fetch(self, values: Tensor) -> Tensor:
        self.count += 1
        return super().fetch(values)


def turns(count: int, vocab: int = 40, dtype: torch.dtype = torch.float32) -> list[Turn]:
    """Turns in all ways, over and over, each with logits and a past of its own."""
    draw = torch.Generator().manual_seed(7)
    made = []
    for number in range(count):
        params = WAYS[number % len(WAYS)]
        logits = (3 * torch.randn(vocab, generator=draw)).to(dtype)
        seen = torch.randint(vocab, (number % 5 * 3,), generator=draw).tolist()
        generator = None if params.greedy else params.generator(CPU)
        made.append(Turn(logits, params, seen, generator))
    return made


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_neighbours_change_nothing(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = [Sampler(UPLOADS).draw([turn])[0] for turn in turns(40, dtype=dtype)]
    assert Sampler(UPLOADS).draw(turns(40, dtype=dtype)) == alone
    monkeypatch.setattr(sampler, "WIDE_ROWS", 3)
    assert Sampler(UPLOADS).draw(turns(40, dtype=dtype)) == alone


def test_a_batch_comes_back_in_one_copy() -> None:
    device = Fetches()
    drawn = Sampler(Uploads(device)).draw(turns(40))
    assert drawn == Sampler(UPLOADS).draw(turns(40))
    assert device.count == 1
    assert Sampler(Uploads(device)).draw([]) == []
    assert device.count == 1


def test_the_draw_is_that_of_multinomial() -> None:
    params = SamplingParams(temperature=0.8, seed=11)
    mine, theirs = params.generator(CPU), params.generator(CPU)
    logits = torch.randn(500, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    for _ in range(20):
        weights = ((logits - logits.max()) / 0.8).softmax(-1)
        wanted = int(torch.multinomial(weights, 1, generator=theirs))
        assert sample(logits, params, (), mine) == wanted


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_broken_row_is_alone(bad: float) -> None:
    """Whatever way it draws in."""
    whole = Sampler(UPLOADS).draw(turns(18))
    for broken in range(18):
        batch = turns(18)
        batch[broken].logits[:] = bad
        found = Sampler(UPLOADS).draw(batch)
        assert isinstance(found[broken], FloatingPointError)
        assert found[:broken] + found[broken + 1 :] == whole[:broken] + whole[broken + 1 :]


def test_a_turn_that_cannot_be_computed_fails_alone() -> None:
    whole = Sampler(UPLOADS).draw(turns(9)[:3])
    batch = [*turns(9)[:3], Turn(LOGITS.repeat(8), WAYS[2], (40,), None)]  # id 40 of 40
    *found, error = Sampler(UPLOADS).draw(batch)
    assert found == whole
    assert isinstance(error, IndexError)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("max_tokens", 0),
        ("temperature", -0.1),
        ("temperature", 101.0),
        ("temperature", math.nan),
        ("top_k", -1),
        ("top_p", 0.0),
        ("top_p", 1.01),
        ("top_p", math.nan),
        ("repetition_penalty", 0.0),
        ("repetition_penalty", 1e-9),
        ("repetition_penalty", 101.0),
        ("repetition_penalty", math.inf),
        ("seed", -1),
        ("seed", 2**63),
    ],
)
def test_wrong_parameters_are_named(field: str, value: float) -> None:
    with pytest.raises(InvalidArgument) as caught:
        SamplingParams(**{field: value})  # type: ignore[arg-type]
    assert caught.value.field == f"sampling.{field}"


def test_a_failed_draw_moves_no_generator(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a step's draw fails half way and all draw again alone, seeds give the same tokens."""
    params = SamplingParams(temperature=1.0, seed=7)
    rows = torch.randn(40, 50, generator=torch.Generator().manual_seed(1))

    def turns() -> list[Turn]:
        return [Turn(row, params, (), params.generator(row.device)) for row in rows]

    wanted = Sampler(UPLOADS).draw(turns())
    draw_wide, calls = sampler._draw_wide, itertools.count()

    def failing(*arguments: Any) -> torch.Tensor:
        if next(calls) == 1:  # the second part of the first attempt
            raise torch.OutOfMemoryError("no room")
        return draw_wide(*arguments)

    monkeypatch.setattr(sampler, "_draw_wide", failing)
    assert Sampler(UPLOADS).draw(turns()) == wanted
