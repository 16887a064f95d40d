"""Spilling does what helps and nothing else; what fails while it works fails for one alone."""

from __future__ import annotations

import pytest
import torch

from memoserve.engine.faults import SequenceFault
from memoserve.engine.sampler import SamplingParams
from memoserve.engine.sequence import Status
from memoserve.errors import OutOfRange
from memoserve.memory.transfer import Leaving
from memoserve.memory.window import RatioSchedule
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


@pytest.fixture(scope="module")
def model() -> LoadedModel:
    return tiny_model(dtype=torch.float64)


@pytest.fixture
def driver(model: LoadedModel) -> Driver:
    return make_driver(model, page_size=2, num_pages=16)


def test_nothing_is_spilled_that_would_not_be_enough(driver: Driver) -> None:
    kept = driver.compress(random_ids(16, 1)).memory
    running, _ = driver.submit(random_ids(4, 2), sampling=SamplingParams(max_tokens=30))
    driver.engine.step()
    assert running.status is Status.RUNNING
    waiting, outcome = driver.submit(random_ids(56, 3))
    driver.engine.step()
    assert waiting.status is Status.WAITING
    assert is_resident(kept)
    driver.drain()
    assert outcome.reason == "memory"


def test_a_spare_host_copy_goes_with_its_last_user(driver: Driver) -> None:
    """A memory that is on disk is kept on the host only while somebody uses it."""
    handle = driver.compress(random_ids(24, 1)).memory
    handle.droppable = True
    assert driver.engine.pin(handle)
    driver.compress(random_ids(72, 2))
    assert is_spilled(handle)
    driver.engine.unpin(handle)
    assert handle.gone


def test_a_memory_that_is_nowhere_else_stays_on_the_host(driver: Driver) -> None:
    handle = driver.compress(random_ids(24, 1)).memory
    assert driver.engine.pin(handle)
    driver.compress(random_ids(72, 2))
    driver.engine.unpin(handle)
    assert is_spilled(handle)


def test_a_failing_spill_fails_who_asked_for_it(
    driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver.compress(random_ids(24, 1))

    def fail(*_: object) -> None:
        raise RuntimeError("out of luck")

    monkeypatch.setattr(Leaving, "launch", fail)
    _, asked = driver.submit(random_ids(72, 2))
    driver.engine.step()
    assert asked.error is not None and asked.error.status == "INTERNAL"
    assert "out of luck" not in str(asked.error)
    monkeypatch.undo()
    assert driver.compress(random_ids(8, 3)).reason == "memory"


def test_a_memory_that_is_not_finite_is_never_read_out(driver: Driver) -> None:
    handle = driver.compress(random_ids(24, 1)).memory
    assert handle.paged is not None
    page = handle.paged.memory.pages[0]
    driver.engine._cache.data[0, 1, page, 0, 0, 0] = float("nan")
    with pytest.raises(SequenceFault):
        driver.engine.read(handle)


@pytest.mark.parametrize("streamed", [False, True])
def test_dynamic_rope_ends_where_its_angles_would_change(streamed: bool) -> None:
    stretched = {"type": "dynamic", "factor": 2.0}
    model = tiny_model(max_position_embeddings=24, rope_scaling=stretched)
    driver = make_driver(model)
    fits = driver.compress(random_ids(40, 1))
    assert fits.reason == "memory"
    if streamed:
        _, late = driver.submit(random_ids(48, 1), base=fits.memory)
        driver.drain()
    else:
        late = driver.generate(random_ids(8, 2), fits.memory, max_tokens=40)
    assert isinstance(late.error, OutOfRange)
    assert late.error.metadata["limit"] == "24"


def test_ratio_zero_without_a_sink_is_the_base_model() -> None:
    """With its sink the model reads its first rows twice once window 0 is closed."""
    ids = random_ids(30, 1)
    plain = tiny_model(dtype=torch.float64)
    sunk = tiny_model(dtype=torch.float64, beacon_sink_size=2)
    wanted = make_driver(plain).compress(ids, schedule=RatioSchedule((0,))).logits
    without = make_driver(sunk).compress(ids, schedule=RatioSchedule((0,), sink=False)).logits
    torch.testing.assert_close(without, wanted, atol=1e-9, rtol=1e-9)
    twice = make_driver(sunk).compress(ids, schedule=RatioSchedule((0,))).logits
    assert (twice - wanted).abs().max() > 1e-3
