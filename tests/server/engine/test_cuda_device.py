"""The thin layer over ``torch.cuda``, against stand-ins with the signatures of the real calls.

It shows that the calls exist, take these arguments and come in this order; what they do, only a
GPU can show.
"""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import MagicMock, create_autospec

import pytest
import torch

from memoserve.engine.cpu_device import CpuStream
from memoserve.engine.cuda_device import WARM_UPS, CudaDevice
from memoserve.engine.device import DeviceOptions, MemoryInfo, make_device

ALL_ON = DeviceOptions(graphs=True, pinned_uploads=True, async_copies=True)
REAL_STREAM = torch.cuda.Stream


class Log(list[str]):
    """What was called, in order."""

    def block(self, name: str) -> Any:
        @contextmanager
        def entered(*_: Any, **__: Any) -> Iterator[None]:
            self.append(f"{name} begins")
            try:
                yield
            finally:
                self.append(f"{name} ends")

        return entered


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> Log:
    log = Log()

    def stream(name: str) -> MagicMock:
        made: MagicMock = create_autospec(REAL_STREAM, instance=True)
        made.wait_stream.side_effect = lambda other: log.append(f"{name} waits for {other.name}")
        made.wait_event.side_effect = lambda _: log.append(f"{name} waits for an event")
        made.name = name
        return made

    default, names = stream("compute"), iter(["copies", "beside", "another"])
    fakes = {
        "default_stream": create_autospec(torch.cuda.default_stream, return_value=default),
        "current_stream": create_autospec(torch.cuda.current_stream, return_value=default),
        "Stream": create_autospec(torch.cuda.Stream, side_effect=lambda *_: stream(next(names))),
        "Event": create_autospec(torch.cuda.Event),
        "current_device": create_autospec(torch.cuda.current_device, return_value=3),
        "set_device": create_autospec(torch.cuda.set_device),
        "graph_pool_handle": create_autospec(torch.cuda.graph_pool_handle, return_value=(0, 1)),
        "mem_get_info": create_autospec(torch.cuda.mem_get_info, return_value=(100, 1000)),
        "memory_reserved": create_autospec(torch.cuda.memory_reserved, return_value=30),
        "memory_allocated": create_autospec(torch.cuda.memory_allocated, return_value=10),
        "stream": create_autospec(torch.cuda.stream, side_effect=log.block("stream")),
        "CUDAGraph": MagicMock(),
        "graph": create_autospec(torch.cuda.graph, side_effect=log.block("recording")),
    }
    for name, fake in fakes.items():
        monkeypatch.setattr(torch.cuda, name, fake)
    return log


def test_a_graph_is_recorded_beside_and_replayed_into_one_tensor(log: Log) -> None:
    device, out = CudaDevice(torch.device("cuda:1"), ALL_ON), torch.zeros(2)

    def work() -> torch.Tensor:
        log.append("work")
        return out

    graph = device.capture(work)
    assert log == [
        "beside waits for compute",
        "stream begins",
        *["work"] * WARM_UPS,
        "stream ends",
        "compute waits for beside",
        "stream begins",
        "recording begins",
        "work",
        "recording ends",
        "stream ends",
    ]
    log.clear()
    assert graph.replay() is graph.replay() is out
    assert log == []
    recorded: Any = torch.cuda.CUDAGraph
    assert recorded.return_value.replay.call_count == 2


def test_all_graphs_are_warmed_up_on_one_stream(log: Log) -> None:
    """cuBLAS keeps a workspace for each stream that it ran on."""
    device = CudaDevice(torch.device("cuda:1"), DeviceOptions(graphs=True))
    log.clear()
    for _ in range(3):
        device.capture(lambda: torch.zeros(2))
    assert [line for line in log if "waits for compute" in line] == ["copies waits for compute"] * 3
    with pytest.raises(ValueError, match="graphs are off"):
        CudaDevice(torch.device("cuda:1"), DeviceOptions()).capture(lambda: torch.zeros(2))


def test_failed_recordings_are_held_until_one_succeeds(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their pool is shared: with its last user it would end."""
    made = list[weakref.ref[Any]]()

    class Recorded:
        def __init__(self) -> None:
            made.append(weakref.ref(self))

    monkeypatch.setattr(torch.cuda, "CUDAGraph", Recorded)
    device = CudaDevice(torch.device("cuda:1"), DeviceOptions(graphs=True))

    def lacking() -> torch.Tensor:
        if log[-1] == "recording begins":
            raise torch.OutOfMemoryError("CUDA out of memory")
        return torch.zeros(2)

    def alive() -> list[bool]:
        begun: Any = torch.cuda.graph
        begun.reset_mock()  # a stand-in remembers what it was called with
        gc.collect()
        return [one() is not None for one in made]

    for _ in range(2):
        with pytest.raises(torch.OutOfMemoryError):
            device.capture(lacking)
    assert alive() == [True, True]
    graph = device.capture(lambda: torch.zeros(2))
    assert alive() == [False, False, True]
    with pytest.raises(torch.OutOfMemoryError):
        device.capture(lacking)
    assert alive() == [False, False, True, True]
    device.end_captures()
    assert alive() == [False, False, True, False]
    assert graph.replay is not None


def test_what_a_feature_locks_comes_from_torch(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    empty = create_autospec(torch.empty, return_value=torch.zeros(2))
    monkeypatch.setattr(torch, "empty", empty)
    device = CudaDevice(torch.device("cuda:1"), ALL_ON)
    device.host_empty((3,), torch.int32)
    device.host_block((4, 2), torch.float32)
    assert [call.kwargs for call in empty.call_args_list] == [
        {"dtype": dtype, "pin_memory": True} for dtype in (torch.int32, torch.float32)
    ]
    empty.reset_mock()
    uploading = CudaDevice(torch.device("cuda:1"), DeviceOptions(pinned_uploads=True))
    uploading.host_block((4, 2), torch.float32)
    empty.assert_called_once_with((4, 2), dtype=torch.float32)


def test_copies_wait_for_compute_on_a_stream_of_their_own(log: Log) -> None:
    device = CudaDevice(torch.device("cuda"), ALL_ON)
    assert device.where == torch.device("cuda:3")
    target = torch.zeros(2)
    pending = device.to_host(lambda: torch.ones(2), target)
    assert log == ["copies waits for an event", "stream begins", "stream ends"]
    assert target.tolist() == [1, 1]
    event: Any = torch.cuda.Event
    event.return_value.query.return_value = False
    assert not pending.done()
    event.return_value.query.return_value = True
    assert pending.done()
    pending.wait()
    event.return_value.synchronize.assert_called_once_with()


def test_with_nothing_on_there_is_one_stream(log: Log) -> None:
    device = make_device("cuda:0")
    assert device.copies is device.compute
    device.to_host(lambda: torch.ones(2), torch.zeros(2))
    assert log == ["stream begins", "stream ends"]
    with pytest.raises(TypeError, match="another kind"):
        device.compute.wait_for(CpuStream().record())


def test_free_memory_counts_what_torch_keeps_unused(log: Log) -> None:
    device = CudaDevice(torch.device("cuda:1"), DeviceOptions())
    assert device.memory() == MemoryInfo(120, 1000)


def test_its_kernels_go_to_it_from_whatever_thread(log: Log) -> None:
    called: Any = torch.cuda.set_device
    device = CudaDevice(torch.device("cuda:1"), DeviceOptions())
    called.assert_called_once_with(torch.device("cuda:1"))
    device.make_current()
    assert called.call_count == 2
