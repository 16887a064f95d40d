"""Rotary frequencies of a checkpoint, as one frozen value.

Scaling kinds: none, linear, llama3, yarn (arXiv 2309.00071), and dynamic NTK within the original
length. Kinds whose frequencies change with the length cannot live in a cache of rotated keys and
are refused by name, as are variants that also change the query's temperature.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from memoserve.errors import InvalidArgument


@dataclass(frozen=True)
class Rope:
    """``inv_freq [head_dim/2]`` float64; ``factor`` scales cos and sin once, at write.

    ``max_positions`` is the length up to which the angles are those the model was trained with,
    scaling included; ``hard_limit`` is set where going on would be wrong, not just untrained.
    ``scale`` is the stated scaling factor, whatever its kind.
    """

    inv_freq: Tensor
    factor: float
    max_positions: int
    hard_limit: int | None = None
    scale: float = 1.0

    def frequencies(self, dtype: torch.dtype) -> Tensor:
        """Frequencies to compute angles in: float64 for a float64 model, else float32."""
        return self.inv_freq if dtype == torch.float64 else self.inv_freq.float()


def read_rope(config: Mapping[str, Any], head_dim: int, max_positions: int) -> Rope:
    """Rope of a ``config.json``, in the older (rope_theta, rope_scaling) or newer spelling.

    Raises InvalidArgument naming the field for a kind that is not known.
    """
    parameters = config.get("rope_parameters") or {}
    scaling = dict(config.get("rope_scaling") or parameters)
    theta = _number({"rope_theta": 10000.0, **config, **parameters}, "rope_theta", "")
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    base = theta ** (-torch.arange(0, head_dim, 2, dtype=torch.float64) / head_dim)
    if float(config.get("partial_rotary_factor") or 1.0) != 1.0:
        raise InvalidArgument("partial_rotary_factor", "only fully rotated heads are supported")
    match kind:
        case "default":
            return Rope(base, 1.0, max_positions)
        case "linear":
            factor = _number(scaling, "factor")
            return Rope(base / factor, 1.0, int(max_positions * factor), scale=factor)
        case "llama3":
            factor = _number(scaling, "factor")
            return Rope(_llama3(base, scaling), 1.0, max_positions, scale=factor)
        case "yarn":
            return _yarn(theta, head_dim, scaling, max_positions)
        case "dynamic":
            factor = _number(scaling, "factor")
            return Rope(base, 1.0, max_positions, hard_limit=max_positions, scale=factor)
    raise InvalidArgument(
        "rope_scaling.type", f"{kind!r} is not supported; known: linear, llama3, yarn, dynamic"
    )


def _number(scaling: Mapping[str, Any], key: str, under: str = "rope_scaling.") -> float:
    value = scaling.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
        raise InvalidArgument(f"{under}{key}", f"a positive number is needed, not {value!r}")
    return float(value)


def _llama3(base: Tensor, scaling: Mapping[str, Any]) -> Tensor:
    """Long waves divided by ``factor``, short ones kept, a linear ramp between."""
    factor, original = (
        _number(scaling, "factor"),
        _number(scaling, "original_max_position_embeddings"),
    )
    low, high = _number(scaling, "low_freq_factor"), _number(scaling, "high_freq_factor")
    turns = original * base / (2 * math.pi)
    kept = ((turns - low) / (high - low)).clamp(0, 1)
    return base * (kept + (1 - kept) / factor)


def _yarn(theta: float, head_dim: int, scaling: Mapping[str, Any], max_positions: int) -> Rope:
    """NTK-by-parts: dims that turn often are kept, dims that turn rarely are interpolated."""
    factor = _number(scaling, "factor")
    original = float(scaling.get("original_max_position_embeddings") or max_positions)
    fast, slow = float(scaling.get("beta_fast") or 32), float(scaling.get("beta_slow") or 1)

    def dim_of(turns: float) -> float:
        return head_dim * math.log(original / (turns * 2 * math.pi)) / (2 * math.log(theta))

    low, high = dim_of(fast), dim_of(slow)
    if scaling.get("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, head_dim - 1)
    index = torch.arange(head_dim // 2, dtype=torch.float64)
    interpolated = ((index - low) / max(high - low, 0.001)).clamp(0, 1)
    base = theta ** (-2 * index / head_dim)
    inv_freq = base * (1 - interpolated) + base / factor * interpolated
    attention = _yarn_factor(scaling, factor)
    return Rope(inv_freq, attention, int(original * factor), scale=factor)


def _yarn_factor(scaling: Mapping[str, Any], factor: float) -> float:
    if scaling.get("attention_factor") is not None:
        return _number(scaling, "attention_factor")

    def mscale(weight: float) -> float:
        return 1.0 if factor <= 1 else 0.1 * weight * math.log(factor) + 1.0

    over, under = scaling.get("mscale"), scaling.get("mscale_all_dim")
    if over and under:
        return mscale(float(over)) / mscale(float(under))
    return mscale(1.0)
