"""What needs a GPU, through its stand-in: order of copies, reuse of buffers, waits in a step."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from memoserve.engine.cpu_device import CpuDevice, CpuStream
from memoserve.engine.device import DeviceOptions, MemoryInfo, make_device
from memoserve.engine.uploads import ALIGN_BYTES, RING, Uploads

CPU = torch.device("cpu")
ALL_ON = DeviceOptions(graphs=True, pinned_uploads=True, async_copies=True)


@pytest.fixture
def device() -> CpuDevice:
    return CpuDevice(CPU, ALL_ON)


# -- streams -----------------------------------------------------------------------------------


def test_a_held_stream_works_in_order_when_let_go() -> None:
    stream, seen = CpuStream(), list[int]()
    stream.run(lambda: seen.append(0))
    stream.held = True
    stream.run(lambda: seen.append(1))
    middle = stream.record()
    stream.run(lambda: seen.append(2))
    last = stream.record()
    assert (seen, middle.done(), last.done()) == ([0], False, False)
    middle.wait()
    assert (seen, middle.done(), last.done()) == ([0, 1], True, False)
    stream.drain()
    assert (seen, last.done()) == ([0, 1, 2], True)


def test_a_stream_waits_for_another() -> None:
    first, second, seen = CpuStream(), CpuStream(), list[str]()
    first.held = second.held = True
    first.run(lambda: seen.append("first"))
    second.wait_for(first.record())
    second.run(lambda: seen.append("second"))
    second.drain()
    assert seen == ["first", "second"]


def test_everything_is_off_unless_asked_for() -> None:
    device = make_device("cpu")
    assert device.options == DeviceOptions(False, False, False)
    assert device.copies is device.compute
    assert device.memory() is None
    assert CpuDevice(CPU, ALL_ON, MemoryInfo(5, 7)).memory() == MemoryInfo(5, 7)


def test_an_unknown_kind_of_device_is_named() -> None:
    with pytest.raises(ValueError, match="'mps'"):
        make_device("mps")


# -- copies of memories ------------------------------------------------------------------------


def test_a_copy_out_is_done_when_its_event_says_so(device: CpuDevice) -> None:
    pages, target = torch.arange(6.0), device.host_empty((6,), torch.float32)
    device.copies.held = True
    pending = device.to_host(lambda: pages * 1, target)
    assert not pending.done()
    pending.wait()
    assert pending.done()
    assert target.tolist() == [0, 1, 2, 3, 4, 5]


def test_the_stand_in_shows_a_page_written_too_early(device: CpuDevice) -> None:
    pages, target = torch.zeros(4), device.host_empty((4,), torch.float32)
    device.copies.held = True
    pending = device.to_host(lambda: pages, target)
    pages += 1  # nobody may, before the copy is done
    pending.wait()
    assert target.tolist() == [1, 1, 1, 1]


def test_a_copy_comes_after_what_was_computed(device: CpuDevice) -> None:
    pages, target = torch.zeros(4), device.host_empty((4,), torch.float32)
    device.compute.held = True
    device.compute.run(lambda: pages.fill_(3))
    device.to_host(lambda: pages, target).wait()
    assert target.tolist() == [3, 3, 3, 3]


def test_computing_waits_for_a_copy_in(device: CpuDevice) -> None:
    pages, seen = torch.zeros(3), list[list[float]]()
    device.copies.held = True
    pending = device.to_device(torch.ones(3), pages.copy_)
    device.compute.run(lambda: seen.append(pages.tolist()))
    device.compute.wait_for(pending.event)
    device.compute.run(lambda: seen.append(pages.tolist()))
    assert seen == [[0, 0, 0], [1, 1, 1]]


def test_what_a_copy_uses_is_kept_until_it_is_done(device: CpuDevice) -> None:
    device.copies.held = True
    for _ in range(2):
        device.to_device(torch.ones(3), torch.zeros(3).copy_)
    assert len(device._flying) == 2
    device.synchronise()
    device.to_device(torch.ones(3), torch.zeros(3).copy_)
    assert len(device._flying) == 1


def test_what_comes_from_ordinary_memory_is_staged(device: CpuDevice) -> None:
    """The source may change at once, and more copies than buffers arrive whole."""
    pages, source = torch.zeros(7, 3), torch.zeros(3)
    device.copies.held = True
    for number in range(7):
        source.fill_(number)
        device.to_device(source, pages[number].copy_)
    device.synchronise()
    assert pages.tolist() == [[n] * 3 for n in range(7)]


def test_copies_are_done_at_once_where_they_are_off() -> None:
    device, target = make_device("cpu"), torch.zeros(2)
    assert device.to_host(lambda: torch.ones(2), target).done()
    assert target.tolist() == [1, 1]


# -- uploads -----------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [DeviceOptions(), ALL_ON])
def test_uploads_keep_values_and_types(options: DeviceOptions) -> None:
    uploads = Uploads(CpuDevice(CPU, options))
    for values in (
        np.arange(7),
        np.arange(6, dtype=np.int32).reshape(2, 3).T,
        np.array([[0.1, np.inf]]),
        np.zeros((0, 3), dtype=np.int64),
    ):
        got = uploads.upload(values)
        assert got.dtype == torch.from_numpy(np.ascontiguousarray(values)).dtype
        np.testing.assert_array_equal(got.numpy(), values)
        target = torch.full_like(got, 9)
        uploads.upload_into(values, target)
        assert torch.equal(target, got)


def test_a_buffer_is_not_written_while_a_copy_leaves_it(device: CpuDevice) -> None:
    uploads = Uploads(device)
    device.compute.held = True
    # Of growing and shrinking sizes, more than there are buffers.
    arrays = [np.full(1 + (7 * i) % 50, i) for i in range(3 * RING)]
    targets = [uploads.upload(array) for array in arrays]
    device.synchronise()
    for array, target in zip(arrays, targets, strict=True):
        np.testing.assert_array_equal(target.numpy(), array)


def test_parts_of_a_packed_upload_are_aligned(device: CpuDevice) -> None:
    sizes = {"a": 3, "none": 0, "b": 16, "c": 17, "d": 1}
    parts = {name: np.arange(size) + size for name, size in sizes.items()}
    got = Uploads(device).upload_packed(parts)
    for name, part in parts.items():
        np.testing.assert_array_equal(got[name].numpy(), part)
        assert got[name].storage_offset() * got[name].itemsize % ALIGN_BYTES == 0
    assert len({part.untyped_storage().data_ptr() for part in got.values()}) == 1
