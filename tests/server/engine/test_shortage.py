"""Memory that is lacking costs one request at most, and never a page."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from memoserve.engine.cpu_device import CpuDevice
from memoserve.engine.device import DeviceOptions
from memoserve.engine.faults import is_shortage
from memoserve.engine.sampler import SamplingParams
from memoserve.engine.sequence import Logits, MemoryHandle
from memoserve.errors import ResourceExhausted
from memoserve.models.loader import LoadedModel
from tests.server.engine.draws import law
from tests.server.fixtures import Driver, Outcome, make_driver, random_ids, tiny_model

TEXT = random_ids(29, seed=1)
OTHER = random_ids(37, seed=3)
PROMPT = random_ids(5, seed=2)


class Counting(CpuDevice):
    """Counts how often its allocator was asked to give back what it keeps."""

    emptied = 0

    def empty_cache(self) -> None:
        self.emptied += 1


class Allocator(TorchDispatchMode):
    """Fails every allocation from number ``first`` to ``last``, counted from 1."""

    def __init__(self, first: int, last: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.first, self.last = first, last
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        # What returns a tensor that is no view of, and not the same as, one given to it.
        if any(one.alias_info is None for one in func._schema.returns):
            self.count += 1
            if self.first <= self.count <= self.last:
                raise torch.OutOfMemoryError("out of memory: tried to allocate 20 MiB")
        return func(*args, **(kwargs or {}))


@pytest.fixture(scope="module")
def model() -> LoadedModel:
    return tiny_model(dtype=torch.float64)


def driver_of(model: LoadedModel, **more: Any) -> Driver:
    device = Counting(torch.device("cpu"), DeviceOptions())
    return make_driver(model, page_size=2, num_pages=16, device=device, **more)


@dataclass
class Mix:
    """A memory, and on a pool too small for both a second one and a question to the first."""

    driver: Driver
    first: MemoryHandle
    second: Outcome
    answer: Outcome

    def outcomes(self) -> list[Outcome]:
        return [self.second, self.answer]


def run_mix(driver: Driver, failing: Allocator) -> Mix:
    first = driver.compress(TEXT).memory
    with failing:
        _, second = driver.submit(OTHER, logits=Logits.ALL)
        _, answer = driver.submit(
            PROMPT, first, sampling=SamplingParams(max_tokens=4), logits=Logits.ALL
        )
        driver.drain()
    return Mix(driver, first, second, answer)


def check(mix: Mix, wanted: Mix) -> int:
    """Each is as it should be or was told that memory was lacking; how many were told."""
    told = 0
    for outcome, right in zip(mix.outcomes(), wanted.outcomes(), strict=True):
        if outcome.error is None:
            torch.testing.assert_close(outcome.logits, right.logits, atol=1e-9, rtol=1e-9)
            assert outcome.tokens == right.tokens
        else:
            assert isinstance(outcome.error, ResourceExhausted), repr(outcome.error)
            assert outcome.error.reason == "OUT_OF_MEMORY"
            told += 1
    rows, right_rows = mix.driver.engine.read(mix.first), wanted.driver.engine.read(wanted.first)
    torch.testing.assert_close(rows.memory_rows, right_rows.memory_rows, atol=1e-9, rtol=1e-9)
    torch.testing.assert_close(rows.window_rows, right_rows.window_rows, atol=1e-9, rtol=1e-9)
    return told


@pytest.fixture(scope="module")
def wanted(model: LoadedModel) -> Mix:
    mix = run_mix(driver_of(model), Allocator(0, 0))
    assert mix.driver.engine.metrics.spills.labels("pages_needed")._value.get() > 0
    return mix


@pytest.fixture(scope="module")
def allocations(model: LoadedModel) -> int:
    counting = Allocator(0, 0)
    run_mix(driver_of(model), counting)
    return counting.count


@settings(law, max_examples=law.max_examples // 2)
@given(part=st.floats(0, 1), times=st.sampled_from([1, 2, 3, 40, 1 << 40]))
def test_whichever_allocation_fails_nothing_leaks(
    model: LoadedModel, wanted: Mix, allocations: int, part: float, times: int
) -> None:
    """One that fails once is tried again; more of them fail who asked, and nobody else."""
    first = 1 + int(part * (allocations - 1))
    mix = run_mix(driver_of(model), Allocator(first, first + times - 1))
    told = check(mix, wanted)
    assert told == 0 or times > 1
    mix.driver.engine.release(mix.first)
    for outcome in mix.outcomes():
        if outcome.error is None and outcome.reason == "memory":
            mix.driver.engine.release(outcome.memory)
    assert mix.driver.engine.pool.num_used == 0
    assert mix.driver.compress(TEXT).reason == "memory"


def test_what_is_kept_in_reserve_is_given_back_before_the_second_try(model: LoadedModel) -> None:
    driver = driver_of(model)
    device = driver.engine._runner.device
    assert isinstance(device, Counting)
    with Allocator(1, 1):
        _, outcome = driver.submit(TEXT)
        driver.drain()
    assert outcome.reason == "memory"
    assert device.emptied == 2  # when it was built, and after the failure


@pytest.mark.parametrize(
    ("error", "lacking"),
    [
        (torch.OutOfMemoryError("CUDA out of memory."), True),
        (MemoryError(), True),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: ..."), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling ..."), True),
        (RuntimeError("Triton Error [CUDA]: out of memory"), True),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_what_counts_as_a_shortage(error: Exception, lacking: bool) -> None:
    assert is_shortage(error) is lacking
