"""What the laws draw: rules, models, page sizes, texts. All in float64."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import torch
from hypothesis import Phase, settings
from hypothesis import strategies as st
from torch import Tensor

from memoserve.engine.cpu_device import CpuDevice
from memoserve.engine.device import Device, DeviceOptions
from memoserve.memory.window import RatioSchedule, WindowRules
from memoserve.models.loader import LoadedModel
from tests.server.dense import DenseModel
from tests.server.fixtures import (
    Driver,
    make_driver,
    make_model,
    random_ids,
    random_tensors,
    tiny_config,
)

# A law is drawn a quarter as often as the profile says: one example runs several sequences.
_profile = settings.get_current_profile_name()
law = settings(
    max_examples=max(settings.get_profile(_profile).max_examples // 4, 1),
    # What may vary in a failing example is not worth the minutes that finding it out takes.
    phases=[phase for phase in Phase if phase is not Phase.explain],
)

PAGE_SIZES = (1, 3, 16)
ROPES = (
    None,
    None,
    {"type": "linear", "factor": 2.0},
    {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16},
)


def close(actual: Tensor, wanted: Tensor) -> None:
    """Equal within 1e-9."""
    torch.testing.assert_close(actual, wanted, atol=1e-9, rtol=1e-9)


@dataclass(frozen=True)
class World:
    """A tiny float64 model under drawn rules, and how its engines are cut."""

    config: dict[str, Any]
    ratios: tuple[int, ...]
    seed: int
    page_size: int
    chunk_tokens: int

    def __repr__(self) -> str:
        beacon = {k[7:]: v for k, v in self.config.items() if k.startswith("beacon_")}
        for name in ("stride", "ratio", "ratio_mix", "embed_init"):
            del beacon[name]
        family = self.config["model_type"]
        cut = f"page {self.page_size}, chunk {self.chunk_tokens}"
        return f"World({family}, ratios {self.ratios}, {beacon}, {cut}, seed {self.seed})"

    @property
    def window(self) -> int:
        return int(self.config["beacon_window"])

    @property
    def schedule(self) -> RatioSchedule:
        return RatioSchedule(self.ratios)

    @property
    def rules(self) -> WindowRules:
        return self.driver().engine.rules

    @cached_property
    def tensors(self) -> dict[str, Tensor]:
        return random_tensors(self.config, self.seed, torch.float64)

    @cached_property
    def model(self) -> LoadedModel:
        return make_model(self.config, self.tensors)

    def dense(self) -> DenseModel:
        rope = self.model.rope
        return DenseModel(self.config, self.tensors, self.ratios, rope.inv_freq, rope.factor)

    def driver(
        self,
        num_pages: int = 600,
        chunk_tokens: int | None = None,
        copy_bytes: int = 1 << 26,
        device: Device | None = None,
    ) -> Driver:
        chunk = self.chunk_tokens if chunk_tokens is None else chunk_tokens
        return make_driver(
            self.model,
            page_size=self.page_size,
            num_pages=num_pages,
            chunk_tokens=chunk,
            step_tokens=1000,
            copy_bytes=copy_bytes,
            device=device,
        )


def _ratios(window: int, append: bool) -> st.SearchStrategy[tuple[int, ...]]:
    """One ratio, any that is defined; or several in turn, which must divide the window."""
    divisors = [r for r in range(1, window + 1) if window % r == 0]
    one = st.sampled_from([0, *(divisors if append else range(1, window + 4))])
    several = st.lists(st.sampled_from([0, *divisors]), min_size=2, max_size=4)
    return st.one_of(one.map(lambda r: (r,)), several.map(tuple))


@st.composite
def worlds(draw: st.DrawFn) -> World:
    """Any combination of rules that a checkpoint may have."""
    window = draw(st.integers(2, 9))
    append = draw(st.booleans())
    coverage = draw(st.sampled_from(["full-coverage", "step-expansion"])) if append else None
    config = tiny_config(
        draw(st.sampled_from(["qwen2", "mistral", "llama"])),
        hidden_size=8,
        intermediate_size=10,
        vocab_size=24,
        num_attention_heads=draw(st.sampled_from([2, 4])),
        num_key_value_heads=draw(st.sampled_from([1, 2])),
        tie_word_embeddings=draw(st.booleans()),
        rope_scaling=draw(st.sampled_from(ROPES)),
        beacon_window=window,
        beacon_ratio=[0],
        beacon_pos="append" if append else "interleave",
        beacon_attn=coverage or "full-coverage",
        beacon_attend_prev=draw(st.booleans()) if append else True,
        beacon_sink_size=draw(st.sampled_from([0, 0, 1, 2, 3, 20])),
        beacon_param=draw(st.sampled_from([[], ["q"], ["q", "k", "v"], ["q", "k", "v", "o"]])),
    )
    return World(
        config,
        draw(_ratios(window, append)),
        draw(st.integers(0, 1000)),
        draw(st.sampled_from(PAGE_SIZES)),
        draw(st.sampled_from([0, 1, 2, 5])),
    )


@st.composite
def texts(draw: st.DrawFn, windows: float = 3.5, least: int = 1) -> tuple[float, int]:
    """(length in windows, seed) of a text, made real by ``text`` once the window is known."""
    return draw(st.floats(0, windows)), draw(st.integers(0, 1000))


def text(world: World, drawn: tuple[float, int], least: int = 1) -> tuple[int, ...]:
    """The ids of a drawn text."""
    length, seed = drawn
    return random_ids(max(least, round(length * world.window)), seed, world.config["vocab_size"])


def pieces(draw: Any, tokens: tuple[int, ...]) -> list[tuple[int, ...]]:
    """The tokens in consecutive pieces, empty ones among them."""
    cuts = sorted(draw(st.lists(st.integers(0, len(tokens)), max_size=5)))
    ends = [0, *cuts, len(tokens)]
    return [tokens[a:b] for a, b in pairwise(ends)]


@dataclass(frozen=True)
class Tier:
    """How memories move: bytes a step, and whether copies wait in a queue, as on a GPU they may."""

    copy_bytes: int
    queued: bool

    def device(self) -> CpuDevice:
        device = CpuDevice(torch.device("cpu"), DeviceOptions(async_copies=self.queued))
        device.copies.held = self.queued
        return device


# A row a step, a few rows, all of it.
tiers = st.builds(Tier, copy_bytes=st.sampled_from([1, 1000, 1 << 26]), queued=st.booleans())
