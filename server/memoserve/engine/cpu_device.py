"""A CPU behind ``Device``: computing is done when it returns, copies when their queue runs."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import torch
from torch import Tensor

from memoserve.engine.device import Device, DeviceOptions, MemoryInfo
from memoserve.engine.streams import Event, Work


class CpuStream:
    """A queue of work. It runs at once, or later while ``held``, as a GPU's stream may."""

    def __init__(self) -> None:
        self.held = False
        self._queue: deque[Work] = deque()

    def run(self, work: Work) -> None:
        """Put work at the end; where nobody holds the queue it is done on return."""
        self._queue.append(work)
        if not self.held:
            self.drain()

    def drain(self, count: int | None = None) -> None:
        """Do the first ``count`` pieces of waiting work, or all."""
        while self._queue and (count is None or count > 0):
            self._queue.popleft()()
            count = None if count is None else count - 1

    def record(self) -> CpuEvent:
        """The point after all work so far."""
        event = CpuEvent(self)
        self.run(event.complete)
        return event

    def wait_for(self, event: Event) -> None:
        """Later work comes after ``event``."""
        self.run(event.wait)


class CpuEvent:
    """Done once its stream's queue has run past it."""

    def __init__(self, stream: CpuStream) -> None:
        self._stream = stream
        self._done = False

    def complete(self) -> None:
        """The queue has come to this point."""
        self._done = True

    def done(self) -> bool:
        """The queue has run past this point."""
        return self._done

    def wait(self) -> None:
        """Run the queue up to this point: what a device would do by itself in the meantime."""
        while not self._done:
            self._stream.drain(1)


class CpuGraph:
    """A callable that is run again into the tensor that its first run gave."""

    def __init__(self, work: Callable[[], Tensor]) -> None:
        self._work = work
        self._out = work()

    def replay(self) -> Tensor:
        """Run it; the tensor is always the same one."""
        return self._out.copy_(self._work())


class CpuDevice(Device):
    """The CPU; with features switched on, the stand-in for a GPU's way of doing them."""

    compute: CpuStream
    copies: CpuStream

    def __init__(
        self,
        where: torch.device,
        options: DeviceOptions,
        memory: MemoryInfo | None = None,
    ) -> None:
        super().__init__(where, options, CpuStream(), CpuStream())
        self._memory = memory

    def _page_locked(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Plain memory: nothing on a CPU needs it locked."""
        return torch.empty(shape, dtype=dtype)

    def memory(self) -> MemoryInfo | None:
        """As the constructor was told: a CPU's pool is sized by the operator."""
        return self._memory

    def empty_cache(self) -> None:
        """Nothing is kept in reserve."""

    def synchronise(self) -> None:
        """Run both queues to their end."""
        self.compute.drain()
        self.copies.drain()

    def end_captures(self) -> None:
        """A recording keeps nothing."""

    def capture(self, work: Callable[[], Tensor]) -> CpuGraph:
        """Run ``work`` once, and again at each replay, its Python included."""
        return CpuGraph(work)
