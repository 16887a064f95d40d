"""A CUDA device behind ``Device``; compiled for, not yet run on."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from memoserve.engine.device import Device, DeviceOptions, MemoryInfo
from memoserve.engine.streams import Event, Work

# Runs before a graph is recorded: kernels are compiled and workspaces allocated in them.
WARM_UPS = 2


class CudaEvent:
    """``torch.cuda.Event``."""

    def __init__(self, stream: torch.cuda.Stream) -> None:
        self.event = torch.cuda.Event()
        self.event.record(stream)

    def done(self) -> bool:
        """All work before it is done."""
        done: bool = self.event.query()
        return done

    def wait(self) -> None:
        """Block the host until it is."""
        self.event.synchronize()


class CudaStream:
    """``torch.cuda.Stream``."""

    def __init__(self, stream: torch.cuda.Stream) -> None:
        self.stream = stream

    def run(self, work: Work) -> None:
        """Launch work here."""
        with torch.cuda.stream(self.stream):
            work()

    def record(self) -> CudaEvent:
        """The point after all work so far."""
        return CudaEvent(self.stream)

    def wait_for(self, event: Event) -> None:
        """Later work comes after ``event``."""
        if not isinstance(event, CudaEvent):
            raise TypeError("an event of another kind of device")
        self.stream.wait_event(event.event)


class CudaGraph:
    """``torch.cuda.CUDAGraph`` and the tensor it fills."""

    def __init__(self, graph: torch.cuda.CUDAGraph, out: Tensor) -> None:
        self._graph = graph
        self._out = out

    def replay(self) -> Tensor:
        """Launch it on the current stream, which is the compute stream."""
        self._graph.replay()
        return self._out


class CudaDevice(Device):
    """One GPU. Steps run on its default stream, which other streams of torch do not wait for."""

    def __init__(self, where: torch.device, options: DeviceOptions) -> None:
        if where == torch.device("cuda"):  # no number: the current one
            where = torch.device("cuda", torch.cuda.current_device())
        compute = CudaStream(torch.cuda.default_stream(where))
        copies = CudaStream(torch.cuda.Stream(where)) if options.async_copies else compute
        super().__init__(where, options, compute, copies)
        self.make_current()
        # One pool of memory for all graphs: only one of them runs at a time. And one stream to warm
        # up on: cuBLAS keeps a workspace for each.
        self._graph_memory = torch.cuda.graph_pool_handle() if options.graphs else None
        self._beside = torch.cuda.Stream(where) if options.graphs else None
        self._unfinished: list[torch.cuda.CUDAGraph] = []

    def make_current(self) -> None:
        """Kernels that the calling thread launches go to this GPU."""
        torch.cuda.set_device(self.where)

    def _page_locked(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """From the driver, or from what torch keeps of earlier ones."""
        return torch.empty(shape, dtype=dtype, pin_memory=True)

    def memory(self) -> MemoryInfo:
        """What the driver says is free, and what torch keeps in reserve but does not use."""
        free, total = torch.cuda.mem_get_info(self.where)
        reserved = torch.cuda.memory_reserved(self.where)
        return MemoryInfo(free + reserved - torch.cuda.memory_allocated(self.where), total)

    def empty_cache(self) -> None:
        """Give the driver back what torch keeps in reserve."""
        torch.cuda.empty_cache()

    def synchronise(self) -> None:
        """Block the host until all streams are idle."""
        torch.cuda.synchronize(self.where)

    def capture(self, work: Callable[[], Tensor]) -> CudaGraph:
        """Record on a stream of its own, as CUDA wants it; raises where ``work`` waits."""
        beside = self._beside
        if beside is None:
            raise ValueError("graphs are off")
        beside.wait_stream(torch.cuda.current_stream(self.where))
        with torch.cuda.stream(beside):
            for _ in range(WARM_UPS):
                work()
        torch.cuda.current_stream(self.where).wait_stream(beside)
        graph = torch.cuda.CUDAGraph()
        # A failed recording is held until one succeeds: with the last that uses it the shared
        # pool would end, and torch takes no recording into a pool that has ended.
        self._unfinished.append(graph)
        # Torch does not leave the stream it records on where ending the recording fails: the outer
        # block does. Only what this thread does may end it: others own no part of it.
        with (
            torch.cuda.stream(torch.cuda.current_stream(self.where)),
            torch.cuda.graph(graph, pool=self._graph_memory, capture_error_mode="thread_local"),
        ):
            out = work()
        self._unfinished.clear()
        return CudaGraph(graph, out)

    def end_captures(self) -> None:
        """Let go of recordings that failed, where none succeeded behind them."""
        self._unfinished.clear()
