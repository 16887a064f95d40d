"""``paged_decode`` in Triton: which launches a step makes, and what is compiled for them.

Keys are split over the machine and merged by their log-sum-exp (Flash-Decoding); pages that
several readers share are read once for all (cascade attention). All that depends on the step is
planned once (``decode_plan``) and shared by the layers, or filled into fixed tables, so that a
captured graph is replayed with new plans (``DecodeTables``).
"""

from __future__ import annotations

from typing import Any, Final

import torch
from torch import Tensor

from memoserve_kernels.aot import AotCase
from memoserve_kernels.decode_plan import DecodeShape, plan_decode
from memoserve_kernels.decode_tables import DecodeTables
from memoserve_kernels.decode_tiles import DecodeTiles, decode_shape, decode_tiles, fitted
from memoserve_kernels.layout import AttentionLayout, MemoryPages
from memoserve_kernels.triton_merge import merge
from memoserve_kernels.triton_pages import LOG2_E, check_attention, compute_capability, padded
from memoserve_kernels.triton_splits import decode_kernel


def paged_decode(
    q: Tensor,
    kv: Tensor,
    layout: AttentionLayout,
    scale: float,
    memory: MemoryPages | None,
    out: Tensor,
    lse: Tensor | None,
    *,
    tiles: tuple[DecodeTiles, ...] | None = None,
) -> None:
    """As ``reference.paged_decode``: float32, bfloat16 or float16, D up to 256.

    Uses the tables that were attached to the layout for this shape (``DecodeTables.attach``), else
    plans once a layout. ``tiles`` override ``decode_tiles``; the result is the same but for
    rounding. Raises ValueError for what ``check_attention`` refuses.
    """
    check_attention(q, kv, scale, memory, out, lse)
    if memory is not None and _too_wide(q.dtype, q.shape[2]):
        raise ValueError("float32 over a memory in 8 bits: head dim at most 128")
    narrow = tiles
    if tiles is None:
        arch = compute_capability(q.device)
        tiles = decode_tiles(q.dtype, q.shape[2], arch)
        narrow = decode_tiles(q.dtype, q.shape[2], arch, eight_bits=True)
    shape = decode_shape(q, kv, memory, tiles)
    tables = layout.once(DecodeTables.key(shape), lambda: _plan(layout, shape))
    lists: list[tuple[DecodeTiles, MemoryPages | None]] = [(tile, None) for tile in tiles]
    if memory is not None:
        lists = [*((tile, memory) for tile in narrow or ()), *lists]
    for index, (tile, pages) in enumerate(lists):
        if tables.busy[index]:
            _launch(q, kv, layout, scale, pages, tables, index, tile)
    merge(tables, out, lse)


def _too_wide(dtype: torch.dtype, head_dim: int) -> bool:
    """Whether queries leave too few registers for keys that widen from 8 bits on their way."""
    return dtype == torch.float32 and head_dim > 128


def _plan(layout: AttentionLayout, shape: DecodeShape) -> DecodeTables:
    plan = plan_decode(layout.sequences, layout.rows, shape)
    return DecodeTables.fresh(shape, plan, layout.to_device)


def _launch(
    q: Tensor,
    kv: Tensor,
    layout: AttentionLayout,
    scale: float,
    memory: MemoryPages | None,
    tables: DecodeTables,
    index: int,
    tiles: DecodeTiles,
) -> None:
    """All items of one list."""
    shape = tables.shape
    data = kv if memory is None else memory.data
    kv_heads, page_size, dim = data.shape[2:]
    tiles = fitted(tiles, page_size)
    decode_kernel[(shape.lists[index].programs, kv_heads * shape.parts)](
        q,
        data,
        None if memory is None else memory.scales,
        layout.columns,
        layout.limits,
        layout.starts,
        tables.programs[index],
        tables.items,
        tables.entries,
        tables.pages,
        tables.partial,
        tables.partial_lse,
        scale * LOG2_E,
        q.stride(0),
        kv_heads,
        page_size,
        data[0].numel() // dim,
        HEAD_DIM=dim,
        BLOCK_D=padded(dim),
        BLOCK_M=tiles.block_m,
        BLOCK_N=tiles.block_n,
        WHOLE=page_size % tiles.block_n == 0,
        num_warps=tiles.num_warps,
        num_stages=tiles.num_stages,
    )


_NAMES: Final = {torch.bfloat16: "bf16", torch.float16: "fp16", torch.float32: "fp32"}
_ALIGNED: Final = ("q", "data", "programs", "items", "entries", "pages", "partial", "partial_lse")


def aot_cases(arch: int) -> list[AotCase]:
    """Each configuration of ``decode_tiles`` for head dims 64, 96, 128 and 256.

    Over keys of each type that a query may meet, in pages that tiles divide as they are, in pages
    of 16, and in pages of any size.
    """
    pools = ("", "i8", "fp8e4nv") if arch >= 89 else ("", "i8")
    cases = [
        _case(dtype, dim, tiles, pool, page_size, arch)
        for dtype in _NAMES
        for dim in (64, 96, 128, 256)
        for pool in pools
        for page_size in (64, 16, 1)
        if not (pool and _too_wide(dtype, dim))
        for tiles in decode_tiles(dtype, dim, arch, bool(pool))
    ]
    # Where a configuration takes 16 keys anyway, pages of 16 and 64 are one case.
    return list({case.name: case for case in cases}.values())


def _case(
    dtype: torch.dtype, head_dim: int, tiles: DecodeTiles, pool: str, page_size: int, arch: int
) -> AotCase:
    name = _NAMES[dtype]
    tiles = fitted(tiles, page_size)
    whole = page_size % tiles.block_n == 0
    constants: dict[str, Any] = {
        "HEAD_DIM": head_dim,
        "BLOCK_D": padded(head_dim),
        "BLOCK_M": tiles.block_m,
        "BLOCK_N": tiles.block_n,
        "WHOLE": whole,
    }
    if not pool:
        constants["scales"] = None
    types = {"q": f"*{name}", "data": f"*{pool or name}", "scale_log2": "fp32"}
    types |= dict.fromkeys(("scales", "partial", "partial_lse"), "*fp32")
    types |= dict.fromkeys(("columns", "limits", "starts"), "*i64")
    types |= dict.fromkeys(("programs", "items", "entries", "pages"), "*i32")
    signature = {key: types.get(key, "i32") for key in decode_kernel.arg_names}
    expects = ["wide_loads"]
    if dtype != torch.float32 and arch < 100:
        expects += ["async_copy", "wgmma" if arch == 90 and tiles.block_m >= 64 else "mma"]
    words = ("decode", name, pool or name, f"d{head_dim}", f"m{tiles.block_m}", f"n{tiles.block_n}")
    return AotCase(
        name="_".join(words) + ("" if whole else "_apart"),
        kernel=decode_kernel,
        signature=signature | dict.fromkeys(constants, "constexpr"),
        constexprs=constants,
        aligned=(*_ALIGNED, "q_stride"),
        num_warps=tiles.num_warps,
        num_stages=tiles.num_stages,
        expects=tuple(expects),
        labels={"op": "paged_decode", "dtype": name, "head_dim": str(head_dim)},
    )
