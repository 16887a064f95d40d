"""Work in order on a device: streams, events, graphs, and what leaves the host on a stream."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import torch
from torch import Tensor

Work: TypeAlias = Callable[[], object]
Lock: TypeAlias = Callable[[tuple[int, ...], torch.dtype], Tensor]
"""Makes a host tensor that copies may leave from without waiting."""


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

    A buffer is written again only when the copy that left from it is done. There are as many as
    are in use at once, ``most`` of them before one is waited for.
    """

    def __init__(self, lock: Lock, most: int) -> None:
        self._lock = lock
        self._most = most
        self._ring = deque[_Buffer]()

    def send(self, host: Tensor, stream: Stream, work: Callable[[Tensor], object]) -> Event:
        """Run ``work`` on a stream with a staged copy of ``host``; waits where none is free."""
        buffer = self._free()
        if buffer.data.numel() < host.nbytes:
            # The next power of two: what grows does not lock memory anew at every step.
            size = 1 << (host.nbytes - 1).bit_length()
            buffer.data = self._lock((size,), torch.uint8)
        staged = buffer.data[: host.nbytes].view(host.dtype).view(host.shape)
        staged.copy_(host)
        stream.run(lambda: work(staged))
        buffer.busy = stream.record()
        self._ring.append(buffer)
        return buffer.busy

    def _free(self) -> _Buffer:
        """The buffer that was sent first, taken out of the ring, or a new one."""
        if self._ring:
            first = self._ring[0]
            if first.busy is None or first.busy.done():
                return self._ring.popleft()
            if len(self._ring) >= self._most:
                first.busy.wait()
                return self._ring.popleft()
        return _Buffer(torch.empty(0, dtype=torch.uint8))
