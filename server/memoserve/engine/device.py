"""The device as the engine sees it: streams, events, graphs, host buffers, free memory.

All that cannot be tried without a GPU is behind ``Device``. ``CudaDevice`` is thin over
``torch.cuda``; ``CpuDevice`` serves CPUs, where streams are queues that a test can hold back, so
that a missing wait shows as wrong numbers.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from memoserve.engine.faults import is_shortage
from memoserve.engine.streams import Graph, Pending, Staging, Stream

log = logging.getLogger(__name__)

# Of memories that come from ordinary memory, two are on their way at once: one is filled while
# the other leaves.
STAGED_COPIES = 2
# A power of two: to one torch rounds what it locks, and keeps it for the next of that size.
BLOCK_BYTES = 64 << 20


@dataclass(frozen=True)
class DeviceOptions:
    """What is switched on. Everything is off until a measured row shows it right on a GPU.

    ``graphs``: decode steps are captured once and replayed. ``pinned_uploads``: the integers of a
    step leave from page-locked memory without waiting. ``async_copies``: memories move between
    host and device on a stream of their own, from and to page-locked memory.
    """

    graphs: bool = False
    pinned_uploads: bool = False
    async_copies: bool = False


@dataclass(frozen=True)
class MemoryInfo:
    """Bytes of device memory."""

    free: int
    total: int


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
        self._staging = Staging(self.host_empty, STAGED_COPIES)
        self._flying: list[Pending] = []
        self._told_of_locking = False

    def make_current(self) -> None:
        """Make this the device of the calling thread."""
        return

    def fetch(self, values: Tensor) -> Tensor:
        """Bring values to the host; waits for all work before. Once a step."""
        return values.cpu()

    def host_empty(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """A host tensor that copies may leave from or arrive in without waiting.

        Ordinary memory, from and to which they wait, where the system locks no more of it: that is
        slower and as right. Said in the log, once.
        """
        try:
            return self._page_locked(shape, dtype)
        except Exception as error:
            if not is_shortage(error):
                raise
            if not self._told_of_locking:
                log.warning("no more memory can be page-locked; copies wait instead: %s", error)
                self._told_of_locking = True
        return torch.empty(shape, dtype=dtype)

    def block_sizes(self, count: int, row_bytes: int) -> list[int]:
        """Rows of each ``host_block`` that ``count`` rows leave the device for.

        Where ``async_copies`` is on, of at most ``BLOCK_BYTES``, or a row: locking takes its time
        by the byte, and what is given back is had again by the block. Elsewhere it is one.
        """
        if not self.options.async_copies:
            return [count]
        most = max(BLOCK_BYTES // row_bytes, 1)
        return [min(most, count - first) for first in range(0, count, most)]

    def host_block(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """A host tensor for rows that leave the device: ``host_empty`` with ``async_copies``."""
        if self.options.async_copies:
            return self.host_empty(shape, dtype)
        return torch.empty(shape, dtype=dtype)

    @abstractmethod
    def _page_locked(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """A page-locked host tensor; raises where the system gives none."""

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

    @abstractmethod
    def end_captures(self) -> None:
        """No more is recorded: what failed recordings keep is given back."""

    def to_host(self, read: Callable[[], Tensor], target: Tensor) -> Pending:
        """Copy what ``read`` gives into ``target`` of ``host_block``, after all compute so far.

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
