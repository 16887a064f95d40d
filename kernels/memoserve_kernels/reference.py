"""The oracle: every op in plain PyTorch, in any float type including float64.

Slow and obvious on purpose; the fast paths are tested against it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from memoserve_kernels.eight_bits import quantise
from memoserve_kernels.layout import AttentionLayout, MemoryPages, Rotation, SequenceLayout


def rotate(x: Tensor, rotation: Rotation) -> Tensor:
    """Rotate ``x [N, heads, D]`` in at least float32 and return it in its own type."""
    cos, sin = rotation.cos_sin
    first, second = x.to(torch.promote_types(x.dtype, cos.dtype)).chunk(2, dim=-1)
    turned = torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)
    return turned.to(x.dtype)


def write_rows(kv: Tensor, slots: Tensor, k: Tensor, v: Tensor) -> None:
    """Write rows ``k, v [N, K, D]`` to ``slots [N]`` of one layer's ``kv [2, P, K, S, D]``."""
    kept = slots >= 0
    if not bool(kept.all()):
        slots, k, v = slots[kept], k[kept], v[kept]
    page, offset = slots // kv.shape[3], slots % kv.shape[3]
    kv[0, page, :, offset] = k
    kv[1, page, :, offset] = v


def rope_and_append(
    q: Tensor, k: Tensor, v: Tensor, rotation: Rotation, kv: Tensor, slots: Tensor
) -> Tensor:
    """Rotate q and k, store k and v; returns the rotated q."""
    write_rows(kv, slots, rotate(k, rotation), v)
    return rotate(q, rotation)


def append(k: Tensor, v: Tensor, rotation: Rotation, kv: Tensor, slots: Tensor) -> None:
    """Rotate and store k, store v."""
    write_rows(kv, slots, rotate(k, rotation), v)


def gather_rows(pages: Tensor, table: tuple[int, ...], rows: int) -> Tensor:
    """First ``rows`` rows of a table from ``pages [P, K, S, D]`` as ``[K, rows, D]``."""
    num_pages = -(-rows // pages.shape[2])
    picked = pages[list(table[:num_pages])]
    return picked.transpose(0, 1).flatten(1, 2)[:, :rows]


def memory_keys(
    kv: Tensor, sequence: SequenceLayout, memory: MemoryPages | None
) -> tuple[Tensor, Tensor]:
    """Keys and values of a sequence's memory, in the type of ``kv``: two ``[K, rows, D]``."""
    pages, rows = sequence.memory_pages, sequence.memory_rows
    if memory is None:
        return gather_rows(kv[0], pages, rows), gather_rows(kv[1], pages, rows)
    keys, values = (
        gather_rows(memory.data[kind], pages, rows).to(kv.dtype)
        * gather_rows(memory.scales[kind, ..., None], pages, rows).to(kv.dtype)
        for kind in (0, 1)
    )
    return keys, values


def sequence_keys(
    kv: Tensor, sequence: SequenceLayout, memory: MemoryPages | None = None
) -> tuple[Tensor, Tensor]:
    """All keys and values of a sequence, memory first: two ``[K, rows, D]``."""
    keys, values = (
        torch.cat([past, gather_rows(part, sequence.window_pages, sequence.window_rows)], dim=1)
        for past, part in zip(memory_keys(kv, sequence, memory), kv, strict=True)
    )
    return keys, values


def window_attention(
    q: Tensor,
    kv: Tensor,
    layout: AttentionLayout,
    scale: float,
    memory: MemoryPages | None,
    out: Tensor,
    lse: Tensor | None,
) -> None:
    """``softmax(scale q k^T + mask) v`` for ``q [N, H, D]``, softmax in at least float32."""
    for sequence in layout.sequences:
        rows = slice(sequence.first_row, sequence.last_row)
        keys, values = sequence_keys(kv, sequence, memory)
        group = q.shape[1] // keys.shape[0]
        keys, values = (part.repeat_interleave(group, dim=0) for part in (keys, values))
        scores = (q[rows].transpose(0, 1) @ keys.transpose(1, 2)) * scale
        scores = scores.masked_fill(~layout.visible(sequence), float("-inf"))
        wide = torch.promote_types(torch.float32, q.dtype)
        weights = torch.softmax(scores, dim=-1, dtype=wide).to(q.dtype)
        out[rows] = (weights @ values).transpose(0, 1)
        if lse is not None:
            lse[rows] = scores.to(wide).logsumexp(dim=-1).T


paged_decode = window_attention


def evict_window(
    kv: Tensor, sources: Tensor, targets: Tensor, rotation: Rotation, memory: MemoryPages | None
) -> None:
    """Move rows of all layers ``kv [L, 2, P, K, S, D]`` from slots to slots, turning the keys.

    ``rotation.positions`` is target position minus the position the key was rotated for. No
    target slot is a source slot.
    """
    size = kv.shape[4]
    source_page, source_offset = sources // size, sources % size
    rows = kv[:, :, source_page, :, source_offset]  # advanced dims first: [n, L, 2, K, D]
    if memory is not None:  # rounded once, to 8 bits, and not to the type of kv before
        rows = rows.to(torch.promote_types(torch.float32, rows.dtype))
    num, layers, _, heads, dim = rows.shape
    keys = rotate(rows[:, :, 0].reshape(num, layers * heads, dim), rotation)
    moved = torch.stack([keys.view(num, layers, heads, dim), rows[:, :, 1]], dim=2)
    if memory is None:
        kv[:, :, targets // size, :, targets % size] = moved
        return
    size = memory.data.shape[4]
    data, scales = quantise(moved, memory.data.dtype)
    memory.data[:, :, targets // size, :, targets % size] = data
    memory.scales[:, :, targets // size, :, targets % size] = scales


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """``weight * x / sqrt(mean(x^2) + eps)``, the quotient in at least float32."""
    wide = x.to(torch.promote_types(torch.float32, x.dtype))
    normed = wide * torch.rsqrt(wide.square().mean(dim=-1, keepdim=True) + eps)
    return weight * normed.to(x.dtype)


def add_rms_norm(x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """``rms_norm(residual + x)`` and the sum."""
    total = residual + x
    return rms_norm(total, weight, eps), total


def silu_mul(gate: Tensor, up: Tensor) -> Tensor:
    """``silu(gate) * up``."""
    return torch.nn.functional.silu(gate) * up
