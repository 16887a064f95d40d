"""Who may hold pages: refusals with numbers, waiting in turn, spilling and coming back."""

from __future__ import annotations

import pytest
import torch

from memoserve.engine.sampler import SamplingParams
from memoserve.engine.sequence import Logits, Status
from memoserve.errors import ResourceExhausted
from memoserve.models.loader import LoadedModel
from tests.server.fixtures import (
    Driver,
    is_resident,
    is_spilled,
    make_driver,
    random_ids,
    tiny_model,
)

# Window 8, ratio 4, pages of 2 rows: a full window has 10 rows, 5 pages, and leaves 2 rows.
SMALL = 10


@pytest.fixture(scope="module")
def model() -> LoadedModel:
    return tiny_model(dtype=torch.float64)


@pytest.fixture
def driver(model: LoadedModel) -> Driver:
    return make_driver(model, page_size=2, num_pages=SMALL)


def spills(driver: Driver, cause: str) -> float:
    value = driver.engine.metrics.registry.get_sample_value
    return value("memoserve_spills_total", {"cause": cause}) or 0.0


def test_what_can_never_fit_is_refused_at_once(driver: Driver) -> None:
    """A memory of 7 windows takes 7 pages, its open window 5: 12 of 10."""
    sequence, outcome = driver.submit(random_ids(7 * 8, 1))
    assert sequence.status is Status.FINISHED
    error = outcome.error
    assert isinstance(error, ResourceExhausted)
    assert error.metadata == {"pages_needed": "12", "pages_total": "10", "page_size": "2"}
    assert "12 pages of 2 rows" in str(error) and "10" in str(error)
    assert error.retry_after_s is None
    assert not driver.engine.busy


def test_what_just_fits_runs(driver: Driver) -> None:
    assert driver.compress(random_ids(5 * 8, 1)).reason == "memory"


def test_an_answers_length_counts(driver: Driver) -> None:
    fits = SamplingParams(max_tokens=5 * 8 - 3)
    _, outcome = driver.submit(random_ids(4, 1), sampling=fits)
    driver.drain()
    assert len(outcome.tokens) == fits.max_tokens
    beyond = SamplingParams(max_tokens=6 * 8)
    _, refused = driver.submit(random_ids(4, 1), sampling=beyond)
    assert isinstance(refused.error, ResourceExhausted)


def test_a_stream_that_outgrows_the_pool_fails_with_numbers(driver: Driver) -> None:
    """Its length was not known when it was admitted."""
    sequence, outcome = driver.submit([], input_open=True)
    for seed in range(9):
        driver.engine.feed(sequence, random_ids(8, seed))
        driver.drain()
    error = outcome.error
    assert isinstance(error, ResourceExhausted)
    assert int(error.metadata["pages_needed"]) > int(error.metadata["pages_total"]) == SMALL
    assert driver.engine.pool.num_used == 0


def test_the_oldest_goes_first_and_nobody_overtakes(driver: Driver) -> None:
    """Each needs most of the pool; even a small one waits its turn."""
    outcomes = [
        driver.submit(random_ids(20, n), sampling=SamplingParams(max_tokens=6))[1] for n in range(3)
    ]
    outcomes.append(driver.submit(random_ids(1, 9), sampling=SamplingParams(max_tokens=1))[1])
    order: list[int] = []
    while driver.engine.busy:
        driver.engine.step()
        order += [n for n, o in enumerate(outcomes) if o.started and n not in order]
        assert order == list(range(len(order)))
        assert sum(o.started and not o.finished for o in outcomes[:3]) <= 1
    assert [len(outcome.tokens) for outcome in outcomes] == [6, 6, 6, 1]


def test_an_unused_memory_is_spilled_for_a_newcomer_and_comes_back(model: LoadedModel) -> None:
    driver = make_driver(model, page_size=2, num_pages=15)
    first = driver.compress(random_ids(37, 1)).memory
    answer = driver.generate(random_ids(3, 2), first, max_tokens=1, keep=False)
    second = driver.compress(random_ids(37, 3)).memory
    assert is_spilled(first)
    assert spills(driver, "pages_needed") == 1
    again = driver.generate(random_ids(3, 2), first, max_tokens=1, keep=False)
    torch.testing.assert_close(again.logits, answer.logits, atol=1e-12, rtol=0)
    assert again.tokens == answer.tokens
    assert is_resident(first) and is_spilled(second)


def test_the_least_recently_used_goes_first(model: LoadedModel) -> None:
    driver = make_driver(model, page_size=2, num_pages=16)
    memories = [driver.compress(random_ids(29, seed)).memory for seed in range(2)]
    driver.generate([5], memories[0], max_tokens=1, keep=False)
    driver.compress(random_ids(29, 7))
    assert is_resident(memories[0]) and is_spilled(memories[1])


def test_a_droppable_memory_is_forgotten_not_copied(driver: Driver) -> None:
    memory = driver.compress(random_ids(37, 1)).memory
    memory.droppable = True
    driver.compress(random_ids(37, 3))
    assert memory.gone


def test_a_pinned_memory_is_never_dropped(driver: Driver) -> None:
    memory = driver.compress(random_ids(37, 1)).memory
    memory.droppable = True
    assert driver.engine.pin(memory)
    driver.compress(random_ids(37, 3))
    assert is_spilled(memory)
    driver.engine.unpin(memory)


def test_an_idle_half_built_memory_makes_room_and_finishes_right(
    model: LoadedModel, driver: Driver
) -> None:
    text = random_ids(37, 4)
    wanted = make_driver(model).compress(text)
    sequence, slow = driver.submit(text[:30], logits=Logits.ALL, input_open=True)
    driver.drain()
    assert sequence.idle and not is_spilled(sequence)
    _, query = driver.submit(random_ids(12, 5), sampling=SamplingParams(max_tokens=4))
    driver.drain()
    assert len(query.tokens) == 4
    assert spills(driver, "half_built") == 1
    assert is_spilled(sequence)
    driver.engine.feed(sequence, text[30:], last=True)
    driver.drain()
    torch.testing.assert_close(slow.logits, wanted.logits, atol=1e-12, rtol=0)
    assert slow.memory.state == wanted.memory.state
    assert sum(event.tokens for event in slow.fed[-1:]) == 37


def test_a_younger_half_built_memory_makes_room_for_an_older_one(
    model: LoadedModel, driver: Driver
) -> None:
    """Two streams that together outgrow the pool both finish, one after the other."""
    texts = [random_ids(33, seed) for seed in (1, 2)]
    wanted = [make_driver(model).compress(text) for text in texts]
    streams = [driver.submit([], logits=Logits.ALL, input_open=True) for _ in texts]
    for start in range(0, 33, 11):
        for (sequence, _), text in zip(streams, texts, strict=True):
            part = text[start : start + 11]
            driver.engine.feed(sequence, part, last=start + 11 >= 33)
        for _ in range(3):
            driver.engine.step()
            driver.engine.check_integrity()
    driver.drain()
    for (_, outcome), alone in zip(streams, wanted, strict=True):
        assert outcome.reason == "memory"
        torch.testing.assert_close(outcome.logits, alone.logits, atol=1e-12, rtol=0)
    assert spills(driver, "half_built") >= 1


def test_a_query_keeps_its_reserve(model: LoadedModel) -> None:
    """A memory being made takes no page that a running answer may still need."""
    driver = make_driver(model, page_size=2, num_pages=14)
    _, query = driver.submit(random_ids(4, 1), sampling=SamplingParams(max_tokens=30))
    driver.engine.step()
    _, memory = driver.submit(random_ids(40, 2))
    driver.drain()
    assert len(query.tokens) == 30
    assert memory.reason == "memory"
