"""A move that is given up, fails, or meets another one leaves every page where it belongs."""

from __future__ import annotations

import pytest
import torch

from memoserve.engine.faults import SequenceFault
from memoserve.engine.sampler import SamplingParams
from memoserve.errors import ResourceExhausted, Unavailable
from memoserve.memory.memory import worst_case_pages
from memoserve.models.loader import LoadedModel
from tests.server.engine.comparing import same_state
from tests.server.engine.moving import (
    FAILING,
    PROMPT,
    ROW,
    TEXT,
    ask,
    device_of,
    driver_of,
    reading,
    spilled,
    wanted_tokens,
)
from tests.server.fixtures import (
    is_resident,
    is_spilled,
    make_driver,
    random_ids,
    tiny_model,
)


@pytest.fixture(scope="module")
def model() -> LoadedModel:
    return tiny_model(dtype=torch.float64)


def test_a_reading_nobody_waits_for_ends(model: LoadedModel) -> None:
    driver = driver_of(model)
    memory = driver.compress(TEXT).memory
    answer = reading(driver, memory)
    driver.engine.step()
    driver.engine.release(memory)
    assert answer.cancel()
    driver.drain()
    assert driver.engine.pool.num_used == 0
    assert sum(device_of(driver).sizes) < 16 * ROW


def test_going_down_ends_readings(model: LoadedModel) -> None:
    driver = driver_of(model)
    memory = driver.compress(TEXT).memory
    answer = reading(driver, memory)
    driver.engine.step()
    driver.engine.fail_all(Unavailable("the engine is down"))
    assert isinstance(answer.exception(0), Unavailable)
    driver.engine.release(memory)
    assert driver.engine.pool.num_used == 0


def test_a_memory_that_is_not_finite_is_never_read_out(model: LoadedModel) -> None:
    driver = driver_of(model)
    memory = driver.compress(TEXT).memory
    assert memory.paged is not None
    driver.engine._cache.data[0, 1, memory.paged.window.pages[-1], 0, 0, 0] = float("inf")
    answer = reading(driver, memory)
    driver.drain()
    assert isinstance(answer.exception(0), SequenceFault)
    while not driver.engine._admission.spill_handle(memory, "pages_needed"):
        driver.engine._tier.begin_step()
    assert isinstance(reading(driver, memory).exception(0), SequenceFault)


@pytest.mark.parametrize("when", ["at_once", "later"])
def test_a_spill_that_finds_no_memory_fails_who_asked(model: LoadedModel, when: str) -> None:
    driver = driver_of(model, num_pages=17)
    memory = driver.compress(TEXT).memory
    wanted = driver.engine.read(memory)
    device = device_of(driver)
    emptied = device.emptied
    device.sizes.clear()
    device.failing = FAILING[when]
    _, asked = driver.submit(random_ids(60, 3))
    driver.drain()
    assert isinstance(asked.error, ResourceExhausted)
    assert asked.error.reason == "OUT_OF_MEMORY"
    assert len(device.sizes) == (when == "later")
    assert device.emptied > emptied
    assert is_resident(memory) and not memory.leaving
    device.failing = FAILING["never"]
    same_state(driver.engine.read(memory), wanted)
    assert driver.compress(random_ids(60, 3)).reason == "memory"


@pytest.mark.parametrize("when", ["at_once", "later"])
def test_a_restore_that_finds_no_memory_fails_who_asked(model: LoadedModel, when: str) -> None:
    driver = driver_of(model)
    memory = spilled(driver)
    device = device_of(driver)
    device.failing = FAILING[when]
    _, asked = ask(driver, memory)
    driver.drain()
    assert isinstance(asked.error, ResourceExhausted)
    assert asked.error.reason == "OUT_OF_MEMORY"
    assert is_spilled(memory) and driver.engine.pool.num_used == 0
    device.failing = FAILING["never"]
    _, again = ask(driver, memory)
    driver.drain()
    assert again.tokens == wanted_tokens(model)


@pytest.mark.parametrize("when", ["at_once", "later"])
def test_a_reading_that_finds_no_memory_is_told_so(model: LoadedModel, when: str) -> None:
    driver = driver_of(model)
    memory = driver.compress(TEXT).memory
    device_of(driver).sizes.clear()
    device_of(driver).failing = FAILING[when]
    answer = reading(driver, memory)
    driver.drain()
    error = answer.exception(0)
    assert isinstance(error, ResourceExhausted) and error.reason == "OUT_OF_MEMORY"
    driver.engine.release(memory)
    assert driver.engine.pool.num_used == 0


@pytest.mark.parametrize("queued", [False, True])
def test_half_built_memories_that_outgrow_the_pool_step_back_in_slices(
    model: LoadedModel, queued: bool
) -> None:
    """Whose rows are on their way computes nothing; each ends as if it had been alone."""
    texts = [random_ids(33, seed) for seed in (1, 2, 3)]
    lone = make_driver(model, page_size=2)
    wanted = [lone.engine.read(lone.compress(text).memory) for text in texts]
    driver = driver_of(model, rows=1, queued=queued, num_pages=12, chunk_tokens=5)
    streams = [driver.submit([], input_open=True) for _ in texts]
    for start in range(0, 33, 11):
        for (sequence, _), text in zip(streams, texts, strict=True):
            driver.engine.feed(sequence, text[start : start + 11], last=start + 11 >= 33)
        for _ in range(3):
            driver.engine.step()
            driver.engine.check_integrity()
    driver.drain()
    for (_, outcome), right in zip(streams, wanted, strict=True):
        same_state(driver.engine.read(outcome.memory), right)
    assert driver.engine.metrics.spills.labels("half_built")._value.get() > 0


@pytest.mark.parametrize("on_disk", [False, True])
def test_what_a_query_may_need_is_kept_while_its_rows_come(
    model: LoadedModel, on_disk: bool
) -> None:
    """An older memory in the making runs on meanwhile; it takes none of it, and nothing back."""
    driver = driver_of(model, rows=1, num_pages=24)
    memory = spilled(driver)
    stream, made = driver.submit(random_ids(8, 7), input_open=True)
    driver.engine.step()
    base = memory.host if on_disk else memory
    assert base is not None
    query, asked = driver.submit(PROMPT, base, sampling=SamplingParams(max_tokens=12))
    driver.engine.feed(stream, random_ids(80, 8), last=True)
    moved = 0
    while not asked.finished:
        driver.engine.step()
        if len(asked.tokens) < 2:
            moved = sum(device_of(driver).sizes)
        held = query.held or (memory.held if memory.fetched_for is query else None)
        if held is not None:
            needed = worst_case_pages(driver.engine.rules, held, query.tokens_to_come)
            assert driver.engine.pool.num_free >= needed
    assert len(asked.tokens) == 12
    assert moved == 16 * ROW
    driver.drain()
    assert made.reason == "memory"
