"""An engine from a loaded model and a few numbers, checked at the door."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import Final

import torch

from memoserve.engine.device import Device, DeviceOptions, make_device
from memoserve.engine.engine import Engine
from memoserve.engine.faults import is_shortage
from memoserve.engine.graph_memory import graph_bytes, rooms
from memoserve.engine.host_tier import COPY_BYTES
from memoserve.engine.model_runner import ModelRunner
from memoserve.engine.pool_size import (
    StepSizes,
    check_pages_fit,
    pages_that_fit,
    step_reserve,
)
from memoserve.engine.sampler import WIDE_ROWS
from memoserve.engine.scheduler import LEAST_PROGRESS, StepLimits
from memoserve.errors import InvalidArgument, ResourceExhausted
from memoserve.memory import window as win
from memoserve.memory.kv_cache import KVCache, KVShape
from memoserve.memory.memory import pages_of
from memoserve.memory.page_pool import PagePool
from memoserve.memory.ratio import RatioPolicy, check_ratio
from memoserve.memory.window import Coverage, Placement, RatioSchedule, WindowRules
from memoserve.metrics import Metrics
from memoserve.models.config import BeaconSettings
from memoserve.models.loader import LoadedModel

MEMORY_DTYPES: Final = {"auto": None, "int8": torch.int8, "fp8": torch.float8_e4m3fn}


log = logging.getLogger(__name__)

CPU_POOL_BYTES: Final = 1 << 30
CPU_PAGE_SIZE: Final = 16
GPU_PAGE_SIZE: Final = 64
CPU_TARGET_S: Final = 0.2
GPU_TARGET_S: Final = 0.02
PLANNED_DECODES: Final = 256
"""Sequences that a step of a GPU is sized for to decode at once; more of them is no error."""
SPLITS: Final = 64
"""Partial results of a decoding row, on average; a plan has a few, that of a lone row most."""


@dataclass(frozen=True)
class EngineOptions:
    """Sizes of the engine. ``chunk_tokens`` 0 takes whole windows, ``step_tokens`` 0 likewise.

    ``pool_bytes`` 0 is 1 GiB on a CPU, what a step leaves free on a GPU (``pool_size``);
    ``num_pages`` overrides both. ``page_size`` 0 is 16 rows on a CPU, 64 on a GPU; ``target_s``
    None 0.2 and 0.02 seconds. ``memory_dtype`` int8 or fp8 keeps memory rows in 8 bits, auto as the
    model has them. Of memories that come to the device or leave it, a step moves ``copy_bytes``,
    and as many of those that are read out.
    """

    pool_bytes: int = 0
    page_size: int = 0
    num_pages: int = 0
    chunk_tokens: int = 0
    step_tokens: int = 0
    target_s: float | None = None
    device: str = "cpu"
    memory_dtype: str = "auto"
    copy_bytes: int = COPY_BYTES
    features: DeviceOptions = field(default_factory=DeviceOptions)

    def __post_init__(self) -> None:
        if self.copy_bytes < 1:
            raise InvalidArgument("copy_bytes", f"{self.copy_bytes} must be at least 1")
        sizes = ("pool_bytes", "page_size", "num_pages", "chunk_tokens", "step_tokens", "target_s")
        for name in sizes:
            if (getattr(self, name) or 0) < 0:
                raise InvalidArgument(name, f"{getattr(self, name)} must not be negative")

    @property
    def page_rows(self) -> int:
        """Rows of a page on this device."""
        return self.page_size or (CPU_PAGE_SIZE if self.device == "cpu" else GPU_PAGE_SIZE)

    @property
    def step_target_s(self) -> float:
        """Time that a step may take on this device while queries run."""
        if self.target_s is not None:
            return self.target_s
        return CPU_TARGET_S if self.device == "cpu" else GPU_TARGET_S


def rules_of(beacon: BeaconSettings) -> WindowRules:
    """Window rules of a checkpoint's beacon settings."""
    return WindowRules(
        window=beacon.window,
        placement=Placement(beacon.placement),
        coverage=Coverage(beacon.coverage),
        attend_prev=beacon.attend_prev,
        sink_size=beacon.sink_size,
    )


def policy_of(model: LoadedModel, default_ratio: int = 4) -> RatioPolicy:
    """Ratio policy of a checkpoint."""
    beacon, rope = model.config.beacon, model.rope
    positions = int(model.config.max_positions * rope.scale)
    return RatioPolicy(beacon.ratios, beacon.ratio_mix, positions, default_ratio)


def check_default_ratio(rules: WindowRules, policy: RatioPolicy) -> None:
    """Refuse, at start, a default ratio that would be needed and cannot be used."""
    if policy.reaches_default(rules):
        check_ratio(rules, policy.default)


def kv_shape(model: LoadedModel, memory_dtype: str = "auto") -> KVShape:
    """What a row of this model costs."""
    config, eight_bits = model.config, MEMORY_DTYPES[memory_dtype]
    heads, dim = config.num_kv_heads, config.head_dim
    return KVShape(config.num_layers, heads, dim, model.dtype, eight_bits)


def build_engine(
    model: LoadedModel, options: EngineOptions, metrics: Metrics, device: Device | None = None
) -> Engine:
    """Allocate the pool and put an engine together, on the device that the options name.

    Raises ResourceExhausted with the numbers where the pool cannot hold one window, or the device
    not the pool.
    """
    device = device or make_device(options.device, options.features)
    device.empty_cache()  # what loading took and gave back counts as free
    rules, shape = rules_of(model.config.beacon), kv_shape(model, options.memory_dtype)
    chunk = options.chunk_tokens or rules.window
    step = options.step_tokens or max(rules.window, chunk)
    limits = StepLimits(chunk, step, options.step_target_s)
    plan = _plan_pool(model, options, device, rules, limits)
    num_pages = plan.num_pages
    _check_one_window(rules, policy_of(model), num_pages, options.page_rows, shape)
    pool = PagePool(num_pages, options.page_rows, shape.memory_page_size(options.page_rows))
    cache = _allocate(shape, num_pages, options.page_rows, device)
    runner = ModelRunner(model.model, model.rope, rules, cache, device, plan.graph_budget)
    return Engine(runner, pool, cache, limits, metrics, copy_bytes=options.copy_bytes)


@dataclass(frozen=True)
class PoolPlan:
    """Pages, and the bytes that are left for graphs beside them and a step; None: not known."""

    num_pages: int
    graph_budget: int | None


def largest_step(rules: WindowRules, limits: StepLimits, copy_bytes: int) -> StepSizes:
    """The largest step that these limits allow, at ratio 1, beside all planned decodes."""
    # The first prompt and the first memory always move on, whatever the budget.
    tokens = limits.step_tokens + 2 * LEAST_PROGRESS
    rows = -(-tokens * win.full_rows(rules, RatioSchedule((1,))) // rules.window)
    return StepSizes(
        rows=rows + PLANNED_DECODES,
        logits_rows=PLANNED_DECODES,
        wide_rows=WIDE_ROWS,
        split_rows=PLANNED_DECODES,
        splits=SPLITS,
        slice_bytes=copy_bytes,
    )


def _plan_pool(
    model: LoadedModel,
    options: EngineOptions,
    device: Device,
    rules: WindowRules,
    limits: StepLimits,
) -> PoolPlan:
    """Pages as stated, else by the rule of ``pool_size`` where free memory is known.

    A pool of a stated size may take what graphs would keep: they are the smaller matter.
    """
    shape = kv_shape(model, options.memory_dtype)
    page_bytes = shape.page_bytes(options.page_rows)
    stated = options.num_pages or options.pool_bytes // page_bytes
    memory = device.memory()
    if memory is None:
        return PoolPlan(stated or (options.pool_bytes or CPU_POOL_BYTES) // page_bytes, None)
    reserve = step_reserve(model.config, largest_step(rules, limits, options.copy_bytes), shape)
    num_pages, graphs = stated, 0
    if not options.num_pages and not options.pool_bytes:
        num_pages = pages_that_fit(memory.free, reserve, page_bytes)
        if device.options.graphs:
            # Of the pages that there would be without them: their tables name every page.
            empty = KVCache(shape, 0, options.page_rows, device.where)
            graphs = graph_bytes(rooms(rules), model.config, empty, num_pages, device)
            num_pages = pages_that_fit(memory.free, reserve + graphs, page_bytes)
    log.info(
        "pool of %d pages, %d bytes each; %d bytes are free, a step takes %d, graphs %d",
        num_pages,
        page_bytes,
        memory.free,
        reserve,
        graphs,
    )
    check_pages_fit(num_pages, memory.free, reserve, page_bytes)
    return PoolPlan(num_pages, memory.free - reserve - num_pages * page_bytes)


def _allocate(shape: KVShape, num_pages: int, page_size: int, device: Device) -> KVCache:
    try:
        return KVCache(shape, num_pages, page_size, device.where)
    except Exception as error:
        if not is_shortage(error):
            raise
        size = num_pages * shape.page_bytes(page_size)
        raise ResourceExhausted(
            f"{device.where} could not give a pool of {num_pages} pages, {size} bytes, at once",
            reason="DEVICE_TOO_SMALL",
            bytes_needed=size,
        ) from error


def _check_one_window(
    rules: WindowRules, policy: RatioPolicy, num_pages: int, page_size: int, shape: KVShape
) -> None:
    # The largest window a request may ask for: the default ratio, and ratio 0, which answers use.
    schedule = RatioSchedule(tuple({*policy.allowed(rules), 0}))
    kept = max(
        win.kept_rows(rules, RatioSchedule((ratio,)), win.WindowState())
        for ratio in schedule.ratios
    )
    needed = pages_of(win.full_rows(rules, schedule), page_size)
    needed += pages_of(kept, shape.memory_page_size(page_size))
    if num_pages < needed:
        raise ResourceExhausted(
            f"the page pool cannot hold one window: {needed} pages of {page_size} rows are "
            f"needed, it has {num_pages}; one page takes {shape.page_bytes(page_size)} bytes",
            pages_needed=needed,
            pages_total=num_pages,
            page_bytes=shape.page_bytes(page_size),
        )
