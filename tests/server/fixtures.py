"""Tiny random memory models made in-process, and a driver that runs an engine to the end."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from memoserve.engine.build import EngineOptions, build_engine
from memoserve.engine.device import Device
from memoserve.engine.engine import Engine
from memoserve.engine.sampler import SamplingParams
from memoserve.engine.sequence import (
    Done,
    Event,
    Failed,
    Fed,
    Logits,
    LogitsOut,
    MemoryHandle,
    Sequence,
    SequenceRequest,
    Started,
    TokenOut,
)
from memoserve.errors import MemoserveError
from memoserve.memory.memory import HostState
from memoserve.memory.window import RatioSchedule
from memoserve.metrics import Metrics
from memoserve.models.config import parse_config
from memoserve.models.layers import BeaconLM
from memoserve.models.loader import LoadedModel, build_model
from memoserve.models.rope import read_rope


def tiny_config(family: str = "qwen2", **changes: Any) -> dict[str, Any]:
    """A complete config.json of a model with some thousand parameters."""
    config: dict[str, Any] = {
        "model_type": family,
        "vocab_size": 48,
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "tie_word_embeddings": False,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "torch_dtype": "float32",
        "beacon_window": 8,
        "beacon_stride": changes.get("beacon_window", 8),
        "beacon_ratio": [4],
        "beacon_ratio_mix": "step-random",
        "beacon_attn": "full-coverage",
        "beacon_pos": "interleave",
        "beacon_attend_prev": True,
        "beacon_sink_size": 0,
        "beacon_param": ["q", "k", "v"],
        "beacon_embed_init": "eos",
    }
    return config | changes


def random_tensors(
    config: Mapping[str, Any], seed: int = 0, dtype: torch.dtype = torch.float32
) -> dict[str, Tensor]:
    """Weights by published names, large enough that every rule shows in the logits."""
    with torch.device("meta"):
        shapes = {n: p.shape for n, p in BeaconLM(parse_config(config)).named_parameters()}
    generator = torch.Generator().manual_seed(seed)

    def draw(name: str, shape: torch.Size) -> Tensor:
        noise = torch.randn(shape, generator=generator, dtype=torch.float64)
        if name.endswith("norm.weight"):
            return (1 + 0.2 * noise).to(dtype)
        wide = "embed" in name or len(shape) == 1
        return (noise if wide else noise * 1.2 / shape[-1] ** 0.5).to(dtype)

    return {name: draw(name, shape) for name, shape in shapes.items()}


def make_model(config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> LoadedModel:
    """A loaded model without a directory."""
    parsed = parse_config(config)
    rope = read_rope(parsed.raw, parsed.head_dim, parsed.max_positions)
    model = build_model(parsed, tensors)
    return LoadedModel("tiny", model, rope, "fingerprint", {}, frozenset(), "")


def tiny_model(
    family: str = "qwen2", *, seed: int = 0, dtype: torch.dtype = torch.float32, **changes: Any
) -> LoadedModel:
    """A tiny random model; ``changes`` replace fields of its config.json."""
    config = tiny_config(family, **changes)
    return make_model(config, random_tensors(config, seed, dtype))


def write_checkpoint(
    directory: Path, config: Mapping[str, Any], tensors: Mapping[str, Tensor], shards: int = 1
) -> Path:
    """Lay config.json and safetensors out as a Hugging Face directory, in ``shards`` files."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(json.dumps(dict(config)), encoding="utf-8")
    if shards == 1:
        save_file(dict(tensors), directory / "model.safetensors")
        return directory
    weight_map: dict[str, str] = {}
    for shard in range(shards):
        name = f"model-{shard + 1:05d}-of-{shards:05d}.safetensors"
        part = {key: tensors[key] for key in sorted(tensors)[shard::shards]}
        save_file(part, directory / name)
        weight_map |= dict.fromkeys(part, name)
    index = {"metadata": {}, "weight_map": weight_map}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    return directory


def random_ids(count: int, seed: int, vocab: int = 48) -> tuple[int, ...]:
    """``count`` token ids from 3 on (no bos, no eos)."""
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randint(3, vocab, (count,), generator=generator).tolist())


@dataclass
class Outcome:
    """Everything the engine told about one sequence."""

    events: list[Event] = field(default_factory=list)

    def _of(self, kind: type) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]

    @property
    def tokens(self) -> list[int]:
        return [event.token for event in self._of(TokenOut)]

    @property
    def logits(self) -> Tensor:
        return torch.cat([event.logits for event in self._of(LogitsOut)])

    @property
    def certain_tokens(self) -> int:
        """How many drawn tokens are beyond doubt: up to the first close call between two."""
        top = self.logits[len(self.logits) - len(self.tokens) :].topk(2).values
        close = ((top[:, 0] - top[:, 1]) <= 1e-3).nonzero()
        return int(close[0]) if len(close) else len(self.tokens)

    @property
    def fed(self) -> list[Fed]:
        return self._of(Fed)

    @property
    def started(self) -> bool:
        return bool(self._of(Started))

    @property
    def finished(self) -> bool:
        return bool(self._of(Done) or self._of(Failed))

    @property
    def reason(self) -> str | None:
        done = self._of(Done)
        return done[0].reason if done else None

    @property
    def error(self) -> MemoserveError | None:
        failed = self._of(Failed)
        return failed[0].error if failed else None

    @property
    def memory(self) -> MemoryHandle:
        assert self.error is None, f"failed: {self.error!r}"
        memory: MemoryHandle | None = self._of(Done)[0].memory
        assert memory is not None, "no memory was kept"
        return memory


def is_resident(handle: MemoryHandle) -> bool:
    """In pages, now."""
    return handle.paged is not None


def is_spilled(handle: MemoryHandle | Sequence) -> bool:
    """In host tensors, now."""
    return handle.paged is None and handle.host is not None


@dataclass
class Driver:
    """An engine, stepped by hand; short ways to submit."""

    engine: Engine

    def submit(
        self,
        tokens: Iterable[int],
        base: MemoryHandle | HostState | None = None,
        schedule: RatioSchedule | None = None,
        sampling: SamplingParams | None = None,
        **more: Any,
    ) -> tuple[Sequence, Outcome]:
        outcome = Outcome()
        if schedule is None:
            schedule = base.schedule if base is not None else RatioSchedule((4,))
        request = SequenceRequest(
            outcome.events.append,
            schedule,
            base=base,
            tokens=tuple(tokens),
            sampling=sampling,
            **more,
        )
        return self.engine.submit(request), outcome

    def drain(self, limit: int = 5000) -> None:
        """Step until nothing is left to do, the books checked all along."""
        for _ in range(limit):
            if not self.engine.busy:
                return
            self.engine.step()
            self.engine.check_integrity()
        raise AssertionError(f"not drained in {limit} steps")

    def compress(
        self,
        tokens: Iterable[int],
        base: MemoryHandle | HostState | None = None,
        schedule: RatioSchedule | None = None,
        logits: Logits = Logits.ALL,
    ) -> Outcome:
        _, outcome = self.submit(tokens, base, schedule, logits=logits)
        self.drain()
        return outcome

    def generate(
        self,
        tokens: Iterable[int],
        base: MemoryHandle | HostState | None = None,
        max_tokens: int = 4,
        logits: Logits = Logits.ALL,
        keep: bool = True,
        schedule: RatioSchedule | None = None,
        **sampling: Any,
    ) -> Outcome:
        params = SamplingParams(max_tokens=max_tokens, **sampling)
        _, outcome = self.submit(tokens, base, schedule, params, logits=logits, keep=keep)
        self.drain()
        return outcome


def make_driver(
    model: LoadedModel,
    *,
    page_size: int = 4,
    num_pages: int = 256,
    chunk_tokens: int = 0,
    step_tokens: int = 0,
    target_s: float = 0.0,
    memory_dtype: str = "auto",
    copy_bytes: int = 1 << 26,
    device: Device | None = None,
) -> Driver:
    """A driver of a fresh engine; steps are not cut unless ``target_s`` is given."""
    options = EngineOptions(
        page_size=page_size,
        num_pages=num_pages,
        chunk_tokens=chunk_tokens,
        step_tokens=step_tokens,
        target_s=target_s,
        memory_dtype=memory_dtype,
        copy_bytes=copy_bytes,
    )
    return Driver(build_engine(model, options, Metrics(), device))
