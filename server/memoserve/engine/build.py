"""An engine from a loaded model and a few numbers, checked at the door."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch

from memoserve.engine.engine import Engine
from memoserve.engine.model_runner import ModelRunner
from memoserve.engine.scheduler import StepLimits
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


@dataclass(frozen=True)
class EngineOptions:
    """Sizes of the engine. ``chunk_tokens`` 0 takes whole windows, ``step_tokens`` 0 likewise.

    ``memory_dtype`` int8 or fp8 keeps memory rows in 8 bits, auto as the model has them.
    """

    pool_bytes: int = 1 << 30
    page_size: int = 16
    num_pages: int = 0
    chunk_tokens: int = 0
    step_tokens: int = 0
    target_s: float = 0.2
    device: str = "cpu"
    memory_dtype: str = "auto"

    def __post_init__(self) -> None:
        for name in ("pool_bytes", "page_size"):
            if getattr(self, name) < 1:
                raise InvalidArgument(name, f"{getattr(self, name)} must be at least 1")
        for name in ("num_pages", "chunk_tokens", "step_tokens", "target_s"):
            if getattr(self, name) < 0:
                raise InvalidArgument(name, f"{getattr(self, name)} must not be negative")


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


def build_engine(model: LoadedModel, options: EngineOptions, metrics: Metrics) -> Engine:
    """Allocate the pool and put an engine together.

    Raises ResourceExhausted with the numbers where the pool cannot hold one window.
    """
    rules, shape = rules_of(model.config.beacon), kv_shape(model, options.memory_dtype)
    num_pages = options.num_pages or options.pool_bytes // shape.page_bytes(options.page_size)
    _check_one_window(rules, policy_of(model), num_pages, options.page_size, shape)
    pool = PagePool(num_pages, options.page_size, shape.memory_page_size(options.page_size))
    cache = KVCache(shape, num_pages, options.page_size, torch.device(options.device))
    chunk = options.chunk_tokens or rules.window
    limits = StepLimits(chunk, options.step_tokens or max(rules.window, chunk), options.target_s)
    return Engine(ModelRunner(model.model, model.rope, rules, cache), pool, cache, limits, metrics)


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
