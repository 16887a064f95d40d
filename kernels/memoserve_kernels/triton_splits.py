"""Partial attention of a row or two of many readers over long page tables, in Triton.

A program takes items one after another (see ``decode_plan``): keys of one run for BLOCK_M query
rows times heads, so that a key is loaded once for all heads of a group and all readers of the
run. It leaves partial results with their log-sum-exps, which ``triton_merge`` joins. Grids and
addresses do not depend on the plan, which lies in device memory.
"""

from typing import Any

import triton
import triton.language as tl

from memoserve_kernels.triton_pages import LOWEST, load_scales, load_tile, softmax_tile


@triton.jit
def _pages(
    table: tl.tensor,
    first: tl.tensor,
    end: tl.tensor,
    page_size: tl.tensor,
    BLOCK_N: tl.constexpr,
    WHOLE: tl.constexpr,
) -> Any:
    """Pages of keys ``[first, first + BLOCK_N)``: one number, or one a key; 0 from ``end`` on."""
    if WHOLE:
        return tl.load(table + first // page_size, mask=first < end, other=0)
    else:
        keys = first + tl.arange(0, BLOCK_N)
        return tl.load(table + keys // page_size, mask=keys < end, other=0)


@triton.jit
def _rows(
    pages: tl.tensor,
    first: tl.tensor,
    head: tl.tensor,
    num_heads: tl.tensor,
    page_size: tl.tensor,
    BLOCK_N: tl.constexpr,
    WHOLE: tl.constexpr,
) -> Any:
    """Rows of keys ``[first, first + BLOCK_N)`` in a pool: an origin (int64) and offsets."""
    lanes = tl.arange(0, BLOCK_N)
    heads = pages.to(tl.int64) * num_heads + head
    if WHOLE:
        return heads * page_size + first % page_size, lanes
    else:
        return tl.full((), 0, tl.int64), heads * page_size + (first + lanes) % page_size


@triton.jit(
    do_not_specialize=("num_heads", "page_size", "part_rows"),
    do_not_specialize_on_alignment=("columns", "limits", "starts", "scales"),
)
def decode_kernel(
    q: tl.tensor,
    data: tl.tensor,
    scales: tl.tensor,
    columns: tl.tensor,
    limits: tl.tensor,
    starts: tl.tensor,
    programs: tl.tensor,
    items: tl.tensor,
    entries: tl.tensor,
    pages: tl.tensor,
    partial: tl.tensor,
    partial_lse: tl.tensor,
    scale_log2: tl.tensor,
    q_stride: tl.tensor,
    num_heads: tl.tensor,
    page_size: tl.tensor,
    part_rows: tl.tensor,
    HEAD_DIM: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    WHOLE: tl.constexpr,
) -> None:
    """Items of program ``program_id(0)``; ``program_id(1)`` is one of the parts of a kv head."""
    part = tl.program_id(1)
    head = part // (tl.num_programs(1) // num_heads)
    packed = tl.arange(0, BLOCK_M)
    lanes = tl.arange(0, BLOCK_N)
    dims = tl.arange(0, BLOCK_D)
    first_item = tl.load(programs + tl.program_id(0))
    last_item = tl.load(programs + tl.program_id(0) + 1)
    for index in tl.range(first_item, last_item, disable_licm=True):
        item = items + index * 8
        table = pages + tl.load(item)
        first = tl.load(item + 1)
        clear = tl.load(item + 2)
        end = tl.load(item + 3)
        is_memory = tl.load(item + 6) == 0
        # Loaded here, though always the same: what is derived from it would else be computed
        # before the loop and held in registers that the tiles need.
        group = tl.load(item + 7)
        entry = entries + (tl.load(item + 4) + packed // group) * 2
        named = packed < tl.load(item + 5) * group
        q_head = part * group + packed % group

        row = tl.load(entry, mask=named, other=0).to(tl.int64)
        inside = named[:, None] & (dims < HEAD_DIM)[None, :]
        q_offsets = row * q_stride + q_head * HEAD_DIM
        query = tl.load(q + q_offsets[:, None] + dims[None, :], mask=inside, other=0.0)
        # A row sees columns before ``limit`` and those from ``start`` to its own; memory wholly.
        column = tl.load(columns + row, mask=named, other=0).to(tl.int32)
        limit = tl.load(limits + row, mask=named, other=0).to(tl.int32)
        start = tl.load(starts + row, mask=named, other=0).to(tl.int32)
        limit = tl.where(is_memory, end, limit)

        state = (
            tl.zeros([BLOCK_M, BLOCK_D], tl.float32),
            tl.zeros([BLOCK_M], tl.float32),
            tl.full([BLOCK_M], LOWEST, tl.float32),
        )
        ahead = _pages(table, first, end, page_size, BLOCK_N, WHOLE)
        for key in tl.range(first, end, BLOCK_N):
            # Known a tile ahead: loads that wait for each other would halve the pipeline.
            origin, offsets = _rows(ahead, key, head, num_heads, page_size, BLOCK_N, WHOLE)
            ahead = _pages(table, key + BLOCK_N, end, page_size, BLOCK_N, WHOLE)
            valid = key + lanes < end
            keys = load_tile(data, origin, offsets, valid, HEAD_DIM, BLOCK_D, True)
            values = load_tile(data, origin + part_rows, offsets, valid, HEAD_DIM, BLOCK_D, True)
            key_scales = None
            value_scales = None
            if scales is not None:
                key_scales = load_scales(scales, origin, offsets, valid, True)
                value_scales = load_scales(scales, origin + part_rows, offsets, valid, True)
            # One loop, so that the loads of its last tiles are in flight with the others.
            seen = tl.full([BLOCK_M, BLOCK_N], True, tl.int1)
            if key + BLOCK_N > clear:
                at = (key + lanes)[None, :]
                since_start = (at >= start[:, None]) & (at <= column[:, None])
                seen = (since_start | (at < limit[:, None])) & (at < end)
            state = softmax_tile(
                query, keys, values, key_scales, value_scales, seen, state, scale_log2, True
            )

        acc, total, top = state
        slot = tl.load(entry + 1, mask=named, other=0).to(tl.int64)
        to = slot * (tl.num_programs(1) * group) + q_head
        # A row that sees none of these keys leaves zeros and minus infinity.
        some = total > 0
        total = tl.where(some, total, 1.0)
        result = acc / total[:, None]
        tl.store(partial + to[:, None] * HEAD_DIM + dims[None, :], result, mask=inside)
        found = tl.where(some, top + tl.log2(total), float("-inf"))
        tl.store(partial_lse + to, found, mask=named)
