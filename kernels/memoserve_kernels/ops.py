"""The doors: one function an op, shapes checked, the backend chosen by device.

``MEMOSERVE_BACKEND`` = ``reference`` or ``cpu`` overrides the choice for the whole process.
Shapes: N query rows, H query heads, K kv heads, D head dim, L layers, P pages of S slots.
"""

from __future__ import annotations

import os
from types import ModuleType
from typing import Final

import torch
from torch import Tensor

from memoserve_kernels import cpu, reference
from memoserve_kernels.layout import AttentionLayout, Rotation

BACKENDS: Final = ("reference", "cpu")
_FAST_TYPES: Final = (torch.float32, torch.bfloat16)


def backend_name(device: torch.device, dtype: torch.dtype) -> str:
    """Backend used on a device for a type; raises ValueError for an unknown override."""
    forced = os.environ.get("MEMOSERVE_BACKEND", "")
    if forced:
        if forced not in BACKENDS:
            raise ValueError(f"MEMOSERVE_BACKEND={forced!r}; known: {', '.join(BACKENDS)}")
        return forced
    return "cpu" if device.type == "cpu" and dtype in _FAST_TYPES else "reference"


def _backend(x: Tensor) -> ModuleType:
    return cpu if backend_name(x.device, x.dtype) == "cpu" else reference


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


def rope_and_append(
    q: Tensor, k: Tensor, v: Tensor, rotation: Rotation, kv: Tensor, slots: Tensor
) -> Tensor:
    """Rotate ``q [N, H, D]`` and ``k [N, K, D]``; write k and v to ``slots [N]`` of ``kv``.

    ``kv [2, P, K, S, D]`` is one layer. Returns q rotated.
    RoFormer (arXiv 2104.09864), eq. 34, with half-split pairs.
    """
    _require(k.shape == v.shape and k.shape[0] == slots.shape[0], "k, v and slots disagree")
    _require(q.shape[0] == k.shape[0] == rotation.positions.shape[0], "one position a row")
    return reference.rope_and_append(q, k, v, rotation, kv, slots)


def append(k: Tensor, v: Tensor, rotation: Rotation, kv: Tensor, slots: Tensor) -> None:
    """Rotate ``k [N, K, D]`` and write k and v to ``slots [N]``; for rows that ask nothing."""
    _require(k.shape == v.shape and k.shape[0] == slots.shape[0], "k, v and slots disagree")
    reference.write_rows(kv, slots, reference.rotate(k, rotation), v)


def rotate(x: Tensor, rotation: Rotation) -> Tensor:
    """Rotate ``x [N, heads, D]``; angles and products in at least float32."""
    _require(x.shape[0] == rotation.positions.shape[0], "one position a row")
    return reference.rotate(x, rotation)


def window_attention(q: Tensor, kv: Tensor, layout: AttentionLayout, scale: float) -> Tensor:
    """Beacon attention of ``q [N, H, D]`` over the pages of ``kv [2, P, K, S, D]``.

    ``softmax(scale q k^T + mask) v`` over [memory | window], the mask as in ``layout``
    (arXiv 2401.03462, section 3.2). q and the stored keys are rotated.
    """
    _require(q.shape[0] == layout.rows, f"{q.shape[0]} query rows, layout for {layout.rows}")
    _require(q.shape[1] % kv.shape[2] == 0, "query heads must be a multiple of kv heads")
    result: Tensor = _backend(q).window_attention(q, kv, layout, scale)
    return result


def evict_window(kv: Tensor, sources: Tensor, targets: Tensor, rotation: Rotation) -> None:
    """Close windows: move surviving rows of ``kv [L, 2, P, K, S, D]`` to their memory slots.

    ``sources``, ``targets`` slots ``[n]``; ``rotation.positions [n]`` = new minus old position.
    Keys turn once by that difference, values move as they are.
    """
    _require(sources.shape == targets.shape == rotation.positions.shape, "one move a row")
    reference.evict_window(kv, sources, targets, rotation)


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """``weight * x / sqrt(mean(x^2) + eps)`` over the last axis (arXiv 1910.07467, eq. 4)."""
    return reference.rms_norm(x, weight, eps)


def silu_mul(gate: Tensor, up: Tensor) -> Tensor:
    """``silu(gate) * up`` (SwiGLU, arXiv 2002.05202)."""
    _require(gate.shape == up.shape, "gate and up disagree")
    return reference.silu_mul(gate, up)
