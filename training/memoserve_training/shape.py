"""Shape of the model in the box, and the modules that a shape gives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from memoserve.memory.window import Coverage, Placement, WindowRules
from memoserve.models.config import BeaconSettings, ModelConfig, read_config
from memoserve.models.layers import BeaconLM
from memoserve.models.rope import Rope, read_rope

# Those of the published Qwen2 memory model; what a plain base model gets.
BEACON_FIELDS: Final[Mapping[str, Any]] = {
    "beacon_window": 2048,
    "beacon_stride": 2048,
    "beacon_ratio": [2, 4, 8],
    "beacon_ratio_mix": "step-random",
    "beacon_pos": "interleave",
    "beacon_attn": "full-coverage",
    "beacon_attend_prev": True,
    "beacon_sink_size": 0,
    "beacon_param": ["q", "k", "v"],
    "beacon_embed_init": "eos",
    "beacon_parallel_window": 1,
}


@dataclass(frozen=True)
class Shape:
    """Sizes of a model of the Qwen2 shape; ``ratios`` are those it is served at.

    ``theta`` so large that half of a head's dimensions hardly turn over 32K positions: there tokens
    are compared, wherever they stand.
    """

    layers: int = 4
    hidden: int = 128
    heads: int = 4
    mlp: int = 256
    window: int = 256
    ratios: tuple[int, ...] = (2, 4, 8, 16)
    theta: float = 1e9

    def config(self, vocab_size: int, end_id: int) -> dict[str, object]:
        """config.json, with the beacon fields of the published layout.

        As many key heads as query heads: with fewer, no small model learned to recall
        (docs/training-log.md).
        """
        return {
            "architectures": ["Qwen2ForCausalLM"],
            "model_type": "qwen2",
            "vocab_size": vocab_size,
            "hidden_size": self.hidden,
            "intermediate_size": self.mlp,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.heads,
            "hidden_act": "silu",
            "rms_norm_eps": 1e-6,
            "rope_theta": self.theta,
            "max_position_embeddings": 32768,
            "tie_word_embeddings": True,
            "torch_dtype": "float32",
            "bos_token_id": 0,
            "eos_token_id": end_id,
            "pad_token_id": 0,
            **BEACON_FIELDS,
            "beacon_window": self.window,
            "beacon_stride": self.window,
            "beacon_ratio": list(self.ratios),
        }


@dataclass(frozen=True)
class Trainee:
    """A model with the rope that goes with it."""

    model: BeaconLM
    rope: Rope

    @property
    def config(self) -> ModelConfig:
        """Its shape."""
        return self.model.config


def build(directory: Path) -> Trainee:
    """Modules for a model directory; their weights are not set. Raises InvalidArgument."""
    config = read_config(directory)
    rope = read_rope(config.raw, config.head_dim, config.max_positions)
    return Trainee(BeaconLM(config), rope)


def rules_of(beacon: BeaconSettings, window: int | None = None) -> WindowRules:
    """Window rules of a checkpoint, or the same with windows of another length."""
    rules = WindowRules(
        window=beacon.window,
        placement=Placement(beacon.placement),
        coverage=Coverage(beacon.coverage),
        attend_prev=beacon.attend_prev,
        sink_size=beacon.sink_size,
    )
    return rules if window is None else replace(rules, window=window)
