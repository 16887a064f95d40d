"""What the attention kernels share: tiles of keys through a page table, and the online softmax.

A pool ``[2, P, K, S, D]`` is a list of rows of D numbers: row ``((part * P + page) * K + head) * S
+ slot``. Scales ``[2, P, K, S]`` of 8-bit pages have the same row numbers. A tile's rows are an
``origin`` (int64, one number) plus ``offsets [BLOCK_N]``; the row of a value is that of its key
plus P*K*S. Where the page size is a multiple of BLOCK_N (``WHOLE``) a tile starts at a multiple of
BLOCK_N and is one run of rows. ``MASKED``: only keys before ``end`` belong to the tile.

Scores live in the domain of exp2: ``scale_log2`` is the scale times log2(e), and ``top`` the
running maximum of scaled scores. It starts at ``LOWEST``, which is finite, so that a row that has
seen nothing yet is never subtracted infinity from infinity.
"""

import math
from functools import cache
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from memoserve_kernels.layout import MemoryPages

LOG2_E = math.log2(math.e)
LN_2 = tl.constexpr(0.6931471805599453)
LOWEST = tl.constexpr(-1.0e38)

MAX_HEAD_DIM = 256
_TYPES = (torch.float32, torch.bfloat16, torch.float16)


@cache
def compute_capability(device: torch.device) -> int:
    """90 for 9.0; 80 in the interpreter, whose device is a CPU."""
    if device.type != "cuda":
        return 80
    major, minor = torch.cuda.get_device_capability(device)
    return int(major * 10 + minor)


def padded(head_dim: int) -> int:
    """Width of a tile that holds a head dim: a power of two, at least 16."""
    return max(16, 1 << (head_dim - 1).bit_length())


def can_describe(pool: Tensor) -> bool:
    """Whether a tensor descriptor takes ``pool [2, P, K, S, D]`` as rows of D numbers."""
    aligned = pool.data_ptr() % 16 == 0 and pool.shape[-1] * pool.itemsize % 16 == 0
    return aligned and pool.numel() // pool.shape[-1] < 2**31


def check_attention(
    q: Tensor, kv: Tensor, scale: float, memory: MemoryPages | None, out: Tensor, lse: Tensor | None
) -> None:
    """Refuse, with ValueError, what the attention kernels do not take."""
    if q.dtype not in _TYPES or not q.dtype == kv.dtype == out.dtype:
        raise ValueError(
            f"q, kv and out in one type of 16 or 32 bits, not {q.dtype}, {kv.dtype}, {out.dtype}"
        )
    if not 0 < q.shape[2] <= MAX_HEAD_DIM:
        raise ValueError(f"head dim {q.shape[2]}: at most {MAX_HEAD_DIM}")
    if not scale > 0:
        raise ValueError(f"scale {scale}: the maximum of scaled scores wants it positive")
    if not _rows_are_whole(q) or not _rows_are_whole(out):
        raise ValueError("the heads of a row of q and out must lie side by side")
    if not kv.is_contiguous() or not (lse is None or lse.is_contiguous()):
        raise ValueError("kv and lse must be contiguous")
    if lse is not None and lse.dtype != torch.float32:
        raise ValueError(f"lse in float32, not {lse.dtype}")
    if memory is not None:
        check_memory(memory, q.device)


def _rows_are_whole(x: Tensor) -> bool:
    return x.stride(2) == 1 and (x.shape[1] == 1 or x.stride(1) == x.shape[2])


def check_memory(memory: MemoryPages, device: torch.device) -> None:
    """Refuse, with ValueError, 8-bit pages that a kernel on this device would read wrongly."""
    if not memory.data.is_contiguous() or not memory.scales.is_contiguous():
        raise ValueError("memory pages and their scales must be contiguous")
    if memory.data.dtype == torch.int8:
        return
    if memory.data.dtype != torch.float8_e4m3fn:
        raise ValueError(f"memory in int8 or float8_e4m3fn, not {memory.data.dtype}")
    if device.type != "cuda":
        raise ValueError("float8_e4m3fn: Triton's interpreter casts it wrongly")
    if compute_capability(device) < 89:
        raise ValueError("float8_e4m3fn wants compute capability 8.9 or newer")


@triton.jit
def tile_rows(
    table: tl.tensor,
    first: tl.tensor,
    end: tl.tensor,
    head: tl.tensor,
    num_heads: tl.tensor,
    page_size: tl.tensor,
    BLOCK_N: tl.constexpr,
    WHOLE: tl.constexpr,
    MASKED: tl.constexpr,
) -> Any:
    """Rows of keys ``[first, first + BLOCK_N)`` of a page table: an origin and offsets.

    ``table`` points at the int32 pages of one sequence. Rows of keys at or past ``end`` are
    nobody's where ``MASKED``, and are not to be read.
    """
    lanes = tl.arange(0, BLOCK_N)
    if WHOLE:
        page = tl.load(table + first // page_size).to(tl.int64)
        origin = (page * num_heads + head) * page_size + first % page_size
        offsets = lanes
    else:
        keys = first + lanes
        if MASKED:
            pages = tl.load(table + keys // page_size, mask=keys < end, other=0).to(tl.int64)
        else:
            pages = tl.load(table + keys // page_size).to(tl.int64)
        origin = tl.full((), 0, tl.int64)
        offsets = (pages * num_heads + head) * page_size + keys % page_size
    return origin, offsets


@triton.jit
def load_tile(
    data: tl.tensor,
    origin: tl.tensor,
    offsets: tl.tensor,
    valid: tl.tensor,
    HEAD_DIM: tl.constexpr,
    BLOCK_D: tl.constexpr,
    MASKED: tl.constexpr,
) -> Any:
    """Rows of ``data`` as ``[BLOCK_N, BLOCK_D]``; zero past HEAD_DIM and where not ``valid``.

    ``valid [BLOCK_N]`` counts where ``MASKED``: zeros, because what no sequence owns may hold NaN
    and a weight of zero would not silence it.
    """
    dims = tl.arange(0, BLOCK_D)
    pointers = data + origin * HEAD_DIM + (offsets[:, None] * HEAD_DIM + dims[None, :])
    if MASKED and HEAD_DIM == BLOCK_D:
        tile = tl.load(pointers, mask=valid[:, None], other=0.0)
    elif MASKED:
        tile = tl.load(pointers, mask=valid[:, None] & (dims < HEAD_DIM)[None, :], other=0.0)
    elif HEAD_DIM != BLOCK_D:
        tile = tl.load(pointers, mask=(dims < HEAD_DIM)[None, :], other=0.0)
    else:
        tile = tl.load(pointers)
    return tile


@triton.jit
def load_scales(
    scales: tl.tensor,
    origin: tl.tensor,
    offsets: tl.tensor,
    valid: tl.tensor,
    MASKED: tl.constexpr,
) -> Any:
    """Scales ``[BLOCK_N]`` of 8-bit rows; one where not ``valid``."""
    if MASKED:
        found = tl.load(scales + origin + offsets, mask=valid, other=1.0)
    else:
        found = tl.load(scales + origin + offsets)
    return found


@triton.jit
def softmax_tile(
    q: tl.tensor,
    keys: tl.tensor,
    values: tl.tensor,
    key_scales: tl.tensor,
    value_scales: tl.tensor,
    seen: tl.tensor,
    state: tl.tuple,
    scale_log2: tl.tensor,
    MASKED: tl.constexpr,
) -> Any:
    """Take one tile of keys into the running softmax of ``q [BLOCK_M, BLOCK_D]``.

    Online softmax (arXiv 1805.02867; 2205.14135, algorithm 1): ``state`` is ``acc [BLOCK_M,
    BLOCK_D]``, ``total`` and ``top [BLOCK_M]`` in float32, returned anew. Of ``keys`` and ``values
    [BLOCK_N, BLOCK_D]`` row m takes those where ``seen`` (which broadcasts to ``[BLOCK_M,
    BLOCK_N]``) is true; all of them unless ``MASKED``. 8-bit rows (scales not None) are exact in
    the type of q. A key's scale multiplies its column of scores and a value's its column of
    weights: BLOCK_M * BLOCK_N products instead of BLOCK_N * BLOCK_D in the type of q, and as
    exact, for scales are powers of two.
    """
    acc, total, top = state
    scores = tl.dot(q, tl.trans(keys.to(q.dtype)), input_precision="ieee")
    if key_scales is not None:
        scores = scores * key_scales[None, :]
    if MASKED:
        scores = tl.where(seen, scores, float("-inf"))
    highest = tl.maximum(top, tl.max(scores, 1) * scale_log2)
    weights = tl.exp2(scores * scale_log2 - highest[:, None])
    fade = tl.exp2(top - highest)
    total = total * fade + tl.sum(weights, 1)
    if value_scales is not None:
        weights = weights * value_scales[None, :]
    acc = acc * fade[:, None]
    acc = tl.dot(weights.to(q.dtype), values.to(q.dtype), acc, input_precision="ieee")
    return acc, total, highest
