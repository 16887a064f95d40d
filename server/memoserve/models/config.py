"""Settings of a beacon checkpoint, read from ``config.json`` and checked once, at the door."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from memoserve.errors import InvalidArgument

FAMILIES = ("qwen2", "mistral", "llama")
PROJECTIONS = frozenset("qkvo")


@dataclass(frozen=True)
class BeaconSettings:
    """The ``beacon_*`` fields, by their published names without the prefix.

    Raises InvalidArgument for what the published algorithm leaves undefined or loses text with.
    """

    window: int = 1024
    stride: int = 1024
    ratios: tuple[int, ...] = (2, 4, 8, 16, 32)
    ratio_mix: str = "step-random"
    placement: str = "interleave"
    coverage: str = "full-coverage"
    attend_prev: bool = True
    sink_size: int = 0
    param: frozenset[str] = frozenset()
    embed_init: str = "eos"

    def __post_init__(self) -> None:
        if self.window < 1:
            raise InvalidArgument("beacon_window", f"{self.window} is not a length")
        if self.stride != self.window:
            raise InvalidArgument(
                "beacon_stride", f"{self.stride} differs from beacon_window {self.window}"
            )
        if self.coverage not in ("full-coverage", "step-expansion"):
            raise InvalidArgument("beacon_attn", f"{self.coverage!r} is not supported")
        if self.placement not in ("interleave", "append"):
            raise InvalidArgument("beacon_pos", f"{self.placement!r} is not supported")
        if self.placement == "interleave" and self.coverage == "step-expansion":
            raise InvalidArgument(
                "beacon_attn", "step-expansion with interleaved beacons is not well defined"
            )
        if self.sink_size < 0:
            raise InvalidArgument("beacon_sink_size", f"{self.sink_size} is negative")
        if not self.param <= PROJECTIONS:
            raise InvalidArgument("beacon_param", f"{sorted(self.param)} not among q, k, v, o")
        if self.embed_init not in ("eos", "bos"):
            raise InvalidArgument("beacon_embed_init", f"{self.embed_init!r} is not eos or bos")
        self._check_ratios()

    def _check_ratios(self) -> None:
        if not self.ratios or min(self.ratios) < 0:
            raise InvalidArgument("beacon_ratio", f"{self.ratios} must be non-negative")
        mix_ok = self.ratio_mix in ("step-random", "instance-random", "sequence")
        adapt = self.ratio_mix.removeprefix("adapt-")
        if not mix_ok and not (adapt != self.ratio_mix and adapt.isdecimal()):
            raise InvalidArgument("beacon_ratio_mix", f"{self.ratio_mix!r} is not known")
        if len(self.ratios) > 1:
            usable = [r for r in self.ratios if r == 0 or self.window % r == 0]
            if not usable:
                raise InvalidArgument("beacon_ratio", "no ratio divides the window")
            return
        # Interleaved beacons carry their count over window borders, so any ratio is well defined.
        ratio = self.ratios[0]
        if self.placement == "append" and ratio and self.window % ratio:
            raise InvalidArgument(
                "beacon_ratio", f"{ratio} does not divide the window {self.window}"
            )


@dataclass(frozen=True)
class ModelConfig:
    """Shape of a memory model. ``raw`` is the whole config.json."""

    family: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    rms_norm_eps: float
    max_positions: int
    qkv_bias: bool
    o_bias: bool
    mlp_bias: bool
    tied: bool
    dtype: str
    beacon: BeaconSettings
    raw: Mapping[str, Any]

    def __post_init__(self) -> None:
        if self.num_heads % self.num_kv_heads:
            raise InvalidArgument(
                "num_key_value_heads",
                f"{self.num_kv_heads} does not divide num_attention_heads {self.num_heads}",
            )
        if self.head_dim % 2:
            raise InvalidArgument("head_dim", f"{self.head_dim} is odd")


def _read_beacon(config: Mapping[str, Any]) -> BeaconSettings:
    default = BeaconSettings()

    def given(name: str, otherwise: object) -> Any:
        value = config.get(f"beacon_{name}")
        return otherwise if value is None else value

    def whole(name: str, otherwise: int) -> int:
        return _whole(f"beacon_{name}", given(name, otherwise))

    ratios, window = given("ratio", default.ratios), whole("window", default.window)
    if not isinstance(ratios, list | tuple):
        ratios = (ratios,)
    return BeaconSettings(
        window=window,
        stride=whole("stride", window),
        ratios=tuple(_whole("beacon_ratio", ratio) for ratio in ratios),
        ratio_mix=str(given("ratio_mix", default.ratio_mix)),
        placement=str(given("pos", default.placement)),
        coverage=str(given("attn", default.coverage)),
        attend_prev=bool(given("attend_prev", default.attend_prev)),
        sink_size=whole("sink_size", default.sink_size),
        param=frozenset(map(str, given("param", ()))),
        embed_init=str(given("embed_init", default.embed_init)),
    )


def _whole(field: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise InvalidArgument(field, f"a whole number is needed, not {value!r}")
    return value


def read_config(directory: Path) -> ModelConfig:
    """Read ``config.json`` of a model directory; raises InvalidArgument naming what is wrong."""
    path = directory / "config.json"
    if not path.is_file():
        raise InvalidArgument("model", f"{directory} holds no config.json")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InvalidArgument("model", f"{path} is not JSON: {error}") from error
    if not isinstance(config, dict):
        raise InvalidArgument("model", f"{path} is not a JSON object")
    return parse_config(config)


def parse_config(config: Mapping[str, Any]) -> ModelConfig:
    """Check and translate the content of a config.json."""
    family = str(config.get("model_type", ""))
    if family not in FAMILIES:
        raise InvalidArgument("model_type", f"{family!r}; known: {', '.join(FAMILIES)}")
    if config.get("hidden_act", "silu") != "silu":
        raise InvalidArgument("hidden_act", f"{config['hidden_act']!r} is not silu")

    def size(key: str, default: int | None = None) -> int:
        value = config.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise InvalidArgument(key, f"a positive integer is needed, not {value!r}")
        return value

    def number(key: str, default: float) -> float:
        value = config.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
            raise InvalidArgument(key, f"a positive number is needed, not {value!r}")
        return float(value)

    heads, hidden = size("num_attention_heads"), size("hidden_size")
    whole_head = config.get("head_dim") is None
    attention_bias = bool(config.get("attention_bias", False))
    return ModelConfig(
        family=family,
        vocab_size=size("vocab_size"),
        hidden_size=hidden,
        intermediate_size=size("intermediate_size"),
        num_layers=size("num_hidden_layers"),
        num_heads=heads,
        num_kv_heads=size("num_key_value_heads", heads),
        head_dim=hidden // heads if whole_head else size("head_dim"),
        rms_norm_eps=number("rms_norm_eps", 1e-6),
        max_positions=size("max_position_embeddings", 32768),
        qkv_bias=family == "qwen2" or (family == "llama" and attention_bias),
        o_bias=family == "llama" and attention_bias,
        mlp_bias=family == "llama" and bool(config.get("mlp_bias", False)),
        tied=bool(config.get("tie_word_embeddings", False)),
        dtype=str(config.get("dtype") or config.get("torch_dtype") or "float32"),
        beacon=_read_beacon(config),
        raw=config,
    )
