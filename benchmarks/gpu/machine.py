"""The device of a run: timing by its own clock, with its caches cold, and what it holds."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

# Written between two timed calls: several times the L2 of any chip meant here (50 to 126 MB), and
# long enough on the device for the host to have queued the whole timed call behind it.
FLUSH_BYTES = 1 << 30
MIN_ROUNDS, MAX_ROUNDS = 5, 50


@dataclass(frozen=True)
class Timing:
    """Seconds of one call: median, smallest and largest of ``rounds``."""

    median: float
    low: float
    high: float
    rounds: int

    @property
    def note(self) -> str:
        """The spread, as rows carry it."""
        return f"min {self.low * 1e3:.4g} max {self.high * 1e3:.4g} ms of {self.rounds}"


class Machine:
    """A CUDA device or, ``dry``, the CPU, where the same code runs and nothing is measured."""

    def __init__(self, dry: bool) -> None:
        self.dry = dry
        self.device = torch.device("cpu") if dry else torch.device("cuda", 0)

    @staticmethod
    def missing() -> str:
        """Why there is no device, empty where there is one."""
        return "" if torch.cuda.is_available() else "PyTorch finds no CUDA device"

    def synchronise(self) -> None:
        """Wait for the device."""
        if not self.dry:
            torch.cuda.synchronize(self.device)

    def tidy(self) -> None:
        """Give unused memory back, after a large tensor was dropped."""
        if not self.dry:
            gc.collect()
            torch.cuda.empty_cache()

    def generator(self, seed: int) -> torch.Generator:
        """Draws on the device."""
        return torch.Generator(self.device).manual_seed(seed)

    def normal(
        self, *shape: int, dtype: torch.dtype, generator: torch.Generator, scale: float = 1.0
    ) -> Tensor:
        """Random data: zeros run faster than any real input."""
        drawn = torch.empty(shape, dtype=dtype, device=self.device)
        return drawn.normal_(0.0, scale, generator=generator)

    @cached_property
    def _flush_buffer(self) -> Tensor:
        return torch.empty(FLUSH_BYTES // 4, dtype=torch.int32, device=self.device)

    def forget_flush_buffer(self) -> None:
        """Give its memory to what comes next."""
        self.__dict__.pop("_flush_buffer", None)

    def time(self, call: Callable[[], Any], seconds: float = 0.4) -> Timing:
        """Time of a call, L2 cold; about ``seconds`` are spent. The first calls warm up."""
        for _ in range(1 if self.dry else 2):
            call()
        if self.dry:
            return self.wall(call)
        first = self._rounds(call, 2)
        rounds = int(seconds / max(statistics.median(first), 1e-6))
        return _summary(self._rounds(call, min(max(rounds, MIN_ROUNDS), MAX_ROUNDS)))

    def _rounds(self, call: Callable[[], Any], rounds: int) -> list[float]:
        pairs = []
        for number in range(rounds):
            self._flush_buffer.fill_(number)
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            call()
            end.record()
            pairs.append((start, end))
        self.synchronise()
        return [start.elapsed_time(end) / 1e3 for start, end in pairs]

    def wall(self, call: Callable[[], Any], rounds: int = 1) -> Timing:
        """Wall-clock time of a call until the device is done with it, host work included."""
        times = []
        for _ in range(rounds):
            self.synchronise()
            began = time.perf_counter()
            call()
            self.synchronise()
            times.append(time.perf_counter() - began)
        return _summary(times)


def _summary(times: list[float]) -> Timing:
    return Timing(statistics.median(times), min(times), max(times), len(times))
