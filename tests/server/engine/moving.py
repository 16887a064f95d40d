"""Engines whose memories move in slices, over a device that notes and may refuse every copy."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import torch
from torch import Tensor

from memoserve.engine.cpu_device import CpuDevice
from memoserve.engine.device import DeviceOptions
from memoserve.engine.sampler import SamplingParams
from memoserve.engine.sequence import MemoryHandle, Sequence
from memoserve.engine.streams import Pending
from memoserve.memory.memory import HostState
from memoserve.models.loader import LoadedModel
from tests.server.fixtures import Driver, Outcome, is_spilled, make_driver, random_ids

# Window 8, ratio 4, pages of 2 rows: a full window has 10 rows, 5 pages, and leaves 2 rows.
TEXT = random_ids(45, seed=1)  # 10 memory rows and 6 of the open window
PROMPT = random_ids(3, seed=2)
ROW = 2 * 2 * 2 * 4 * 8  # K and V, 2 layers, 2 kv heads of 4, float64
SHARE = SamplingParams(max_tokens=12)


class Copies(CpuDevice):
    """Notes every copy; those that ``failing`` names find no memory."""

    def __init__(self, queued: bool) -> None:
        super().__init__(torch.device("cpu"), DeviceOptions(async_copies=queued))
        self.copies.held = queued
        self.sizes: list[int] = []
        self.failing: Callable[[Tensor], bool] = lambda _: False
        self.emptied = 0

    def _note(self, part: Tensor) -> None:
        if self.failing(part):
            raise torch.OutOfMemoryError("out of memory")
        self.sizes.append(part.nbytes)

    def to_host(self, read: Callable[[], Tensor], target: Tensor) -> Pending:
        self._note(target)
        return super().to_host(read, target)

    def to_device(self, source: Tensor, write: Callable[[Tensor], object]) -> Pending:
        self._note(source)
        return super().to_device(source, write)

    def empty_cache(self) -> None:
        self.emptied += 1


FAILING: dict[str, Callable[[Tensor], bool]] = {
    "never": lambda _: False,
    "at_once": lambda _: True,
    "later": lambda part: part.storage_offset() > 0,
}
"""Which slices fail: none, all, all but the first of each tensor."""


def driver_of(model: LoadedModel, rows: int = 2, *, queued: bool = False, **more: Any) -> Driver:
    """A driver whose engine moves so many rows a step."""
    options = {"page_size": 2, "num_pages": 40} | more
    return make_driver(model, copy_bytes=rows * ROW, device=Copies(queued), **options)


def device_of(driver: Driver) -> Copies:
    device = driver.engine._tier.device
    assert isinstance(device, Copies)
    return device


def spilled(driver: Driver, text: tuple[int, ...] = TEXT) -> MemoryHandle:
    """A memory on the host."""
    handle = driver.compress(text).memory
    while not driver.engine._admission.spill_handle(handle, "pages_needed"):
        device_of(driver).copies.drain()
        driver.engine._tier.begin_step()
    device_of(driver).sizes.clear()
    assert is_spilled(handle)
    return handle


def reading(driver: Driver, handle: MemoryHandle, first_row: int = 0) -> Future[HostState]:
    answer: Future[HostState] = Future()
    driver.engine.start_reading(handle, first_row, answer)
    return answer


def ask(driver: Driver, base: MemoryHandle | HostState, **more: Any) -> tuple[Sequence, Outcome]:
    return driver.submit(PROMPT, base, sampling=SamplingParams(max_tokens=3), **more)


def wanted_tokens(model: LoadedModel) -> list[int]:
    lone = make_driver(model, page_size=2, num_pages=60)
    return lone.generate(PROMPT, lone.compress(TEXT).memory, max_tokens=3).tokens
