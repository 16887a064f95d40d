"""What a step waits for the device for: its tokens, and where uploads are not pinned, those."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from memoserve.engine import graph_tables
from memoserve.engine.build import rules_of
from memoserve.engine.cpu_device import CpuDevice, CpuEvent
from memoserve.engine.device import DeviceOptions
from memoserve.engine.engine import Engine
from memoserve.engine.model_runner import ModelRunner
from memoserve.engine.sampler import SamplingParams
from memoserve.engine.scheduler import StepLimits
from memoserve.engine.sequence import Logits
from memoserve.memory.kv_cache import KVCache, KVShape
from memoserve.memory.page_pool import PagePool
from memoserve.metrics import Metrics
from memoserve_kernels import ops
from tests.server.fixtures import Driver, Outcome, random_ids, tiny_model

TOKEN = 5


class Away(CpuDevice):
    """A device without values, behind the host: nothing is done there before somebody waits.

    Whatever would look at a value raises, but ``fetch``.
    """

    def __init__(self, options: DeviceOptions) -> None:
        super().__init__(torch.device("meta"), options)
        self.compute.held = True
        self.fetches: list[int] = []
        self.locked: list[Tensor] = []

    def fetch(self, values: Tensor) -> Tensor:
        self.fetches.append(values.numel())
        self.synchronise()
        return torch.full(values.shape, TOKEN, dtype=values.dtype)

    def _page_locked(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        self.locked.append(super()._page_locked(shape, dtype))
        return self.locked[-1]


class Crossings(TorchDispatchMode):
    """Bytes that went from the host to the device by copies that wait, one a copy."""

    def __init__(self, device: Away) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._device = device
        self.sizes: list[int] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        given = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        made = [x for x in tree_leaves(result) if isinstance(x, Tensor)]
        if any(x.device == self._device.where for x in made):
            ahead = func is torch.ops.aten.copy_.default and True in args[2:]
            self.sizes += [x.nbytes for x in given if self._waits(x, ahead)]
        return result

    def _waits(self, source: Tensor, ahead: bool) -> bool:
        if source.device.type != "cpu" or source.ndim == 0:
            return False  # numbers travel with the launch
        storages = {one.untyped_storage().data_ptr() for one in self._device.locked}
        return not (ahead and source.untyped_storage().data_ptr() in storages)


@pytest.fixture(autouse=True)
def no_values(monkeypatch: pytest.MonkeyPatch) -> None:
    """Attention and the writing of pages are kernels' business, tested with them."""

    def attention(q: Tensor, kv: Tensor, layout: Any, *_: Any) -> None:
        """As a kernel: brings its tables over once a layout; a captured one has them."""
        if layout.sequences:
            layout.once("tables", lambda: layout.to_device(np.arange(len(layout.sequences))))

    kernels = SimpleNamespace(
        rope_and_append=lambda q, *_: torch.empty_like(q),
        append=lambda *_: None,
        rotate=lambda x, _: torch.empty_like(x),
        window_attention=attention,
        paged_decode=attention,
        evict_window=lambda *_: None,
    )
    whole = ops._backend
    monkeypatch.setattr(
        ops, "_backend", lambda *xs: SimpleNamespace(**vars(whole(*xs)) | vars(kernels))
    )
    monkeypatch.setattr(SamplingParams, "generator", lambda *_: None)


@pytest.fixture(autouse=True)
def inference() -> Iterator[None]:
    """Work that waited in a queue is done in the mode that it would have been launched in."""
    with torch.inference_mode():
        yield


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[CpuEvent]]:
    """Events that the host waited for before they were done."""
    seen, wait = list[CpuEvent](), CpuEvent.wait

    def counted(self: CpuEvent) -> None:
        if not self.done():
            seen.append(self)
        wait(self)

    monkeypatch.setattr(CpuEvent, "wait", counted)
    yield seen


def driver_of(device: Away) -> Driver:
    """An engine over a device without values, its tensors and weights included."""
    loaded = tiny_model(beacon_sink_size=1)
    config = loaded.config
    shape = KVShape(config.num_layers, config.num_kv_heads, config.head_dim, loaded.dtype)
    cache, pool = KVCache(shape, 1500, 3, device.where), PagePool(1500, 3)
    rules = rules_of(config.beacon)
    runner = ModelRunner(loaded.model.to("meta"), loaded.rope, rules, cache, device)
    return Driver(Engine(runner, pool, cache, StepLimits(rules.window, 1000, 0.0), Metrics()))


WAYS = [
    SamplingParams(max_tokens=9),
    SamplingParams(max_tokens=9, temperature=0.7, top_k=3, top_p=0.5),
    SamplingParams(max_tokens=9, temperature=0.7, repetition_penalty=1.1),
    SamplingParams(max_tokens=9, repetition_penalty=1.1),
]


def ask(driver: Driver, count: int) -> list[Outcome]:
    """A memory, then so many readers of it that draw in all ways, beside another one."""
    memory = driver.compress(random_ids(29, 1), logits=Logits.NONE).memory
    asked = [
        driver.submit(random_ids(3, i), memory, sampling=WAYS[i % len(WAYS)], logits=Logits.NONE)[1]
        for i in range(count)
    ]
    return [*asked, driver.submit(random_ids(40, 2), logits=Logits.NONE)[1]]


def answered(outcomes: list[Outcome]) -> bool:
    return all(o.error is None and o.tokens in ([], [TOKEN] * 9) for o in outcomes)


def test_a_step_brings_over_its_tokens_and_nothing_else() -> None:
    """Windows close, forks copy their tails, tokens are drawn in all ways."""
    device = Away(DeviceOptions())
    driver = driver_of(device)
    outcomes = ask(driver, 4)
    assert device.fetches == []
    driver.drain()
    assert answered(outcomes)
    assert device.fetches == [4] * 9


@pytest.mark.parametrize("graphs", [False, True])
@pytest.mark.parametrize("readers", [4, 70])
def test_with_pinned_uploads_a_step_waits_for_its_tokens_alone(
    readers: int, graphs: bool, waits: list[CpuEvent], monkeypatch: pytest.MonkeyPatch
) -> None:
    if graphs:
        pytest.importorskip("triton")
        monkeypatch.setattr(graph_tables, "has_static_tables", lambda *_: True)
    device = Away(DeviceOptions(pinned_uploads=True, graphs=graphs))
    driver = driver_of(device)
    outcomes = ask(driver, readers)
    waits.clear()
    fetches = len(device.fetches)
    with Crossings(device) as crossings:
        while any(not outcome.finished for outcome in outcomes):
            driver.engine.step()
            assert (waits, crossings.sizes) == ([], [])
    assert answered(outcomes)
    assert len(device.fetches) - fetches == 9


@pytest.mark.parametrize(
    ("ways", "copies"),
    [
        (WAYS[:1], ["integers", "attention"]),
        (WAYS[2:3], ["integers", "attention", "index", "numbers", "penalties"]),
        (WAYS, ["integers", "attention", "index", "numbers", "penalties", "top-k"]),
    ],
)
def test_without_them_each_upload_is_a_copy_that_waits(
    ways: list[SamplingParams], copies: list[str]
) -> None:
    """The integers of a step without beacons, its attention tables, what a draw needs to know."""
    device = Away(DeviceOptions())
    driver = driver_of(device)
    for number, sampling in enumerate(ways):
        driver.submit(random_ids(1, number), sampling=sampling, logits=Logits.NONE)
    driver.engine.step()
    with Crossings(device) as crossings:
        driver.engine.step()
    assert len(crossings.sizes) == len(copies)
    assert device.fetches == [len(ways)] * 2
