"""Prompts and windows through flash-attn, where it is installed: an alternative to measure by.

``MEMOSERVE_BACKEND=flash`` chooses it. Causal sequences of 16-bit rows become one call of
``flash_attn.flash_attn_varlen_func`` (FlashAttention-2, arXiv 2307.08691), whose causal mask is
aligned to the last key, over keys gathered from their pages. All else stays with Triton: beacons
that see a part of their window, float32, 8-bit memories, and decode steps.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from memoserve_kernels import triton_backend
from memoserve_kernels.layout import AttentionLayout, MemoryPages, SequenceLayout
from memoserve_kernels.triton_backend import (
    add_rms_norm,
    append,
    evict_window,
    paged_decode,
    rms_norm,
    rope_and_append,
    rotate,
    silu_mul,
)

__all__ = [
    "add_rms_norm",
    "append",
    "evict_window",
    "paged_decode",
    "rms_norm",
    "rope_and_append",
    "rotate",
    "silu_mul",
    "window_attention",
]

_TYPES = (torch.float16, torch.bfloat16)


def window_attention(
    q: Tensor,
    kv: Tensor,
    layout: AttentionLayout,
    scale: float,
    memory: MemoryPages | None,
    out: Tensor,
    lse: Tensor | None,
) -> None:
    """As ``reference.window_attention``."""
    if memory is not None or q.dtype not in _TYPES:
        triton_backend.window_attention(q, kv, layout, scale, memory, out, lse)
        return
    size = kv.shape[3]
    causal, others = layout.divided("causal", lambda sequence: sequence.causal)
    if others.sequences:
        triton_backend.window_attention(q, kv, others, scale, None, out, lse)
    if causal.sequences:
        packed = layout.once(("flash", size), lambda: _pack(causal, size))
        _attend(q, kv, packed, scale, out, lse)


@dataclass(frozen=True)
class _Packed:
    """Query rows ``rows [n]`` and keys ``(pages, offsets) [m]``, sequence after sequence.

    ``row_ends`` and ``key_ends``, int32 ``[B + 1]``, count them up from 0.
    """

    rows: Tensor
    pages: Tensor
    offsets: Tensor
    row_ends: Tensor
    key_ends: Tensor
    most_rows: int
    most_keys: int


def _pack(layout: AttentionLayout, size: int) -> _Packed:
    sequences = layout.sequences
    rows = [np.arange(s.first_row, s.last_row) for s in sequences]
    slots = [_key_slots(s, size) for s in sequences]
    every = np.concatenate(slots)
    return _Packed(
        layout.to_device(np.concatenate(rows)),
        layout.to_device(every // size),
        layout.to_device(every % size),
        layout.to_device(_ends([len(own) for own in rows])),
        layout.to_device(_ends([len(own) for own in slots])),
        max(len(own) for own in rows),
        max(len(own) for own in slots),
    )


def _key_slots(sequence: SequenceLayout, size: int) -> NDArray[np.int64]:
    """Slots of a sequence's keys, the memory's first."""
    parts = []
    for table in sequence.tables:
        row = np.arange(table.rows)
        parts.append(np.asarray(table.pages, dtype=np.int64)[row // size] * size + row % size)
    return np.concatenate(parts)


def _ends(lengths: list[int]) -> NDArray[np.int32]:
    return np.cumsum([0, *lengths], dtype=np.int32)


def _attend(
    q: Tensor, kv: Tensor, packed: _Packed, scale: float, out: Tensor, lse: Tensor | None
) -> None:
    # One copy of the keys: flash-attn takes pages only of 256 rows and with the heads inside.
    keys, values = (part[packed.pages, :, packed.offsets] for part in kv)
    mixed, sums, _ = _varlen()(
        q[packed.rows],
        keys,
        values,
        packed.row_ends,
        packed.key_ends,
        packed.most_rows,
        packed.most_keys,
        softmax_scale=scale,
        causal=True,
        return_attn_probs=True,
    )
    out[packed.rows] = mixed
    if lse is None:
        return
    if sums.shape != (q.shape[1], packed.rows.shape[0]):
        raise ValueError(f"flash-attn 2.6 or newer is wanted: its log-sum-exp is {sums.shape}")
    lse[packed.rows] = sums.T


@cache
def _varlen() -> Callable[..., Any]:
    varlen: Callable[..., Any] = importlib.import_module("flash_attn").flash_attn_varlen_func
    return varlen
