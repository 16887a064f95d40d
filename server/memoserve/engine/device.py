"""The device as the engine sees it: streams, events, graphs, host buffers, free memory.

All that cannot be tried without a GPU is behind ``Device``. ``CudaDevice`` is thin over
``torch.cuda``; ``CpuDevice`` serves CPUs, where streams are queues that a test can hold back, so
that a missing wait shows as wrong numbers.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

Work = Callable[[], object]

# Of memories that come from ordinary memory, two are on their way at once: one is filled while
# the other leaves.
STAGED_COPIES = 2


@dataclass(frozen=True)
class DeviceOptions:
    """What is switched on. Everything is off until a measured row shows it right on a GPU.

    ``graphs``: decode steps are captured once and replayed. ``pinned_uploads``: the integers of a
    step leave from page-locked memory without waiting. ``async_copies``: memories move between
    host and device on a stream of their own, from page-locked memory.
    """

    graphs: bool = False
    pinned_uploads: bool = False
    async_copies: bool = False


@dataclass(frozen=True)
class MemoryInfo:
    """Bytes of device memory."""

    free: int
    total: int


class Event(Protocol):
    """A point in a stream's work."""

    def done(self) -> bool:
        """All work before it is done. Does not block."""
        ...

    def wait(self) -> None:
        """Block the host until it is."""
        ...


class Stream(Protocol):
    """Work in order. What two streams do is in no order but that of ``wait_for``."""

    def run(self, work: Work) -> None:
        """Launch work at the end of this stream; tensors it makes belong to this stream."""
        ...

    def record(self) -> Event:
        """The point after all work launched so far."""
        ...

    def wait_for(self, event: Event) -> None:
        """Work launched here from now on runs after ``event``; the host does not wait."""
        ...


class Graph(Protocol):
    """Launches recorded once, over tensors that stay where they are."""

    def replay(self) -> Tensor:
        """Run them again on the compute stream; always the same tensor, with new values."""
        ...


@dataclass(frozen=True)
class Pending:
    """A copy under way; ``kept`` must live until it is done."""

    event: Event
    kept: tuple[object, ...]

    def done(self) -> bool:
        """The copy is done. Does not block."""
        return self.event.done()

    def wait(self) -> None:
        """Block the host until it is done."""
        self.event.wait()


@dataclass
class _Buffer:
    """Bytes on the host; they may be written again once ``busy`` is done."""

    data: Tensor
    busy: Event | None = None


class Staging:
    """Page-locked buffers in turn, for what leaves the host from ordinary memory.

    A buffer is written again only when the copy that left from it is done.
    """

    def __init__(self, device: Device, count: int) -> None:
        self._device = device
        self._ring = deque(_Buffer(torch.empty(0, dtype=torch.uint8)) for _ in range(count))

    def send(self, host: Tensor, stream: Stream, work: Callable[[Tensor], object]) -> Event:
        """Run ``work`` on a stream with a staged copy of ``host``; waits where none is free."""
        buffer = self._ring[0]
        if buffer.busy is not None:
            buffer.busy.wait()
        if buffer.data.numel() < host.nbytes:
            # Doubling: what grows does not lock memory anew at every step.
            buffer.data = self._device.host_empty((2 * host.nbytes,), torch.uint8)
        staged = buffer.data[: host.nbytes].view(host.dtype).view(host.shape)
        staged.copy_(host)
        stream.run(lambda: work(staged))
        buffer.busy = stream.record()
        self._ring.rotate(-1)
        return buffer.busy


class Device(ABC):
    """One device and its streams; used by the engine's thread alone once that runs.

    ``compute`` is the stream that steps run on, ``copies`` the one that memories move on; the two
    are one where ``async_copies`` is off. ``out_of_memory`` is what a failed allocation raises.
    """

    out_of_memory: tuple[type[Exception], ...] = (torch.OutOfMemoryError, MemoryError)

    def __init__(
        self, where: torch.device, options: DeviceOptions, compute: Stream, copies: Stream
    ) -> None:
        self.where = where
        self.options = options
        self.compute = compute
        self.copies = copies if options.async_copies else compute
        self._staging = Staging(self, STAGED_COPIES)
        self._flying: list[Pending] = []

    def make_current(self) -> None:
        """Make this the device of the calling thread."""
        return

    def fetch(self, values: Tensor) -> Tensor:
        """Bring values to the host; waits for all work before. Once a step."""
        return values.cpu()

    @abstractmethod
    def host_empty(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """A host tensor that copies may leave from or arrive in without waiting."""

    @abstractmethod
    def memory(self) -> MemoryInfo | None:
        """Free memory now, what the allocator keeps in reserve included; None: not known."""

    @abstractmethod
    def empty_cache(self) -> None:
        """Give back what the allocator keeps in reserve."""

    @abstractmethod
    def synchronise(self) -> None:
        """Block the host until all work is done."""

    @abstractmethod
    def capture(self, work: Callable[[], Tensor]) -> Graph:
        """Record ``work``, which launches on the compute stream; it is run before, to warm up.

        ``work`` must read and write tensors that stay where they are and never wait for the device.
        """

    def to_host(self, read: Callable[[], Tensor], target: Tensor) -> Pending:
        """Copy what ``read`` gives into ``target`` of ``host_empty``, after all compute so far.

        Nothing that ``read`` reads may be written before the copy is done.
        """
        copies = self._ordered_copies()
        ahead = self.options.async_copies
        copies.run(lambda: target.copy_(read(), non_blocking=ahead))
        return self._keep(Pending(copies.record(), (read, target)))

    def to_device(self, source: Tensor, write: Callable[[Tensor], object]) -> Pending:
        """Call ``write`` with a copy of ``source`` on the device, after all compute so far.

        Nothing may use what ``write`` writes before the copy is done, or before
        ``compute.wait_for(pending.event)``; nor may ``source`` change.
        """
        copies = self._ordered_copies()
        ahead = self.options.async_copies

        def work(host: Tensor) -> None:
            write(host.to(self.where, non_blocking=ahead))

        if ahead and not source.is_pinned():
            # From ordinary memory the driver would first wait for the stream.
            event = self._staging.send(source, copies, work)
        else:
            copies.run(lambda: work(source))
            event = copies.record()
        return self._keep(Pending(event, (source, write)))

    def _ordered_copies(self) -> Stream:
        """The stream of copies, behind all compute so far."""
        if self.copies is not self.compute:
            self.copies.wait_for(self.compute.record())
        return self.copies

    def _keep(self, pending: Pending) -> Pending:
        """What a copy uses was made on another stream: freed early, it is handed out again."""
        self._flying = [other for other in self._flying if not other.done()]
        self._flying.append(pending)
        return pending


def make_device(name: str, options: DeviceOptions | None = None) -> Device:
    """The device named ``cpu`` or ``cuda[:N]``; raises RuntimeError where there is none."""
    from memoserve.engine.cpu_device import CpuDevice
    from memoserve.engine.cuda_device import CudaDevice

    where = torch.device(name)
    kinds: dict[str, Any] = {"cpu": CpuDevice, "cuda": CudaDevice}
    if where.type not in kinds:
        raise ValueError(f"no device of kind {where.type!r}; known: {', '.join(kinds)}")
    device: Device = kinds[where.type](where, options or DeviceOptions())
    return device
