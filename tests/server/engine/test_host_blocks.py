"""Page-locked memory: in blocks, for the features that want it, ordinary where there is no more."""

from __future__ import annotations

import logging
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from memoserve.engine import device as device_module
from memoserve.engine.cpu_device import CpuDevice
from memoserve.engine.device import BLOCK_BYTES, DeviceOptions
from memoserve.engine.faults import SequenceFault
from memoserve.engine.streams import Staging
from memoserve.models.loader import LoadedModel
from tests.server.engine.comparing import same_state
from tests.server.engine.moving import (
    ROW,
    TEXT,
    ask,
    device_of,
    driver_of,
    reading,
    spilled,
    wanted_tokens,
)
from tests.server.fixtures import tiny_model

CPU = torch.device("cpu")


class Locks(CpuDevice):
    """Notes what is page-locked; more than ``room`` bytes there are not, or something is broken."""

    def __init__(self, options: DeviceOptions, room: int = 1 << 40, words: str = "") -> None:
        super().__init__(CPU, options)
        self.room, self.words = room, words or "CUDA error: out of memory"
        self.locked: list[Tensor] = []

    def _page_locked(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        made = super()._page_locked(shape, dtype)
        if made.nbytes > self.room:
            raise RuntimeError(self.words)
        self.room -= made.nbytes
        self.locked.append(made)
        return made


@pytest.fixture(scope="module")
def model() -> LoadedModel:
    return tiny_model(dtype=torch.float64)


# -- what is locked ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("count", "rows"), [(0, []), (1, [1]), (5, [5]), (6, [5, 1]), (15, [5, 5, 5])]
)
def test_rows_that_leave_lie_in_blocks(
    count: int, rows: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device_module, "BLOCK_BYTES", 5 * 24 + 23)
    device = Locks(DeviceOptions(async_copies=True))
    assert device.block_sizes(count, 24) == rows
    assert device.block_sizes(2, 1000) == [1, 1]
    block = device.host_block((3, 2), torch.float32)
    assert device.locked[0] is block


def test_a_block_is_what_torch_rounds_to() -> None:
    assert BLOCK_BYTES.bit_count() == 1


@pytest.mark.parametrize("uploads", [False, True])
def test_uploads_alone_lock_no_memories(uploads: bool) -> None:
    device = Locks(DeviceOptions(pinned_uploads=uploads))
    assert device.block_sizes(1000, 1 << 30) == [1000]
    assert device.host_block((1000, 3, 2), torch.float32).shape == (1000, 3, 2)
    assert device.locked == []


def test_what_is_staged_is_locked_in_powers_of_two() -> None:
    device = Locks(DeviceOptions(pinned_uploads=True))
    staging = Staging(device.host_empty, 3)
    for size in (3, 5, 8, 9, 2, 0):
        staging.send(torch.zeros(size), device.compute, lambda _: None)
    assert [one.nbytes for one in device.locked] == [16, 32, 64]


def test_a_buffer_is_made_before_one_is_waited_for() -> None:
    device = Locks(DeviceOptions(pinned_uploads=True))
    staging, seen = Staging(device.host_empty, 3), list[float]()
    device.compute.held = True
    for number in range(3):
        staging.send(torch.full((1,), number), device.compute, lambda x: seen.append(x.item()))
    assert (len(device.locked), seen) == (3, [])
    staging.send(torch.full((1,), 3), device.compute, lambda x: seen.append(x.item()))
    assert (len(device.locked), seen) == (3, [0])
    device.synchronise()
    assert seen == [0, 1, 2, 3]


# -- where there is no more --------------------------------------------------------------------


def test_ordinary_memory_takes_its_place_and_the_log_says_so_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    device = Locks(DeviceOptions(async_copies=True), room=100)
    with caplog.at_level(logging.WARNING):
        made = [device.host_empty((20,), torch.float32) for _ in range(3)]
    assert device.locked == made[:1]
    assert [one.shape for one in made] == [(20,)] * 3
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "copies wait instead: CUDA error: out of memory" in caplog.text


def test_what_is_no_shortage_is_told() -> None:
    device = Locks(DeviceOptions(async_copies=True), room=0, words="CUDA error: unknown error")
    with pytest.raises(RuntimeError, match="unknown error"):
        device.host_empty((20,), torch.float32)


# -- memories in blocks ------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [1, 3, 4])
def test_a_memory_in_blocks_is_the_same_memory(
    model: LoadedModel, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """10 memory rows and 6 of the window; slices of 2 rows end with a block."""
    monkeypatch.setattr(device_module, "BLOCK_BYTES", rows * ROW)
    driver = driver_of(model, queued=True)
    memory = spilled(driver)
    assert memory.host is not None
    assert [b.shape[0] for b in memory.host.memory_blocks] == sizes(10, rows)
    assert [b.shape[0] for b in memory.host.window_blocks] == sizes(6, rows)
    whole, part = driver.engine.read(memory), reading(driver, memory, 4).result()
    assert torch.equal(part.memory_rows, whole.memory_rows[4:])
    assert (part.first_row, part.memory_rows.shape[0]) == (4, 6)
    assert torch.equal(part.window_rows, whole.window_rows)
    _, asked = ask(driver, memory)
    while not asked.finished:
        driver.engine.step()
        device_of(driver).copies.drain()
    assert asked.tokens == wanted_tokens(model)
    same_state(driver.engine.read(memory), whole)


def sizes(count: int, most: int) -> list[int]:
    return [min(most, count - first) for first in range(0, count, most)]


def test_no_block_is_locked_before_its_turn(
    model: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Blocks of 4 rows, slices of 2: a step locks one block at most."""
    monkeypatch.setattr(device_module, "BLOCK_BYTES", 4 * ROW)
    locked = list[int]()
    monkeypatch.setattr(
        CpuDevice, "_page_locked", lambda _, shape, dtype: counted(locked, shape, dtype)
    )
    driver = driver_of(model, queued=True)
    memory = driver.compress(TEXT).memory
    answer, seen = reading(driver, memory), [0]
    while not answer.done():
        driver.engine.step()
        device_of(driver).copies.drain()
        assert len(locked) - seen[-1] <= 1
        seen.append(len(locked))
    assert locked == [4, 4, 2, 4, 2]
    assert len(seen) >= 8


def counted(locked: list[int], shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    locked.append(shape[0])
    return torch.empty(shape, dtype=dtype)


@pytest.mark.parametrize("which", ["memory_blocks", "window_blocks"])
def test_a_block_that_is_not_finite_is_never_handed_out(
    model: LoadedModel, which: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device_module, "BLOCK_BYTES", 3 * ROW)
    driver = driver_of(model, queued=True)
    memory = spilled(driver)
    getattr(memory.host, which)[-1][-1, 0, 0, 0, 0] = float("nan")
    assert isinstance(reading(driver, memory).exception(), SequenceFault)


def test_a_budget_counts_the_wider_of_host_and_device(model: LoadedModel) -> None:
    """Rows in float32 of a memory that is float64 on the device, 2 a step."""
    driver = driver_of(model)
    host = driver.engine.read(driver.compress(TEXT).memory)
    narrow = replace(host, memory_blocks=(host.memory_rows.float(),))
    sizes_sent = device_of(driver).sizes
    sizes_sent.clear()
    _, asked = ask(driver, narrow)
    driver.drain()
    assert asked.error is None
    assert sizes_sent == [2 * ROW // 2] * 5 + [2 * ROW] * 3
