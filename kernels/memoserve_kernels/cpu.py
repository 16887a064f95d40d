"""The fast CPU path of the ops that dominate there.

Many rows: the keys that every row sees (memory, and the window before the chunk) go through one
unmasked flash product, the chunk itself through a causal one; the two are merged by their
log-sum-exp, which beats one masked product. Few rows: two batched products over the kv heads
straight on the pages, because a gather would cost as much memory traffic as the attention.
"""

from __future__ import annotations

import torch
from torch import Tensor

from memoserve_kernels import reference
from memoserve_kernels.layout import AttentionLayout, MemoryPages, SequenceLayout

# Bound by memory or by the products around them; plain PyTorch is as fast here.
rope_and_append = reference.rope_and_append
append = reference.append
rotate = reference.rotate
evict_window = reference.evict_window
rms_norm = reference.rms_norm
add_rms_norm = reference.add_rms_norm
silu_mul = reference.silu_mul

FEW_ROWS = 8


def window_attention(
    q: Tensor,
    kv: Tensor,
    layout: AttentionLayout,
    scale: float,
    memory: MemoryPages | None,
    out: Tensor,
    lse: Tensor | None,
) -> None:
    """As ``reference.window_attention``; float32 and bfloat16."""
    if memory is not None or lse is not None:
        # 8-bit memories are right on a CPU, not fast.
        reference.window_attention(q, kv, layout, scale, memory, out, lse)
        return
    for sequence in layout.sequences:
        part = slice(sequence.first_row, sequence.last_row)
        if not sequence.causal:
            out[part] = _masked(q[part], kv, layout, sequence, scale)
        elif sequence.last_row - sequence.first_row <= FEW_ROWS:
            out[part] = _few_rows(q[part], kv, sequence, scale)
        else:
            out[part] = _many_rows(q[part], kv, sequence, scale)


paged_decode = window_attention


def _masked(
    q: Tensor, kv: Tensor, layout: AttentionLayout, sequence: SequenceLayout, scale: float
) -> Tensor:
    keys, values = _gather(kv[0], sequence), _gather(kv[1], sequence)
    group = q.shape[1] // keys.shape[0]
    out = torch.nn.functional.scaled_dot_product_attention(
        q.transpose(0, 1)[None],
        keys.repeat_interleave(group, dim=0)[None],
        values.repeat_interleave(group, dim=0)[None],
        attn_mask=layout.visible(sequence)[None],
        scale=scale,
    )
    return out[0].transpose(0, 1)


def _segments(kv: Tensor, sequence: SequenceLayout) -> list[tuple[Tensor, Tensor]]:
    """Keys and values in place as ``[pages, K, slots, D]``: full pages, and part of a last one."""
    size = kv.shape[3]
    segments = []
    for table in sequence.tables:
        full, rest = divmod(table.rows, size)
        if full:
            segments.append((table.full_pages(kv[0], full), table.full_pages(kv[1], full)))
        if rest:
            # Slots past the last row belong to nobody and are not read.
            tail = kv[:, table.pages[full], None, :, :rest]
            segments.append((tail[0], tail[1]))
    return segments


def _few_rows(q: Tensor, kv: Tensor, sequence: SequenceLayout, scale: float) -> Tensor:
    """``q [R, H, D]`` over pages in place: scores ``[K, R*G, keys]``, one softmax, one sum.

    All in float32: bfloat16 products of this shape run twenty times slower on a CPU than
    widening the pages first, and widening keeps the sums exact.
    """
    rows, heads, dim = q.shape
    kv_heads = kv.shape[2]
    grouped = q.float().view(rows, kv_heads, -1, dim).transpose(0, 1)
    grouped = grouped.reshape(kv_heads, -1, dim)
    segments = _segments(kv, sequence)
    scores = torch.cat([_page_scores(grouped, keys.float()) for keys, _ in segments], dim=-1)
    num_keys = scores.shape[-1]
    scores = (scores * scale).view(kv_heads, rows, -1, num_keys)
    if rows > 1:
        hidden = _hidden_tail(rows, num_keys, scores.device)
        scores = scores.masked_fill(hidden[:, None], float("-inf"))
    weights = scores.softmax(dim=-1).view(kv_heads, -1, num_keys)
    out = torch.zeros_like(grouped)
    first = 0
    for _, values in segments:
        last = first + values.shape[0] * values.shape[2]
        out += _page_sum(weights[..., first:last], values.float())
        first = last
    out = out.view(kv_heads, rows, -1, dim).transpose(0, 1).reshape(rows, heads, dim)
    return out.to(q.dtype)


def _hidden_tail(rows: int, num_keys: int, device: torch.device) -> Tensor:
    """Keys after each row's own: the last ``rows`` keys are the rows themselves."""
    own = torch.arange(rows, device=device)[:, None] + (num_keys - rows)
    return torch.arange(num_keys, device=device) > own


def _page_scores(grouped: Tensor, keys: Tensor) -> Tensor:
    """``[K, R, D]`` against pages ``[n, K, S, D]`` -> ``[K, R, n*S]``."""
    scores = torch.matmul(grouped, keys.transpose(-1, -2))  # [n, K, R, S]
    return scores.permute(1, 2, 0, 3).flatten(-2)


def _page_sum(weights: Tensor, values: Tensor) -> Tensor:
    """Weights ``[K, R, n*S]`` over pages ``[n, K, S, D]`` -> ``[K, R, D]``."""
    pages, heads, size, _ = values.shape
    split = weights.reshape(heads, -1, pages, size).permute(2, 0, 1, 3)
    return torch.matmul(split, values).sum(dim=0)


def _flash(q: Tensor, k: Tensor, v: Tensor, causal: bool, scale: float) -> tuple[Tensor, Tensor]:
    """Attention and its log-sum-exp for ``[heads, rows, D]``."""
    out, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        q[None], k[None], v[None], 0.0, causal, scale=scale
    )
    return out[0], lse[0]


def _gather(part: Tensor, sequence: SequenceLayout) -> Tensor:
    """All rows of a sequence from ``[P, K, S, D]`` as ``[K, rows, D]``, copied once."""
    size = part.shape[2]
    total = sequence.memory_rows + sequence.window_rows
    out = part.new_empty((part.shape[1], total, part.shape[3]))
    first = 0
    for table in sequence.tables:
        full, rest = divmod(table.rows, size)
        if full:
            pages = table.full_pages(part, full).transpose(0, 1)
            out[:, first : first + full * size].unflatten(1, (full, size)).copy_(pages)
        if rest:
            out[:, first + full * size : first + table.rows] = part[table.pages[full], :, :rest]
        first += table.rows
    return out


def _many_rows(q: Tensor, kv: Tensor, sequence: SequenceLayout, scale: float) -> Tensor:
    rows, heads, dim = q.shape
    keys, values = _gather(kv[0], sequence), _gather(kv[1], sequence)
    kv_heads, num_keys, _ = keys.shape
    group, past = heads // kv_heads, num_keys - rows
    by_head = q.transpose(0, 1)  # [H, rows, D]
    own = [part[:, past:].repeat_interleave(group, dim=0) for part in (keys, values)]
    out, lse = _flash(by_head, own[0], own[1], True, scale)
    if past:
        # All rows see all of the past: the group's heads fold into rows and share each key.
        folded = by_head.reshape(kv_heads, group * rows, dim)
        seen, seen_lse = _flash(folded, keys[:, :past], values[:, :past], False, scale)
        out = _merge(out, lse, seen.view(heads, rows, dim), seen_lse.reshape(heads, rows))
    return out.transpose(0, 1)


def _merge(a: Tensor, a_lse: Tensor, b: Tensor, b_lse: Tensor) -> Tensor:
    """Attention over the union of two key sets from the attention over each."""
    both = torch.logaddexp(a_lse, b_lse)
    weight_a, weight_b = (a_lse - both).exp()[..., None], (b_lse - both).exp()[..., None]
    return (a * weight_a + b * weight_b).to(a.dtype)
