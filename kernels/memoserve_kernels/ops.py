"""The doors: one function an op, shapes checked, the backend chosen by device.

``MEMOSERVE_BACKEND`` = ``reference``, ``cpu``, ``triton`` or ``flash`` overrides the choice for
the whole process; ``triton`` on a CPU runs in Triton's interpreter and wants
``TRITON_INTERPRET=1``; ``flash`` is ``triton`` with flash-attn for prompts, where it is installed.
Shapes: N query rows, H query heads, K kv heads, D head dim, L layers, P pages of S slots.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from types import ModuleType
from typing import Any, Final

import torch
from torch import Tensor

from memoserve_kernels.layout import AttentionLayout, MemoryPages, Rotation, SequenceLayout

BACKENDS: Final = ("reference", "cpu", "triton", "flash")
# Gradients follow plain PyTorch and stop at a kernel, in silence unless somebody says so.
DIFFERENTIABLE: Final = ("reference", "cpu")
_CPU_TYPES: Final = (torch.float32, torch.bfloat16)
_TRITON_TYPES: Final = (torch.float32, torch.bfloat16, torch.float16)
# A sequence with more query rows than this is a prompt or a window; with fewer, a decode step.
DECODE_ROWS: Final = 2


def backend_name(device: torch.device, dtype: torch.dtype) -> str:
    """Backend used on a device for a type; ValueError for an override that is not to be had."""
    forced = os.environ.get("MEMOSERVE_BACKEND", "")
    if forced and forced not in BACKENDS:
        raise ValueError(f"MEMOSERVE_BACKEND={forced!r}; known: {', '.join(BACKENDS)}")
    if forced == "flash":
        require_flash()
    if forced in ("triton", "flash") and dtype not in _TRITON_TYPES:
        return "reference"  # float64: what the laws run in
    if forced:
        return forced
    if device.type == "cuda" and dtype in _TRITON_TYPES:
        return "triton"
    return "cpu" if device.type == "cpu" and dtype in _CPU_TYPES else "reference"


@cache
def require_flash() -> None:
    """Raise ValueError where flash-attn is not installed; looked up until it is found."""
    if importlib.util.find_spec("flash_attn") is None:
        raise ValueError("MEMOSERVE_BACKEND='flash' wants the package flash-attn: not installed")


def _backend(x: Tensor, *others: Tensor) -> ModuleType:
    """The module with a function for each door; Triton is imported only where it is used.

    Raises ValueError where a gradient through one of these tensors would be lost.
    """
    name = backend_name(x.device, x.dtype)
    if name not in DIFFERENTIABLE and torch.is_grad_enabled():
        _refuse_gradients(name, x, *others)
    return _module("triton_backend" if name == "triton" else name)


def _refuse_gradients(name: str, *tensors: Tensor) -> None:
    if any(tensor.requires_grad for tensor in tensors):
        raise ValueError(f"the ops of {name!r} have no gradients: set MEMOSERVE_BACKEND=reference")


@cache
def _module(name: str) -> ModuleType:
    return importlib.import_module(f"memoserve_kernels.{name}")


_HERE: Final = nullcontext()


def _on(x: Tensor) -> AbstractContextManager[Any]:
    """Makes the GPU of ``x`` the current one: Triton launches there, wherever its arguments lie.

    Does nothing where it is already, or where ``x`` lies on no GPU.
    """
    if not x.is_cuda or x.get_device() == torch.cuda.current_device():
        return _HERE
    return torch.cuda.device(x.device)


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


def rope_and_append(
    q: Tensor, k: Tensor, v: Tensor, rotation: Rotation, kv: Tensor, slots: Tensor
) -> Tensor:
    """Rotate ``q [N, H, D]`` and ``k [N, K, D]``; write k and v to ``slots [N]`` of ``kv``.

    ``kv [2, P, K, S, D]`` is one layer. Returns q rotated. A negative slot is written nowhere.
    RoFormer (arXiv 2104.09864), eq. 34, with half-split pairs; angles in float32 from integers.
    """
    _require(k.shape == v.shape and k.shape[0] == slots.shape[0], "k, v and slots disagree")
    _require(q.shape[0] == k.shape[0] == rotation.positions.shape[0], "one position a row")
    with _on(q):
        result: Tensor = _backend(q, k, v).rope_and_append(q, k, v, rotation, kv, slots)
    return result


def append(k: Tensor, v: Tensor, rotation: Rotation, kv: Tensor, slots: Tensor) -> None:
    """Rotate ``k [N, K, D]`` and write k and v to ``slots [N]``; for rows that ask nothing."""
    _require(k.shape == v.shape and k.shape[0] == slots.shape[0], "k, v and slots disagree")
    with _on(k):
        _backend(k, v).append(k, v, rotation, kv, slots)


def rotate(x: Tensor, rotation: Rotation) -> Tensor:
    """Rotate ``x [N, heads, D]``; angles and products in at least float32."""
    _require(x.shape[0] == rotation.positions.shape[0], "one position a row")
    with _on(x):
        result: Tensor = _backend(x).rotate(x, rotation)
    return result


def _check_attention(
    q: Tensor, kv: Tensor, layout: AttentionLayout, out: Tensor | None, lse: Tensor | None
) -> None:
    _require(q.shape[0] == layout.rows, f"{q.shape[0]} query rows, layout for {layout.rows}")
    _require(q.shape[1] % kv.shape[2] == 0, "query heads must be a multiple of kv heads")
    _require(q.shape[2] == kv.shape[4], "head dim of q and kv disagree")
    _require(out is None or out.shape == q.shape, "out must have the shape of q")
    _require(lse is None or lse.shape == q.shape[:2], "lse must be [N, H]")


def window_attention(
    q: Tensor,
    kv: Tensor,
    layout: AttentionLayout,
    scale: float,
    *,
    memory: MemoryPages | None = None,
    out: Tensor | None = None,
    lse: Tensor | None = None,
) -> Tensor:
    """Beacon attention of ``q [N, H, D]`` over the pages of ``kv [2, P, K, S, D]``.

    ``softmax(scale q k^T + mask) v`` over [memory | window], the mask as in ``layout``
    (arXiv 2401.03462, section 3.2). q and the stored keys are rotated. The memory lies in
    ``memory`` where that is given, else in ``kv``. Returns ``out``, made where it is not given;
    fills ``lse [N, H]``, float32, with the natural log of each row's sum of exponentials.
    """
    _check_attention(q, kv, layout, out, lse)
    out = torch.empty_like(q) if out is None else out
    with _on(q):
        _backend(q, kv).window_attention(q, kv, layout, scale, memory, out, lse)
    return out


def paged_decode(
    q: Tensor,
    kv: Tensor,
    layout: AttentionLayout,
    scale: float,
    *,
    memory: MemoryPages | None = None,
    out: Tensor | None = None,
    lse: Tensor | None = None,
) -> Tensor:
    """``window_attention`` for sequences of a row or two: long memories, many readers.

    Keys are split over the machine and merged by their log-sum-exp (Flash-Decoding); pages that
    several readers share are read once for all of them (cascade attention).
    """
    _check_attention(q, kv, layout, out, lse)
    out = torch.empty_like(q) if out is None else out
    with _on(q):
        _backend(q, kv).paged_decode(q, kv, layout, scale, memory, out, lse)
    return out


def _has_few_rows(sequence: SequenceLayout) -> bool:
    return sequence.last_row - sequence.first_row <= DECODE_ROWS


def attention(
    q: Tensor,
    kv: Tensor,
    layout: AttentionLayout,
    scale: float,
    *,
    memory: MemoryPages | None = None,
) -> Tensor:
    """A step of any mix: decode steps through ``paged_decode``, the rest ``window_attention``."""
    out = torch.empty_like(q)
    few, many = layout.divided("few rows", _has_few_rows)
    if many.sequences:
        window_attention(q, kv, many, scale, memory=memory, out=out)
    if few.sequences:
        paged_decode(q, kv, few, scale, memory=memory, out=out)
    return out


def evict_window(
    kv: Tensor,
    sources: Tensor,
    targets: Tensor,
    rotation: Rotation,
    *,
    memory: MemoryPages | None = None,
) -> None:
    """Close windows: move surviving rows of ``kv [L, 2, P, K, S, D]`` to their memory slots.

    ``sources``, ``targets`` slots ``[n]``; ``rotation.positions [n]`` = new minus old position.
    Keys turn once by that difference, values move as they are. Targets are slots of ``memory``,
    all layers of it, where that is given: rows are rounded to 8 bits on the way.
    """
    _require(sources.shape == targets.shape == rotation.positions.shape, "one move a row")
    with _on(kv):
        _backend(kv).evict_window(kv, sources, targets, rotation, memory)


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """``weight * x / sqrt(mean(x^2) + eps)`` over the last axis (arXiv 1910.07467, eq. 4)."""
    with _on(x):
        result: Tensor = _backend(x, weight).rms_norm(x, weight, eps)
    return result


def add_rms_norm(x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """``s = residual + x``; returns ``rms_norm(s)`` and ``s``, in one pass over memory."""
    _require(x.shape == residual.shape, "x and residual disagree")
    with _on(x):
        normed, total = _backend(x, residual, weight).add_rms_norm(x, residual, weight, eps)
    return normed, total


def silu_mul(gate: Tensor, up: Tensor) -> Tensor:
    """``silu(gate) * up`` (SwiGLU, arXiv 2002.05202)."""
    _require(gate.shape == up.shape, "gate and up disagree")
    with _on(gate):
        result: Tensor = _backend(gate, up).silu_mul(gate, up)
    return result
