"""Beacon attention of many query rows: flash attention over page tables, in Triton.

One program takes BLOCK_M packed query rows of one sequence and one kv head, so that a key is
loaded once for all heads that share it. Keys come in four runs: whole tiles of the memory and its
rest, then the window columns that every row of the tile sees, and the others under the mask. The
mask costs nothing where there is none.
"""

from typing import Any

import triton
import triton.language as tl

from memoserve_kernels.triton_pages import (
    LN_2,
    LOWEST,
    load_scales,
    load_tile,
    softmax_tile,
    tile_rows,
)


@triton.jit
def _take_tile(
    q: tl.tensor,
    state: tl.tuple,
    pool: tl.tuple,
    head: tl.tensor,
    num_heads: tl.tensor,
    first: tl.tensor,
    end: tl.tensor,
    seen: tl.tensor,
    scale_log2: tl.tensor,
    HEAD_DIM: tl.constexpr,
    BLOCK_N: tl.constexpr,
    WHOLE: tl.constexpr,
) -> Any:
    """Take keys ``[first, first + BLOCK_N)`` of one page table into the softmax.

    ``pool`` is (data, descriptor or None, scales or None, rows of all keys, page size, page
    table); ``state`` (acc, total, top) of ``softmax_tile``, returned anew. With a mask ``seen``
    only keys before ``end`` are read, and by pointers: a descriptor would bring the slots of a
    page that nobody owns.
    """
    data, described, scales, part_rows, page_size, table = pool
    MASKED: tl.constexpr = seen is not None
    BLOCK_D: tl.constexpr = q.shape[1]
    origin, offsets = tile_rows(
        table, first, end, head, num_heads, page_size, BLOCK_N, WHOLE, MASKED
    )
    valid = first + tl.arange(0, BLOCK_N) < end
    if described is None or MASKED:
        keys = load_tile(data, origin, offsets, valid, HEAD_DIM, BLOCK_D, MASKED)
        values = load_tile(data, origin + part_rows, offsets, valid, HEAD_DIM, BLOCK_D, MASKED)
    else:
        keys = described.load([origin.to(tl.int32), 0])
        values = described.load([(origin + part_rows).to(tl.int32), 0])
    key_scales = None
    value_scales = None
    if scales is not None:
        key_scales = load_scales(scales, origin, offsets, valid, MASKED)
        value_scales = load_scales(scales, origin + part_rows, offsets, valid, MASKED)
    return softmax_tile(q, keys, values, key_scales, value_scales, seen, state, scale_log2, MASKED)


@triton.jit
def _rows_of_tile(
    tile: tl.tensor,
    FIELD: tl.constexpr,
    head: tl.tensor,
    group: tl.tensor,
    BLOCK_M: tl.constexpr,
) -> Any:
    """Query row, query head and whether there is one, for each packed row of a tile."""
    packed = tl.load(tile + FIELD) + tl.arange(0, BLOCK_M)
    row = (tl.load(tile) + packed // group).to(tl.int64)
    return row, head * group + packed % group, packed < tl.load(tile + 1)


@triton.jit
def _visibility(
    columns: tl.tensor, limits: tl.tensor, starts: tl.tensor, row: tl.tensor, named: tl.tensor
) -> Any:
    """What rows see of the window: columns before ``limit`` and from ``start`` to ``column``."""
    column = tl.load(columns + row, mask=named, other=0).to(tl.int32)
    limit = tl.load(limits + row, mask=named, other=0).to(tl.int32)
    start = tl.load(starts + row, mask=named, other=0).to(tl.int32)
    return column, limit, start


# Sizes whose divisibility speeds up no load: one compilation for all of them.
_PLAIN = (
    "heads",
    "group",
    "page_size",
    "memory_page_size",
    "part_rows",
    "memory_part_rows",
)


@triton.jit(
    do_not_specialize=_PLAIN,
    do_not_specialize_on_alignment=("lse", "columns", "limits", "starts", "tiles", "pages"),
)
def window_kernel(
    q: tl.tensor,
    out: tl.tensor,
    lse: tl.tensor,
    kv: tl.tensor,
    memory: tl.tensor,
    memory_scales: tl.tensor,
    kv_described: tl.tensor,
    memory_described: tl.tensor,
    columns: tl.tensor,
    limits: tl.tensor,
    starts: tl.tensor,
    tiles: tl.tensor,
    pages: tl.tensor,
    scale: tl.tensor,
    q_stride: tl.tensor,
    out_stride: tl.tensor,
    heads: tl.tensor,
    group: tl.tensor,
    page_size: tl.tensor,
    memory_page_size: tl.tensor,
    part_rows: tl.tensor,
    memory_part_rows: tl.tensor,
    HEAD_DIM: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    WHOLE: tl.constexpr,
) -> None:
    """One tile of packed query rows ``program_id(0)`` under kv head ``program_id(1)``."""
    tile = tiles + tl.program_id(0) * 8
    head = tl.program_id(1)
    past_end = tl.load(tile + 3)
    past_table = pages + tl.load(tile + 4)
    window_rows = tl.load(tile + 5)
    own_table = pages + tl.load(tile + 6)

    row, q_head, named = _rows_of_tile(tile, 2, head, group, BLOCK_M)
    dims = tl.arange(0, BLOCK_D)
    inside = named[:, None] & (dims < HEAD_DIM)[None, :]
    q_offsets = row * q_stride + q_head * HEAD_DIM
    query = tl.load(q + q_offsets[:, None] + dims[None, :], mask=inside, other=0.0)

    column, limit, start = _visibility(columns, limits, starts, row, named)
    last = tl.maximum(limit, column + 1)
    prefix = tl.where(start <= limit, last, limit)
    all_see = tl.minimum(tl.min(tl.where(named, prefix, window_rows), 0), window_rows)
    own_full = all_see // BLOCK_N * BLOCK_N
    own_end = tl.minimum(tl.max(tl.where(named, last, 0), 0), window_rows)

    state = (
        tl.zeros([BLOCK_M, BLOCK_D], tl.float32),
        tl.zeros([BLOCK_M], tl.float32),
        tl.full([BLOCK_M], LOWEST, tl.float32),
    )
    past = (memory, memory_described, memory_scales, memory_part_rows, memory_page_size, past_table)
    own = (kv, kv_described, None, part_rows, page_size, own_table)
    lanes = tl.arange(0, BLOCK_N)
    past_full = past_end // BLOCK_N * BLOCK_N
    for first in tl.range(0, past_full, BLOCK_N):
        state = _take_tile(
            query, state, past, head, heads, first, past_end, None, scale, HEAD_DIM, BLOCK_N, WHOLE
        )
    # A loop of at most one round: a branch would keep the queries in registers before it.
    for first in tl.range(past_full, past_end, BLOCK_N, num_stages=1):
        seen = (first + lanes < past_end)[None, :]
        state = _take_tile(
            query, state, past, head, heads, first, past_end, seen, scale, HEAD_DIM, BLOCK_N, WHOLE
        )
    for first in tl.range(0, own_full, BLOCK_N):
        state = _take_tile(
            query, state, own, head, heads, first, own_end, None, scale, HEAD_DIM, BLOCK_N, WHOLE
        )
    # From a field that says the same as the first: nothing above is kept in registers till here.
    row, q_head, named = _rows_of_tile(tile, 7, head, group, BLOCK_M)
    column, limit, start = _visibility(columns, limits, starts, row, named)
    for first in tl.range(own_full, own_end, BLOCK_N):
        key = (first + lanes)[None, :]
        since_start = (key >= start[:, None]) & (key <= column[:, None])
        seen = (since_start | (key < limit[:, None])) & (key < own_end)
        state = _take_tile(
            query, state, own, head, heads, first, own_end, seen, scale, HEAD_DIM, BLOCK_N, WHOLE
        )

    acc, total, top = state
    result = (acc / total[:, None]).to(out.dtype.element_ty)
    inside = named[:, None] & (dims < HEAD_DIM)[None, :]
    out_offsets = row * out_stride + q_head * HEAD_DIM
    tl.store(out + out_offsets[:, None] + dims[None, :], result, mask=inside)
    found = (top + tl.log2(total)) * LN_2
    tl.store(lse + row * (heads * group) + q_head, found, mask=named)
