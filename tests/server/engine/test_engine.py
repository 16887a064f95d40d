"""A sequence's life in the engine: events, endings, and that nobody harms a neighbour."""

from __future__ import annotations

from typing import Any

import pytest

from memoserve.engine.build import EngineOptions, build_engine
from memoserve.engine.sampler import SamplingParams
from memoserve.engine.sequence import (
    Done,
    Fed,
    Logits,
    SequenceRequest,
    Started,
    Status,
    TokenOut,
)
from memoserve.errors import (
    Cancelled,
    DeadlineExceeded,
    InvalidArgument,
    ResourceExhausted,
)
from memoserve.memory.window import RatioSchedule
from memoserve.metrics import Metrics
from memoserve.models.loader import LoadedModel
from tests.server.fixtures import Driver, make_driver, random_ids, tiny_model

TEXT = random_ids(29, seed=1)
PROMPT = random_ids(5, seed=2)


@pytest.fixture(scope="module")
def model() -> LoadedModel:
    return tiny_model()


@pytest.fixture
def driver(model: LoadedModel) -> Driver:
    return make_driver(model)


# -- events ------------------------------------------------------------------------------------


def test_a_compression_tells_its_progress(driver: Driver) -> None:
    _, outcome = driver.submit(TEXT)
    driver.drain()
    kinds = [type(event) for event in outcome.events]
    assert kinds == [Started, Fed, Fed, Fed, Fed, Done]
    assert outcome.fed == [Fed(8, 2), Fed(16, 4), Fed(24, 6), Fed(29, 6)]
    assert outcome.reason == "memory"
    assert outcome.memory.state.memory_rows == 6


def test_a_generation_tells_its_tokens(driver: Driver) -> None:
    base = driver.compress(TEXT).memory
    outcome = driver.generate(PROMPT, base, max_tokens=3, logits=Logits.NONE, keep=False)
    assert [type(e) for e in outcome.events] == [Started, TokenOut, TokenOut, TokenOut, Done]
    assert outcome.reason == "length"
    assert outcome.events[-1] == Done("length", None)


def test_logits_of_a_generation_stop_before_the_last_token(driver: Driver) -> None:
    """The last drawn token is never fed."""
    outcome = driver.generate(PROMPT, max_tokens=3)
    assert outcome.logits.shape == (len(PROMPT) + 2, 48)
    assert outcome.memory.state.open_tokens == len(PROMPT) + 2
    assert outcome.logits[-3:].argmax(-1).tolist() == outcome.tokens


def test_a_stop_token_ends_and_is_not_told(driver: Driver) -> None:
    free = driver.generate(PROMPT, max_tokens=6).tokens
    stop = free[2]
    first = free.index(stop)
    params = SamplingParams(max_tokens=6)
    _, outcome = driver.submit(PROMPT, sampling=params, stop_ids=frozenset({stop}))
    driver.drain()
    assert (outcome.tokens, outcome.reason) == (free[:first], "stop")


def test_repetition_is_counted_over_prompt_and_answer(driver: Driver) -> None:
    outcome = driver.generate(PROMPT, max_tokens=5, repetition_penalty=1.8)
    history = list(PROMPT)
    for token, logits in zip(outcome.tokens, outcome.logits[-5:], strict=True):
        penalised = logits.double().clone()
        for seen in set(history):
            penalised[seen] *= 1.8 if penalised[seen] <= 0 else 1 / 1.8
        assert token == int(penalised.argmax())
        history.append(token)


def test_a_prompt_is_needed() -> None:
    cases: list[dict[str, Any]] = [{}, {"tokens": (3,), "input_open": True}]
    for more in cases:
        with pytest.raises(InvalidArgument) as caught:
            SequenceRequest(print, RatioSchedule((4,)), sampling=SamplingParams(), **more)
        assert caught.value.field == "prompt"


def test_nothing_compressed_is_an_empty_memory(driver: Driver) -> None:
    outcome = driver.compress([])
    assert (outcome.memory.state.memory_rows, driver.engine.pool.num_used) == (0, 0)


# -- seeds ---------------------------------------------------------------------------------------


def test_a_seed_draws_the_same_whoever_runs_beside(model: LoadedModel) -> None:
    lone = make_driver(model).generate(PROMPT, max_tokens=8, temperature=1.5, seed=11)
    driver = make_driver(model)
    params = SamplingParams(max_tokens=8, temperature=1.5, seed=11)
    others = [
        driver.submit(random_ids(4 + n, n), sampling=SamplingParams(max_tokens=9, temperature=1.0))
        for n in range(3)
    ]
    _, beside = driver.submit(PROMPT, sampling=params)
    driver.drain()
    assert beside.tokens == lone.tokens
    assert all(len(outcome.tokens) == 9 for _, outcome in others)
    again = make_driver(model).generate(PROMPT, max_tokens=8, temperature=1.5, seed=12)
    assert again.tokens != lone.tokens


# -- cancel and deadline ---------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [0, 1, 3])
def test_cancel_takes_one_step(driver: Driver, steps: int) -> None:
    sequence, outcome = driver.submit(PROMPT, sampling=SamplingParams(max_tokens=50))
    for _ in range(steps):
        driver.engine.step()
    told = len(outcome.events)
    sequence.cancelled = True
    assert driver.engine.busy
    assert not driver.engine.step()
    assert isinstance(outcome.error, Cancelled)
    assert len(outcome.events) == told + 1
    assert (driver.engine.pool.num_used, driver.engine.busy) == (0, False)
    driver.engine.feed(sequence, [1, 2])  # too late, and no error
    assert sequence.status is Status.FINISHED and not sequence.pending


def test_a_deadline_takes_one_step(model: LoadedModel) -> None:
    now = [100.0]
    engine = build_engine(model, EngineOptions(num_pages=64, page_size=4), Metrics())
    engine._clock = lambda: now[0]
    driver = Driver(engine)
    sampling = SamplingParams(max_tokens=50)
    _, late = driver.submit(PROMPT, sampling=sampling, deadline=105.0)
    _, never = driver.submit(PROMPT, sampling=SamplingParams(max_tokens=3))
    _, waiting = driver.submit([], input_open=True, deadline=103.0)
    assert engine.next_deadline == 103.0
    engine.step()
    assert len(late.tokens) == 1
    now[0] = 103.0
    engine.step()
    assert isinstance(waiting.error, DeadlineExceeded) and not late.finished
    now[0] = 105.0
    driver.drain()
    assert isinstance(late.error, DeadlineExceeded) and len(late.tokens) == 2
    assert never.reason == "length" and engine.next_deadline is None


# -- memories ----------------------------------------------------------------------


def test_a_released_memory_lives_until_its_readers_end(driver: Driver) -> None:
    base = driver.compress(TEXT).memory
    wanted = driver.generate(PROMPT, base, keep=False).tokens
    _, reader = driver.submit(PROMPT, base, sampling=SamplingParams(max_tokens=4))
    driver.engine.step()
    driver.engine.release(base)
    driver.drain()
    assert reader.tokens == wanted
    assert driver.engine.pool.num_used == 0


def test_a_memory_that_is_gone_cannot_be_used(driver: Driver) -> None:
    base = driver.compress(TEXT).memory
    schedule = base.schedule
    driver.engine.release(base)
    with pytest.raises(ValueError, match="gone"):
        driver.submit(PROMPT, base, schedule, SamplingParams())
    with pytest.raises(ValueError, match="dropped"):
        driver.engine.read(base)


def test_readers_share_pages(model: LoadedModel) -> None:
    """Ten readers of one memory take their own window pages, not ten memories."""
    driver = make_driver(model, page_size=2, step_tokens=1000)
    base = driver.compress(random_ids(80, 3)).memory
    used = driver.engine.pool.num_used
    readers = [
        driver.submit(PROMPT, base, sampling=SamplingParams(max_tokens=50))[1] for _ in range(10)
    ]
    driver.engine.step()
    assert driver.engine.pool.num_used <= used + 10 * 5
    assert driver.engine.pool.num_shared >= used - 1
    assert len({tuple(r.tokens) for r in readers}) == 1


# -- the door ----------------------------------------------------------------------


def test_a_pool_too_small_for_one_window_is_refused_at_start(model: LoadedModel) -> None:
    """Window 8, ratio 0 leaves 8 rows: 3 pages of 4 for the open window, 2 for the memory."""
    with pytest.raises(ResourceExhausted) as caught:
        build_engine(model, EngineOptions(num_pages=4, page_size=4), Metrics())
    numbers = {"pages_needed": "5", "pages_total": "4"}
    assert numbers.items() <= caught.value.metadata.items()
    assert "5 pages of 4 rows" in str(caught.value)
    build_engine(model, EngineOptions(num_pages=5, page_size=4), Metrics())


def test_bytes_become_pages(model: LoadedModel) -> None:
    row = 2 * 2 * 2 * 4 * 4  # K and V, 2 layers, 2 kv heads of 4, float32
    options = EngineOptions(pool_bytes=row * 4 * 33 + 1, page_size=4)
    assert build_engine(model, options, Metrics()).pool.num_pages == 33


@pytest.mark.parametrize("field", ["pool_bytes", "page_size", "num_pages", "target_s"])
def test_wrong_options_are_named(field: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        EngineOptions(**{field: -1})  # type: ignore[arg-type]
    assert caught.value.field == field


def test_gauges_follow(driver: Driver) -> None:
    driver.compress(TEXT)
    value = driver.engine.metrics.registry.get_sample_value
    used = driver.engine.pool.num_used
    assert value("memoserve_pages", {"state": "used"}) == used > 0
    assert value("memoserve_pages", {"state": "free"}) == 256 - used
    assert value("memoserve_wasted_slots") == used * 4 - 12
    assert value("memoserve_raw_tokens_total", {"use": "memorize"}) == 29
    assert value("memoserve_sequences_finished_total", {"outcome": "memory"}) == 1
