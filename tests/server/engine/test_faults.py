"""Nobody harms a neighbour: failing models, ids and requesters lose their own sequence only."""

from __future__ import annotations

import math
from typing import NoReturn

import pytest
import torch

from memoserve.engine.faults import SequenceFault
from memoserve.engine.model_runner import ModelRunner
from memoserve.engine.placed import Chunk
from memoserve.engine.sampler import SamplingParams
from memoserve.engine.sequence import (
    Done,
    Event,
    Failed,
    Fed,
    Logits,
    LogitsOut,
    SequenceRequest,
    Started,
    Status,
    TokenOut,
)
from memoserve.errors import Unavailable
from memoserve.memory.window import RatioSchedule
from memoserve.models.loader import LoadedModel
from tests.server.fixtures import Driver, Outcome, make_driver, random_ids, tiny_model

TEXT = random_ids(29, seed=1)
PROMPT = random_ids(5, seed=2)


@pytest.fixture(scope="module")
def model() -> LoadedModel:
    return tiny_model()


@pytest.fixture
def driver(model: LoadedModel) -> Driver:
    return make_driver(model)


BAD = 0  # in no random text


def break_on(monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    """The model fails, or answers NaN, whenever token BAD is in a batch."""
    run = ModelRunner.run

    def broken(self: ModelRunner, chunks: list[Chunk]) -> list[torch.Tensor]:
        if how == "raises" and any(BAD in chunk.tokens for chunk in chunks):
            raise RuntimeError("secret text of a bug")
        out = run(self, chunks)
        return [
            logits * math.nan if BAD in chunk.tokens and how == "nan" else logits
            for logits, chunk in zip(out, chunks, strict=True)
        ]

    monkeypatch.setattr(ModelRunner, "run", broken)


@pytest.mark.parametrize("how", ["raises", "nan"])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_bad_sequence_fails_alone(
    model: LoadedModel, how: str, temperature: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = make_driver(model)
    memory, answer = good.compress(TEXT), good.generate(PROMPT)
    assert BAD not in (*TEXT, *PROMPT, *answer.tokens)
    driver = make_driver(model)
    break_on(monkeypatch, how)
    params = SamplingParams(max_tokens=4, temperature=temperature)
    _, bad = driver.submit([3, BAD, 4], sampling=params)
    _, memorized = driver.submit(TEXT, logits=Logits.ALL)
    _, answered = driver.submit(PROMPT, sampling=SamplingParams(max_tokens=4))
    driver.drain()
    assert isinstance(bad.error, SequenceFault)
    assert (bad.error.status, "secret" in str(bad.error)) == ("INTERNAL", False)
    torch.testing.assert_close(memorized.logits, memory.logits, atol=1e-5, rtol=1e-5)
    assert answered.tokens == answer.tokens


@pytest.mark.parametrize("page_size", [1, 3])
def test_a_failure_in_mid_forward_leaves_the_books_right(
    model: LoadedModel, page_size: int
) -> None:
    """Every step fails after pages were taken and rows written; tried alone, each succeeds."""
    lone = make_driver(model, page_size=page_size)
    wanted = lone.compress(TEXT)
    wanted_answer = lone.generate(PROMPT, wanted.memory)
    driver = make_driver(model, page_size=page_size)
    calls = [0]

    def fails(*_: object) -> None:
        calls[0] += 1
        if calls[0] % 2:
            raise RuntimeError("out of luck")

    hook = model.model.model.register_forward_hook(fails)
    try:
        memorized = driver.compress(TEXT)
        answered = driver.generate(PROMPT, memorized.memory)
    finally:
        hook.remove()
    assert calls[0] == 2 * (4 + 2 + 3)
    torch.testing.assert_close(memorized.logits, wanted.logits, atol=1e-5, rtol=1e-5)
    assert answered.tokens == wanted_answer.tokens
    assert driver.engine.pool.num_used == lone.engine.pool.num_used
    rows, wanted_rows = driver.engine.read(memorized.memory), lone.engine.read(wanted.memory)
    torch.testing.assert_close(rows.window_rows, wanted_rows.window_rows, atol=1e-5, rtol=1e-5)


def test_pages_of_a_step_that_fails_twice_are_back(driver: Driver) -> None:
    _, outcome = driver.submit(TEXT, logits=Logits.ALL)
    driver.engine.step()
    used = driver.engine.pool.num_used

    def fails(*_: object) -> None:
        raise RuntimeError("out of luck")

    hook = driver.engine._runner.model.model.register_forward_hook(fails)
    try:
        driver.engine.step()
    finally:
        hook.remove()
    assert isinstance(outcome.error, SequenceFault)
    assert driver.engine.pool.num_used == 0 < used


@pytest.mark.parametrize("out_of_vocabulary", [48, -1])
def test_an_id_outside_the_vocabulary_fails_alone(driver: Driver, out_of_vocabulary: int) -> None:
    _, bad = driver.submit([3, out_of_vocabulary])
    _, good = driver.submit(TEXT)
    driver.drain()
    assert isinstance(bad.error, SequenceFault)
    assert good.reason == "memory"


@pytest.mark.parametrize("on", [Started, Fed, TokenOut, LogitsOut, Done, Failed])
def test_a_requester_that_raises_loses_only_its_own(driver: Driver, on: type[Event]) -> None:
    told: list[Event] = []

    def raises(event: Event) -> None:
        told.append(event)
        if isinstance(event, on):
            raise RuntimeError("my queue is gone")

    sampling = SamplingParams(max_tokens=3) if on is not Fed else None
    request = SequenceRequest(
        raises, RatioSchedule((4,)), None, TEXT, sampling, logits=Logits.ALL, keep=True
    )
    sequence = driver.engine.submit(request)
    if on is Failed:
        sequence.cancelled = True
    _, neighbour = driver.submit(PROMPT, sampling=SamplingParams(max_tokens=3))
    driver.drain()
    assert sequence.status is Status.FINISHED
    assert len(neighbour.tokens) == 3
    # Also a memory that nobody took is given back.
    assert driver.engine.pool.num_used == 0


def test_a_step_without_any_sequence_is_harmless(driver: Driver) -> None:
    assert not driver.engine.step()
    assert not driver.engine.busy


def test_going_down_ends_everyone(driver: Driver) -> None:
    outcomes: list[Outcome] = [driver.submit(TEXT, input_open=True)[1] for _ in range(3)]
    driver.engine.step()
    driver.engine.fail_all(Unavailable("the engine is down"))
    assert all(isinstance(outcome.error, Unavailable) for outcome in outcomes)
    assert driver.engine.pool.num_used == 0


def test_a_lost_device_is_no_matter_of_one_sequence(
    driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever comes next would fail as well: the thread ends, and with it the engine."""

    def lost(*_: object) -> NoReturn:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    _, outcome = driver.submit(TEXT)
    monkeypatch.setattr(ModelRunner, "run", lost)
    with pytest.raises(RuntimeError, match="illegal memory access"):
        driver.engine.step()
    driver.engine.fail_all(Unavailable("the engine is down"))
    assert isinstance(outcome.error, Unavailable)
    assert driver.engine.pool.num_used == 0
