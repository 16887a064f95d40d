"""What captured steps keep is known beforehand, counted by the pool, and never more than fits."""

from __future__ import annotations

import gc
import logging
import weakref
from collections.abc import Callable
from dataclasses import replace
from types import MethodType, SimpleNamespace
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from memoserve.engine.build import EngineOptions, build_engine, kv_shape, largest_step, rules_of
from memoserve.engine.cpu_device import CpuDevice, CpuGraph
from memoserve.engine.device import DeviceOptions, MemoryInfo
from memoserve.engine.graph_memory import (
    BUCKETS,
    Room,
    graph_bytes,
    rooms,
    rooms_that_fit,
    sizes_of,
)
from memoserve.engine.graphs import DecodeGraphs
from memoserve.engine.model_runner import ModelRunner
from memoserve.engine.pool_size import forward_bytes, step_reserve
from memoserve.engine.sampler import SamplingParams
from memoserve.engine.scheduler import StepLimits
from memoserve.engine.sequence import Logits
from memoserve.errors import ResourceExhausted
from memoserve.memory.kv_cache import KVCache, KVShape
from memoserve.memory.window import Coverage, Placement, RatioSchedule, WindowRules
from memoserve.metrics import Metrics
from memoserve.models.loader import LoadedModel
from tests.server.engine.living import Living
from tests.server.engine.test_pool_size import QWEN2_7B
from tests.server.engine.test_shortage import Allocator
from tests.server.fixtures import Driver, Outcome, random_ids, tiny_model

CPU = torch.device("cpu")
GRAPHED = DeviceOptions(graphs=True)
SCHEDULE = RatioSchedule((0,))


@pytest.fixture(scope="module")
def model() -> LoadedModel:
    return tiny_model(hidden_size=64, intermediate_size=96, head_dim=16)


class Idle(CpuDevice):
    """Records nothing: what is left is what lies there before anything runs."""

    def capture(self, work: Callable[[], Tensor]) -> Any:
        return SimpleNamespace()


class Short(CpuDevice):
    """Memory is lacking at some captures, counted from 0, or at others that end badly."""

    def __init__(self, *lacking: int, badly: bool = False) -> None:
        super().__init__(CPU, GRAPHED)
        self.lacking, self.badly = lacking, badly
        self.captures = self.emptied = 0
        self.failed = list[weakref.ref[Any]]()
        self.alive = list[int]()

    def capture(self, work: Callable[[], Tensor]) -> CpuGraph:
        self.captures += 1
        if self.captures - 1 not in self.lacking:
            return super().capture(work)
        # A method of the step that is being made: as long as it lives, so do its tensors.
        self.failed.append(weakref.ref(cast(MethodType, work).__self__))
        try:
            raise torch.OutOfMemoryError("CUDA out of memory")
        finally:
            if self.badly:
                raise RuntimeError("CUDA error: operation failed due to a previous error")

    def empty_cache(self) -> None:
        self.emptied += 1
        self.alive.append(sum(one() is not None for one in self.failed))


def driver(model: LoadedModel, device: CpuDevice) -> Driver:
    options = EngineOptions(page_size=3, num_pages=300, step_tokens=1000)
    return Driver(build_engine(model, options, Metrics(), device))


def graphs_of(driver: Driver) -> DecodeGraphs:
    graphs = driver.engine._runner.graphs
    assert graphs is not None
    return graphs


def rooms_of(driver: Driver) -> list[Room]:
    return [step.room for step in graphs_of(driver)._steps]


def captured(runner: ModelRunner, device: CpuDevice, wanted: list[Room]) -> DecodeGraphs:
    uploads = SimpleNamespace(device=device, upload=runner.uploads.upload)
    made: Any = DecodeGraphs
    with torch.inference_mode():
        graphs: DecodeGraphs = made(runner.model, runner.cache, runner.rotation, uploads, wanted)
    return graphs


# -- the bytes ---------------------------------------------------------------------------------


def test_what_a_capture_keeps_is_what_was_said(model: LoadedModel) -> None:
    """On a CPU a graph gives back what it made on its way; at its highest it is within the rule."""
    runner = driver(model, CpuDevice(CPU, DeviceOptions())).engine._runner
    device, wanted = CpuDevice(CPU, GRAPHED), [Room(1, 0), Room(16, 0), Room(16, 8)]
    said = graph_bytes(wanted, model.config, runner.cache, 300, device)
    with Living() as living:
        graphs = captured(runner, device, wanted)
    assert len(graphs._steps) == len(wanted)
    assert living.held == said - forward_bytes(model.config, 16 + 8, 4)
    assert 0.5 * said < living.peak <= said


@pytest.mark.parametrize("memory_dtype", [None, torch.int8])
def test_what_the_kernels_tables_keep_is_what_was_said(
    model: LoadedModel, memory_dtype: torch.dtype | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("triton")
    monkeypatch.setenv("MEMOSERVE_BACKEND", "triton")
    runner = driver(model, CpuDevice(CPU, DeviceOptions())).engine._runner
    shape = replace(runner.cache.shape, memory_dtype=memory_dtype)
    runner.cache = KVCache(shape, 50, 4, CPU)
    device, wanted = Idle(CPU, GRAPHED), [Room(2, 1), Room(9, 0), Room(9, 5)]
    empty = KVCache(shape, 0, 4, CPU)
    said = graph_bytes(wanted, model.config, empty, 50, device)
    with Living() as living:
        captured(runner, device, wanted)
        assert living.held == 0
        graphs = captured(runner, device, wanted)
    assert len(graphs._steps) == 3
    assert living.held == said - forward_bytes(model.config, 9 + 5, 4)
    assert said < graph_bytes(wanted, model.config, empty, 51 + 3, device)


def test_graphs_of_a_7b_shape_on_a_large_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """All sizes take turns with one set of partial results and logits, on 132 multiprocessors."""
    pytest.importorskip("triton")
    from memoserve_kernels import decode_tiles, triton_pages

    monkeypatch.setenv("MEMOSERVE_BACKEND", "triton")
    monkeypatch.setattr(triton_pages, "compute_capability", lambda _: 90)
    monkeypatch.setattr(decode_tiles, "cores", lambda _: 132)
    shape = KVShape(28, 4, 128, torch.bfloat16)
    device, empty = CpuDevice(CPU, GRAPHED), KVCache(shape, 0, 64, CPU)
    wanted = rooms(rules_of(QWEN2_7B.beacon))
    kept = graph_bytes(wanted, QWEN2_7B, empty, 30_000, device)
    kept -= forward_bytes(QWEN2_7B, 256 + 128, 2)
    logits, mixed = 256 * 152_064 * 2, (256 + 128) * 28 * 128 * 2
    programs = [132 * 2 // 4, 132 * 2 // 4, 132 // 4]
    held = [min(256 + 128, block // 7) for block in (16, 64, 128)]
    parts = (256 + 128) * 4 + sum(p * h for p, h in zip(programs, held, strict=True))
    partial = parts * 28 * (128 + 1) * 4
    tables = kept - logits - mixed - partial
    # Each size names every page once; the rest is items, entries and the integers of its rows.
    assert 18 * 30_000 * 4 < tables < 18 * 30_000 * 4 + (2 << 20)
    assert kept < 160 << 20


def test_appended_beacons_are_in_no_graph() -> None:
    rules = WindowRules(8, Placement.APPEND, Coverage.FULL)
    assert rooms(rules) == [Room(size, 0) for size in BUCKETS]


# -- the pool's rule ---------------------------------------------------------------------------


def test_the_pool_leaves_room_for_graphs(model: LoadedModel) -> None:
    rules = rules_of(model.config.beacon)
    shape = kv_shape(model)
    reserve = step_reserve(model.config, largest_step(rules, StepLimits(8, 8), 1000), shape)
    free, page_bytes = 8 * reserve, shape.page_bytes(4)
    kept = graph_bytes(
        rooms(rules), model.config, KVCache(shape, 0, 4, CPU), 0, CpuDevice(CPU, GRAPHED)
    )

    def built(features: DeviceOptions, **more: Any) -> Driver:
        device = CpuDevice(CPU, features, MemoryInfo(free, free))
        options = EngineOptions(page_size=4, copy_bytes=1000, **more)
        return Driver(build_engine(model, options, Metrics(), device))

    without = built(DeviceOptions()).engine.pool.num_pages
    assert without == (free - reserve - free // 20) // page_bytes
    graphed = built(GRAPHED)
    assert graphed.engine.pool.num_pages == (free - reserve - kept - free // 20) // page_bytes
    assert rooms_of(graphed) == sorted(rooms(rules))
    # A stated pool goes first; graphs take what it leaves, the smaller sizes before the larger.
    most = (free - reserve) // page_bytes
    tight = built(GRAPHED, num_pages=most - kept // 2 // page_bytes)
    assert 0 < len(rooms_of(tight)) < len(rooms(rules))
    assert rooms_of(built(GRAPHED, num_pages=most)) == []
    with pytest.raises(ResourceExhausted, match="free beside the weights"):
        built(GRAPHED, num_pages=most + 1)


def test_rooms_that_fit_are_the_smaller_ones(
    model: LoadedModel, caplog: pytest.LogCaptureFixture
) -> None:
    cache, device = KVCache(kv_shape(model), 5, 4, CPU), CpuDevice(CPU, GRAPHED)
    wanted = rooms(rules_of(model.config.beacon))

    def bytes_of(some: list[Room]) -> int:
        return graph_bytes(some, model.config, cache, 5, device)

    least = bytes_of(sorted(wanted)[:5])
    with caplog.at_level(logging.WARNING):
        assert rooms_that_fit(wanted, model.config, cache, device, bytes_of(wanted)) == sorted(
            wanted
        )
        assert not caplog.records
        assert rooms_that_fit(wanted, model.config, cache, device, least) == sorted(wanted)[:5]
        assert rooms_that_fit(wanted, model.config, cache, device, least - 1) == sorted(wanted)[:4]
        assert rooms_that_fit(wanted, model.config, cache, device, -1) == []
    assert len(caplog.records) == 3
    assert f"keep {bytes_of(wanted)} bytes and the pool leaves {least}" in caplog.text
    for record, fitting in zip(caplog.records, (5, 4, 0), strict=True):
        assert record.getMessage().endswith(f"without it: {sizes_of(sorted(wanted)[fitting:])}")


# -- memory that is lacking --------------------------------------------------------------------


def tokens_of(driver: Driver, count: int) -> list[list[int]]:
    sampling = SamplingParams(max_tokens=4)
    outcomes = [
        driver.submit(random_ids(2, seed), None, SCHEDULE, sampling)[1] for seed in range(count)
    ]
    driver.drain()
    return [outcome.tokens for outcome in outcomes]


@pytest.mark.parametrize("badly", [False, True])
@pytest.mark.parametrize("lacking", [(0,), (0, 1, 2), (0, 1, 2, 3, 5), tuple(range(18))])
def test_sizes_that_lack_memory_run_without_a_graph(
    model: LoadedModel, lacking: tuple[int, ...], badly: bool, caplog: pytest.LogCaptureFixture
) -> None:
    wanted = sorted(rooms(rules_of(model.config.beacon)), reverse=True)
    device = Short(*lacking, badly=badly)
    gc.disable()  # what only the collector would free counts as alive
    try:
        with caplog.at_level(logging.WARNING):
            short = driver(model, device)
    finally:
        gc.enable()
    kept = [room for number, room in enumerate(wanted) if number not in lacking]
    assert rooms_of(short) == kept[::-1]
    # At the start, after each failed attempt, and once no recording holds the others' pool.
    assert device.emptied == 2 + len(lacking)
    assert device.alive == [0] * len(device.alive), "what a failed attempt allocated outlives it"
    assert len(caplog.records) == 1
    assert f"memory was lacking for {len(lacking)} of 18 graphs" in caplog.text
    assert caplog.text.strip().endswith(sizes_of(wanted[number] for number in lacking))
    largest = max((room.sequences for room in kept), default=0)
    # What all sizes share is as large as the largest that there is.
    shared = graphs_of(short)._shared
    assert (0 if shared is None else len(shared.logits)) == largest
    wanted_tokens = tokens_of(driver(model, CpuDevice(CPU, DeviceOptions())), 3)
    assert tokens_of(short, 3) == wanted_tokens


def test_what_is_no_shortage_ends_the_start(model: LoadedModel) -> None:
    class Broken(CpuDevice):
        def capture(self, work: Callable[[], Tensor]) -> CpuGraph:
            raise RuntimeError("operation not permitted when stream is capturing")

    with pytest.raises(RuntimeError, match="not permitted"):
        driver(model, Broken(CPU, GRAPHED))


@pytest.mark.parametrize("times", [1, 1 << 40])
def test_a_replay_that_lacks_memory_costs_one_request_at_most(
    model: LoadedModel, times: int
) -> None:
    """Whichever allocation of a step of two readers fails, and as often as it does."""
    wanted = tokens_of(driver(model, CpuDevice(CPU, GRAPHED)), 2)
    for first in range(1, 40, 5):
        made = driver(model, CpuDevice(CPU, GRAPHED))
        outcomes = readers(made, 2)
        with Allocator(first, first + times - 1):
            made.engine.step()
        made.drain()
        for outcome, tokens in zip(outcomes, wanted, strict=True):
            if outcome.error is None:
                assert outcome.tokens == tokens
            else:
                assert isinstance(outcome.error, ResourceExhausted)
                assert times > 1
        assert made.engine.pool.num_used == 0
        assert tokens_of(made, 2) == wanted


def readers(made: Driver, count: int) -> list[Outcome]:
    """So many, whose next step is a replay."""
    sampling = SamplingParams(max_tokens=4)
    outcomes = [
        made.submit(random_ids(2, seed), None, SCHEDULE, sampling, logits=Logits.NONE)[1]
        for seed in range(count)
    ]
    made.engine.step()
    assert all(len(outcome.tokens) == 1 for outcome in outcomes)
    return outcomes
