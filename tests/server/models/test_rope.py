"""Rotary frequencies against transformers' own, in both spellings, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from memoserve.errors import InvalidArgument
from memoserve.models.rope import read_rope

LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 256,
}
KINDS: dict[str, dict[str, Any]] = {
    "linear": {"rope_type": "linear", "factor": 2.5},
    "llama3": LLAMA3,
    "llama3-steep": LLAMA3 | {"high_freq_factor": 1.5, "factor": 32.0},
    "yarn": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 512},
    "yarn-betas": {
        "rope_type": "yarn",
        "factor": 8.0,
        "beta_fast": 16,
        "beta_slow": 2,
        "original_max_position_embeddings": 1024,
    },
    "yarn-factor": {
        "rope_type": "yarn",
        "factor": 4.0,
        "attention_factor": 0.9,
        "original_max_position_embeddings": 512,
    },
    "yarn-mscale": {
        "rope_type": "yarn",
        "factor": 40.0,
        "mscale": 0.7,
        "mscale_all_dim": 1.3,
        "original_max_position_embeddings": 512,
    },
    "yarn-untruncated": {
        "rope_type": "yarn",
        "factor": 4.0,
        "truncate": False,
        "original_max_position_embeddings": 512,
    },
}
THETA, DIM, POSITIONS = 500_000.0, 32, 2048


@pytest.mark.parametrize("scaling", KINDS.values(), ids=KINDS.keys())
def test_frequencies_are_transformers(scaling: dict[str, Any]) -> None:
    config = LlamaConfig(
        hidden_size=DIM * 4,
        num_attention_heads=4,
        max_position_embeddings=POSITIONS,
        rope_parameters={"rope_theta": THETA} | scaling,
    )
    wanted, factor = ROPE_INIT_FUNCTIONS[scaling["rope_type"]](config, torch.device("cpu"))
    old = {"rope_theta": THETA, "rope_scaling": scaling}
    new = {"rope_parameters": {"rope_theta": THETA} | scaling}
    for spelling in (old, new):
        rope = read_rope(spelling, DIM, POSITIONS)
        torch.testing.assert_close(rope.inv_freq.float(), wanted, atol=0, rtol=2e-6)
        assert rope.factor == pytest.approx(factor, rel=1e-12)
        assert rope.hard_limit is None


def test_plain_frequencies() -> None:
    rope = read_rope({"rope_theta": 100.0}, 4, 64)
    torch.testing.assert_close(rope.inv_freq, torch.tensor([1.0, 0.1], dtype=torch.float64))
    assert (rope.factor, rope.max_positions, rope.hard_limit) == (1.0, 64, None)
    assert read_rope({}, 4, 64).inv_freq[1] == pytest.approx(0.01)
    assert read_rope({"rope_scaling": None, "rope_theta": 100.0}, 4, 64) is not None


def test_linear_divides_positions() -> None:
    scaled = read_rope({"rope_scaling": {"type": "linear", "factor": 4}}, 8, 64)
    plain = read_rope({}, 8, 64)
    torch.testing.assert_close(scaled.inv_freq * 4, plain.inv_freq)
    assert scaled.max_positions == 256


def test_yarn_knows_its_length() -> None:
    stated = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 512}
    assert read_rope({"rope_scaling": stated}, 8, 2048).max_positions == 2048
    unstated = {"type": "yarn", "factor": 4.0}
    assert read_rope({"rope_scaling": unstated}, 8, 512).max_positions == 2048


def test_every_kind_knows_its_stated_factor() -> None:
    """``adapt-F`` reckons with max_position_embeddings times it, whatever the kind."""
    for kind in ("linear", "dynamic", "yarn"):
        assert read_rope({"rope_scaling": {"type": kind, "factor": 2.5}}, 8, 512).scale == 2.5
    assert read_rope({"rope_scaling": LLAMA3}, 8, 512).scale == LLAMA3["factor"]
    assert read_rope({}, 8, 512).scale == 1.0


def test_dynamic_stops_at_the_original_length() -> None:
    rope = read_rope({"rope_scaling": {"type": "dynamic", "factor": 2.0}}, 8, 512)
    assert rope.hard_limit == rope.max_positions == 512
    torch.testing.assert_close(rope.inv_freq, read_rope({}, 8, 512).inv_freq)


def test_angles_are_computed_in_the_models_width() -> None:
    rope = read_rope({}, 8, 512)
    assert rope.frequencies(torch.float64).dtype == torch.float64
    for dtype in (torch.float32, torch.bfloat16):
        assert rope.frequencies(dtype).dtype == torch.float32


REFUSED: dict[str, tuple[str, dict[str, Any]]] = {
    "longrope": ("rope_scaling.type", {"rope_scaling": {"type": "longrope", "factor": 2.0}}),
    "unknown-new-spelling": ("rope_scaling.type", {"rope_parameters": {"rope_type": "spiral"}}),
    "linear-without-factor": ("rope_scaling.factor", {"rope_scaling": {"type": "linear"}}),
    "zero-factor": ("rope_scaling.factor", {"rope_scaling": {"type": "linear", "factor": 0}}),
    "factor-is-a-word": ("rope_scaling.factor", {"rope_scaling": {"type": "yarn", "factor": "4"}}),
    "llama3-incomplete": (
        "rope_scaling.high_freq_factor",
        {"rope_scaling": {k: v for k, v in LLAMA3.items() if k != "high_freq_factor"}},
    ),
    "theta-is-null": ("rope_theta", {"rope_theta": None}),
    "partly-rotated": ("partial_rotary_factor", {"partial_rotary_factor": 0.5}),
}


@pytest.mark.parametrize(("field", "config"), REFUSED.values(), ids=REFUSED.keys())
def test_refused_by_name(field: str, config: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgument) as caught:
        read_rope(config, 8, 512)
    assert caught.value.field == field
