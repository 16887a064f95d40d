"""Memories move in slices: others go on, nothing is read or reused too early."""

from __future__ import annotations

import pytest
import torch

from memoserve.engine.sequence import Status
from memoserve.models.loader import LoadedModel
from tests.server.engine.comparing import same_state
from tests.server.engine.moving import (
    ROW,
    SHARE,
    TEXT,
    ask,
    device_of,
    driver_of,
    reading,
    spilled,
    wanted_tokens,
)
from tests.server.fixtures import is_resident, is_spilled, random_ids, tiny_model


@pytest.fixture(scope="module")
def model() -> LoadedModel:
    return tiny_model(dtype=torch.float64)


# -- others go on ------------------------------------------------------------------------------


@pytest.mark.parametrize("queued", [False, True])
@pytest.mark.parametrize("on_disk", [False, True])
def test_a_decode_goes_on_while_a_memory_comes_back(
    model: LoadedModel, queued: bool, on_disk: bool
) -> None:
    """16 rows, 2 a step: 8 steps, in each of which the other one writes a token."""
    driver = driver_of(model, queued=queued)
    memory = spilled(driver)
    assert memory.host is not None
    _, writer = driver.submit(random_ids(4, 5), sampling=SHARE)
    driver.engine.step()
    sequence, asked = ask(driver, memory.host if on_disk else memory)
    told = len(writer.tokens)
    device = device_of(driver)
    for step in range(7):
        driver.engine.step()
        device.copies.drain()
        driver.engine.check_integrity()
        assert not asked.started and sequence.status is Status.WAITING
        assert sum(device.sizes) == (step + 1) * 2 * ROW
        assert len(writer.tokens) == told + step + 1
    for _ in range(2):  # the last rows, and the look at them
        driver.engine.step()
        device.copies.drain()
    assert asked.started
    driver.drain()
    assert asked.tokens == wanted_tokens(model)
    assert len(writer.tokens) == SHARE.max_tokens


@pytest.mark.parametrize("queued", [False, True])
def test_a_decode_goes_on_while_a_memory_leaves(model: LoadedModel, queued: bool) -> None:
    driver = driver_of(model, queued=queued, num_pages=20)
    first = driver.compress(TEXT).memory
    wanted = driver.engine.read(first)
    device_of(driver).sizes.clear()
    _, writer = driver.submit(random_ids(2, 5), sampling=SHARE)
    driver.engine.step()
    _, second = driver.submit(TEXT)
    told = len(writer.tokens)
    while not is_spilled(first):
        assert not second.started
        driver.engine.step()
        device_of(driver).copies.drain()
        driver.engine.check_integrity()
        told += 1
        assert len(writer.tokens) == told
    assert told >= 8
    driver.drain()
    assert second.reason == "memory"
    same_state(driver.engine.read(first), wanted)


@pytest.mark.parametrize("queued", [False, True])
def test_a_decode_goes_on_while_a_memory_is_read_out(model: LoadedModel, queued: bool) -> None:
    driver = driver_of(model, queued=queued)
    memory = driver.compress(TEXT).memory
    wanted = driver.engine.read(memory, 4)
    device = device_of(driver)
    device.sizes.clear()
    _, writer = driver.submit(random_ids(2, 5), sampling=SHARE)
    driver.engine.step()
    answer = reading(driver, memory, 4)
    steps = 0
    while not answer.done():
        told = len(writer.tokens)
        driver.engine.step()
        device.copies.drain()
        steps += 1
        assert len(writer.tokens) == told + 1
    assert steps in (6, 7)  # 12 rows, 2 a step
    assert max(device.sizes) == 2 * ROW
    same_state(answer.result(), wanted)
    assert answer.result().first_row == 4


def test_a_step_moves_what_is_stated_whatever_is_wanted(model: LoadedModel) -> None:
    """So many bytes for admission and as many for readings, however many wait."""
    driver = driver_of(model, rows=3)
    memories = [spilled(driver) for _ in range(2)]
    resident = driver.compress(TEXT).memory
    answers = [reading(driver, resident) for _ in range(3)]
    outcomes = [ask(driver, memory)[1] for memory in memories]
    sizes = device_of(driver).sizes
    while driver.engine.busy:
        before = len(sizes)
        driver.engine.step()
        assert sum(sizes[before:]) <= 2 * 3 * ROW
    assert all(answer.done() for answer in answers)
    assert all(outcome.tokens == wanted_tokens(model) for outcome in outcomes)


def test_alone_a_memory_comes_back_without_waiting_in_between(model: LoadedModel) -> None:
    """The thread sleeps after a step that did nothing; none of these is one."""
    for queued in (False, True):
        driver = driver_of(model, queued=queued)
        _, asked = ask(driver, spilled(driver))
        while not asked.started:
            assert driver.engine.step()


# -- nothing too early -------------------------------------------------------------------------


def test_pages_are_not_free_before_their_copies_are_done(model: LoadedModel) -> None:
    driver = driver_of(model, rows=1000, queued=True, num_pages=20)
    first = driver.compress(TEXT).memory
    wanted = driver.engine.read(first)
    used = driver.engine.pool.num_used
    _, writer = driver.submit(random_ids(2, 5), sampling=SHARE)
    _, second = driver.submit(TEXT)
    for _ in range(4):  # while somebody else computes, nobody waits for the copies
        driver.engine.step()
        assert not is_spilled(first) and not second.started
        assert driver.engine.pool.num_used >= used
    assert len(writer.tokens) == 4
    device_of(driver).copies.drain()
    driver.drain()
    assert second.reason == "memory"
    same_state(driver.engine.read(first), wanted)


def test_rows_are_not_used_before_they_are_here(model: LoadedModel) -> None:
    driver = driver_of(model, rows=1000, queued=True)
    memory = spilled(driver)
    driver.submit(random_ids(2, 5), sampling=SHARE)
    _, asked = ask(driver, memory)
    for _ in range(4):
        driver.engine.step()
        assert not asked.started and not is_resident(memory)
    device_of(driver).copies.drain()
    driver.drain()
    assert asked.tokens == wanted_tokens(model)


@pytest.mark.parametrize("on_disk", [False, True])
@pytest.mark.parametrize("steps", [1, 3])
def test_a_cancel_in_mid_restore_gives_the_pages_back(
    model: LoadedModel, on_disk: bool, steps: int
) -> None:
    """At once, and no copy still under way writes into what is somebody else's by then."""
    driver = driver_of(model, queued=True)
    memory = spilled(driver)
    assert memory.host is not None
    sequence, asked = ask(driver, memory.host if on_disk else memory)
    for _ in range(steps):
        driver.engine.step()
    assert driver.engine.pool.num_used > 0
    sequence.cancelled = True
    driver.engine.step()
    assert asked.error is not None and driver.engine.pool.num_used == 0
    driver.engine._cache.data.fill_(7.0)
    device_of(driver).copies.drain()
    assert bool((driver.engine._cache.data == 7.0).all())
    _, again = ask(driver, memory)
    driver.drain()
    assert again.tokens == wanted_tokens(model)


def test_a_memory_that_is_let_go_in_mid_move_is_gone(model: LoadedModel) -> None:
    driver = driver_of(model, queued=True, num_pages=17)
    memory = driver.compress(TEXT).memory
    _, second = driver.submit(random_ids(60, 3))
    driver.engine.step()
    assert memory.leaving
    driver.engine.release(memory)
    driver.drain()
    assert memory.gone and second.reason == "memory"
    driver.engine.release(second.memory)
    assert driver.engine.pool.num_used == 0


def test_a_memory_that_is_asked_while_it_leaves_stays(model: LoadedModel) -> None:
    driver = driver_of(model, num_pages=17)
    memory = driver.compress(TEXT).memory
    waiting, _ = driver.submit(random_ids(60, 3))
    driver.engine.step()
    assert memory.leaving
    waiting.cancelled = True
    _, asked = ask(driver, memory)
    driver.engine.step()
    assert is_resident(memory) and memory.moving is None
    driver.drain()
    assert asked.tokens == wanted_tokens(model)


def test_a_reading_keeps_its_rows_whatever_becomes_of_the_memory(model: LoadedModel) -> None:
    driver = driver_of(model, queued=True)
    memory = driver.compress(TEXT).memory
    wanted = driver.engine.read(memory)
    answer = reading(driver, memory)
    driver.engine.step()
    driver.engine.release(memory)
    assert driver.engine.pool.num_used > 0
    _, other = driver.submit(random_ids(60, 3))
    driver.drain()
    same_state(answer.result(0), wanted)
    driver.engine.release(other.memory)
    assert driver.engine.pool.num_used == 0
