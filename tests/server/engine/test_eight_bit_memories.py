"""Memories in 8 bits through the whole engine: how far off, how small, and that nothing drifts."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from memoserve.engine.sequence import Logits
from memoserve.memory.window import RatioSchedule
from tests.server.fixtures import Driver, make_driver, random_ids, tiny_model

TEXT = random_ids(150, seed=3)
QUESTION = random_ids(7, seed=4)
by_type = pytest.mark.parametrize("memory_dtype", ["int8", "fp8"])


def driver_of(memory_dtype: str, **options: Any) -> Driver:
    return make_driver(tiny_model(), memory_dtype=memory_dtype, **options)


@pytest.mark.parametrize(("memory_dtype", "most"), [("int8", 0.02), ("fp8", 0.08)])
def test_answers_are_off_by_the_rounding_alone(memory_dtype: str, most: float) -> None:
    """Relative error of the logits after several closed windows; above zero, so it was rounded."""
    plain, eight = driver_of("auto"), driver_of(memory_dtype)
    wanted, actual = (
        d.generate(QUESTION, d.compress(TEXT).memory, max_tokens=1).logits for d in (plain, eight)
    )
    error = (actual - wanted).norm() / wanted.norm()
    assert 1e-5 < error < most


@by_type
def test_memory_takes_fewer_pages(memory_dtype: str) -> None:
    schedule = RatioSchedule((2,))
    plain, eight = driver_of("auto"), driver_of(memory_dtype)
    full, small = (d.compress(TEXT, None, schedule).memory.paged for d in (plain, eight))
    assert full is not None and small is not None
    assert small.memory.length == full.memory.length > 32
    assert len(small.memory.pages) == -(-full.memory.length // 16)  # float32: four rows for one
    assert len(full.memory.pages) == -(-full.memory.length // 4)


@by_type
def test_reloaded_is_resident_to_the_bit(memory_dtype: str) -> None:
    driver, other = driver_of(memory_dtype), driver_of(memory_dtype)
    memory = driver.compress(TEXT).memory
    resident = driver.generate(QUESTION, memory, max_tokens=3)
    host = driver.engine.read(memory)
    reloaded = other.generate(QUESTION, host, max_tokens=3)
    assert torch.equal(reloaded.logits, resident.logits)
    kept = other.engine.read(reloaded.memory).memory_rows[: len(host.memory_rows)]
    assert torch.equal(kept, host.memory_rows)
    driver.engine._admission.spill_handle(memory, "test")
    again = driver.generate(QUESTION, memory, max_tokens=3)
    assert torch.equal(again.logits, resident.logits)


@by_type
def test_a_plain_engine_reads_what_was_kept_in_eight_bits(memory_dtype: str) -> None:
    """Rows leave in the model's type: a memory moves between servers of either kind."""
    eight, plain = driver_of(memory_dtype), driver_of("auto")
    memory = eight.compress(TEXT).memory
    question = QUESTION[:1]  # closes no window, which the two would round differently
    wanted = eight.generate(question, memory, max_tokens=1).logits
    actual = plain.generate(question, eight.engine.read(memory), max_tokens=1).logits
    torch.testing.assert_close(actual, wanted, atol=2e-5, rtol=2e-5)


@by_type
def test_forks_that_both_close_a_window_do_not_meet(memory_dtype: str) -> None:
    """The shared tail page of a memory is copied with its scales before either writes."""
    driver = driver_of(memory_dtype, chunk_tokens=5)
    base = driver.compress(TEXT[:50]).memory
    before = driver.engine.read(base)
    tails = (TEXT[50:100], TEXT[90:140])
    (_, first), (_, second) = (driver.submit(t, base, logits=Logits.NONE, keep=True) for t in tails)
    driver.drain()
    for tail, outcome in zip(tails, (first, second), strict=True):
        lone = driver_of(memory_dtype, chunk_tokens=5)
        wanted = lone.engine.read(lone.compress(tail, before, logits=Logits.NONE).memory)
        actual = driver.engine.read(outcome.memory)
        torch.testing.assert_close(actual.memory_rows, wanted.memory_rows, atol=1e-5, rtol=1e-5)
    assert torch.equal(driver.engine.read(base).memory_rows, before.memory_rows)


@by_type
def test_truncation_gives_whole_pages_back(memory_dtype: str) -> None:
    driver = driver_of(memory_dtype)
    memory = driver.compress(TEXT).memory
    rows = driver.engine.read(memory).memory_rows
    cut = driver.engine.truncate(memory, 2)
    assert cut.paged is not None
    assert torch.equal(driver.engine.read(cut).memory_rows, rows[: cut.paged.memory.length])
    driver.engine.check_integrity()
