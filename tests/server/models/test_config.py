"""What a config.json may say, and what is refused by the name of the field."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from memoserve.errors import InvalidArgument
from memoserve.models.config import BeaconSettings, parse_config, read_config
from tests.server.fixtures import tiny_config

REFUSED: dict[str, tuple[str, dict[str, Any]]] = {
    "interleave-with-step-expansion": ("beacon_attn", {"beacon_attn": "step-expansion"}),
    "segmentation": ("beacon_attn", {"beacon_attn": "segmentation"}),
    "segmentation-append": (
        "beacon_attn",
        {"beacon_attn": "segmentation", "beacon_pos": "append"},
    ),
    "stride-below-window": ("beacon_stride", {"beacon_stride": 4}),
    "stride-above-window": ("beacon_stride", {"beacon_stride": 16}),
    "append-ratio-above-window": (
        "beacon_ratio",
        {"beacon_pos": "append", "beacon_ratio": [16]},
    ),
    "append-ratio-uneven": ("beacon_ratio", {"beacon_pos": "append", "beacon_ratio": [3]}),
    "ratio-negative": ("beacon_ratio", {"beacon_ratio": [-2]}),
    "no-ratio": ("beacon_ratio", {"beacon_ratio": []}),
    "no-ratio-divides": ("beacon_ratio", {"beacon_ratio": [3, 5]}),
    "ratio-is-no-number": ("beacon_ratio", {"beacon_ratio": ["four"]}),
    "ratio-is-a-fraction": ("beacon_ratio", {"beacon_ratio": [2.5]}),
    "mix-unknown": ("beacon_ratio_mix", {"beacon_ratio_mix": "mixed"}),
    "adapt-without-number": ("beacon_ratio_mix", {"beacon_ratio_mix": "adapt-"}),
    "adapt-with-a-word": ("beacon_ratio_mix", {"beacon_ratio_mix": "adapt-x"}),
    "position-unknown": ("beacon_pos", {"beacon_pos": "prepend"}),
    "window-zero": ("beacon_window", {"beacon_window": 0, "beacon_stride": 0}),
    "window-is-no-number": ("beacon_window", {"beacon_window": "wide"}),
    "sink-negative": ("beacon_sink_size", {"beacon_sink_size": -1}),
    "param-unknown": ("beacon_param", {"beacon_param": ["q", "gate"]}),
    "embed-init-unknown": ("beacon_embed_init", {"beacon_embed_init": "pad"}),
    "family-unknown": ("model_type", {"model_type": "gpt2"}),
    "family-missing": ("model_type", {"model_type": None}),
    "activation": ("hidden_act", {"hidden_act": "gelu"}),
    "heads-uneven": ("num_key_value_heads", {"num_key_value_heads": 3}),
    "odd-head": ("head_dim", {"head_dim": 5}),
    "no-layers": ("num_hidden_layers", {"num_hidden_layers": 0}),
    "vocabulary-missing": ("vocab_size", {"vocab_size": None}),
    "hidden-is-no-number": ("hidden_size", {"hidden_size": "16"}),
    "head-is-no-number": ("head_dim", {"head_dim": "x"}),
    "eps-is-null": ("rms_norm_eps", {"rms_norm_eps": None}),
}


@pytest.mark.parametrize(("field", "changes"), REFUSED.values(), ids=REFUSED.keys())
def test_refused_by_name(field: str, changes: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgument) as caught:
        parse_config(tiny_config(**{"beacon_stride": 8} | changes))
    assert caught.value.field == field
    assert field in str(caught.value)


ACCEPTED: dict[str, dict[str, Any]] = {
    "uneven-single-ratio": {"beacon_ratio": [3]},
    "interleaved-ratio-above-window": {"beacon_ratio": [9]},
    "ratio-not-in-a-list": {"beacon_ratio": 4},
    "ratio-0": {"beacon_ratio": [0]},
    "append-ratio-0": {"beacon_ratio": [0], "beacon_pos": "append"},
    "several-with-one-divisor": {"beacon_ratio": [3, 4]},
    "parallel-window": {"beacon_parallel_window": 3},
    "parallel-window-null": {"beacon_parallel_window": None},
    "stride-null": {"beacon_stride": None},
    "sink": {"beacon_sink_size": 3},
    "adapt": {"beacon_ratio": [2, 4], "beacon_ratio_mix": "adapt-1024"},
    "sequence": {"beacon_ratio": [2, 4], "beacon_ratio_mix": "sequence"},
    "no-param": {"beacon_param": []},
    "step-expansion-append": {"beacon_pos": "append", "beacon_attn": "step-expansion"},
    "sliding-window": {"sliding_window": 64, "model_type": "mistral"},
    "pad-token": {"pad_token_id": 7},
}


@pytest.mark.parametrize("changes", ACCEPTED.values(), ids=ACCEPTED.keys())
def test_accepted(changes: dict[str, Any]) -> None:
    assert parse_config(tiny_config(**changes)).beacon.window == 8


def test_the_published_settings() -> None:
    """As the qwen2 checkpoint states them."""
    beacon = parse_config(
        tiny_config(
            beacon_window=2048,
            beacon_stride=2048,
            beacon_ratio=[2, 4, 8],
            beacon_parallel_window=None,
        )
    ).beacon
    assert beacon == BeaconSettings(
        window=2048,
        stride=2048,
        ratios=(2, 4, 8),
        param=frozenset("qkv"),
    )


def test_a_plain_base_model_has_the_codes_defaults() -> None:
    config = {k: v for k, v in tiny_config().items() if not k.startswith("beacon_")}
    assert parse_config(config).beacon == BeaconSettings()
    assert parse_config(config | {"beacon_window": 64}).beacon.stride == 64


def test_biases_by_family() -> None:
    def biases(family: str, **more: Any) -> tuple[bool, bool, bool]:
        config = parse_config(tiny_config(family, **more))
        return config.qkv_bias, config.o_bias, config.mlp_bias

    assert biases("qwen2") == (True, False, False)
    assert biases("mistral") == (False, False, False)
    assert biases("llama") == (False, False, False)
    assert biases("llama", attention_bias=True, mlp_bias=True) == (True, True, True)
    assert biases("mistral", attention_bias=True, mlp_bias=True) == (False, False, False)


def test_defaults_and_spellings() -> None:
    config = tiny_config(dtype="bfloat16")
    del config["num_key_value_heads"]
    parsed = parse_config(config)
    assert (parsed.num_kv_heads, parsed.head_dim, parsed.dtype) == (4, 4, "bfloat16")
    assert parse_config(tiny_config(head_dim=6)).head_dim == 6
    assert parse_config(tiny_config(head_dim=None)).head_dim == 4
    assert parse_config(tiny_config()).dtype == "float32"


def test_reading_a_directory(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="holds no config"):
        read_config(tmp_path)
    path = tmp_path / "config.json"
    for broken in (b"{", b"\xff\xfe"):
        path.write_bytes(broken)
        with pytest.raises(InvalidArgument, match="not JSON"):
            read_config(tmp_path)
    path.write_text("[1, 2]", encoding="utf-8")
    with pytest.raises(InvalidArgument, match="not a JSON object"):
        read_config(tmp_path)
    path.write_text(json.dumps(tiny_config()), encoding="utf-8")
    assert read_config(tmp_path) == parse_config(tiny_config())
