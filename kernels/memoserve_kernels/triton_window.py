"""``window_attention`` behind its door: one launch of ``triton_window_kernel`` a layer."""

from __future__ import annotations

import torch
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from memoserve_kernels.layout import AttentionLayout, MemoryPages
from memoserve_kernels.triton_pages import (
    LOG2_E,
    can_describe,
    check_attention,
    compute_capability,
    padded,
)
from memoserve_kernels.triton_window_kernel import window_kernel
from memoserve_kernels.window_tiles import (
    INTERPRETED,
    WindowTiles,
    choose_tiles,
    takes_descriptors,
    tile_list,
)


def constants(head_dim: int, sizes: WindowTiles, whole: bool) -> dict[str, int | bool]:
    """What a compilation of the kernel is made for, beside types and alignment."""
    return {
        "HEAD_DIM": head_dim,
        "BLOCK_D": padded(head_dim),
        "BLOCK_M": sizes.block_m,
        "BLOCK_N": sizes.block_n,
        "WHOLE": whole,
    }


def _sizes(q: Tensor, memory: MemoryPages | None) -> WindowTiles:
    if q.device.type != "cuda":
        return INTERPRETED
    memory_dtype = None if memory is None else memory.data.dtype
    return choose_tiles(q.dtype, q.shape[2], compute_capability(q.device), memory_dtype)


def window_attention(
    q: Tensor,
    kv: Tensor,
    layout: AttentionLayout,
    scale: float,
    memory: MemoryPages | None,
    out: Tensor,
    lse: Tensor | None,
    *,
    sizes: WindowTiles | None = None,
    descriptors: bool | None = None,
) -> None:
    """As ``reference.window_attention``: float32, bfloat16 or float16, D up to 256; one launch.

    ``sizes`` override ``choose_tiles``; ``descriptors`` says whether whole tiles of keys come
    through tensor descriptors, which else the device decides. The result is the same but for
    rounding. Raises ValueError for what ``check_attention`` refuses.
    """
    check_attention(q, kv, scale, memory, out, lse)
    if not layout.sequences:
        return
    heads, dim = q.shape[1:]
    kv_heads, page_size = kv.shape[2:4]
    past = kv if memory is None else memory.data
    sizes = sizes or _sizes(q, memory)
    tiles = tile_list(layout, sizes.block_m, heads // kv_heads)
    whole = page_size % sizes.block_n == 0 and past.shape[3] % sizes.block_n == 0
    if descriptors is None:
        descriptors = takes_descriptors(
            q.dtype,
            dim,
            compute_capability(q.device),
            memory.data.dtype if memory is not None else None,
        )
    described = past_described = None
    if descriptors and whole and can_describe(kv) and can_describe(past):
        block = [sizes.block_n, padded(dim)]
        described = TensorDescriptor.from_tensor(kv.view(-1, dim), block)
        past_described = TensorDescriptor.from_tensor(past.view(-1, dim), block)
    if lse is None:
        # Nobody reads it: one for all layers of a step, rather than a second kernel.
        lse = layout.once(
            ("window lse", heads), lambda: q.new_empty(q.shape[:2], dtype=torch.float32)
        )
    window_kernel[(tiles.count, kv_heads)](
        q,
        out,
        lse,
        kv,
        past,
        memory.scales if memory is not None else None,
        described,
        past_described,
        layout.columns,
        layout.limits,
        layout.starts,
        tiles.tiles,
        tiles.pages,
        scale * LOG2_E,
        q.stride(0),
        out.stride(0),
        kv_heads,
        heads // kv_heads,
        page_size,
        past.shape[3],
        kv[0].numel() // dim,
        past[0].numel() // dim,
        **constants(dim, sizes, whole),
        num_warps=sizes.num_warps,
        num_stages=sizes.num_stages,
    )
