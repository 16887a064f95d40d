"""Rotation of queries and keys, and their way into the cache, in one pass over memory.

RoFormer (arXiv 2104.09864), eq. 34, with half-split pairs ``(i, i + D/2)``. The angle of a pair is
the float32 product of an integer position and a frequency, as everywhere; its cosine and sine are
computed here, in the kernel, so that nothing stale can be replayed with a captured graph and no
table is read. Positions reach millions, where the library's cosine walks a slow path through local
memory: instead the angle is taken to its quarter turn in float64 (four operations a pair, exact to
1e-9 of a radian up to a billion) and finished by float32 polynomials, to 1e-7.
"""

import triton
import triton.language as tl
from torch import Tensor

from memoserve_kernels.aot import AotCase
from memoserve_kernels.layout import Rotation

TWO_OVER_PI = tl.constexpr(0.6366197723675814)
HALF_PI = tl.constexpr(1.5707963267948966)
HEADS_AT_ONCE = 32
# Pairs of a tile: of one row with many heads, or of several small rows.
TILE = 256


@triton.jit
def cos_sin(angle: tl.tensor) -> tl.tuple:
    """Cosine and sine of float32 angles of any size below 2^31 quarter turns."""
    wide = angle.to(tl.float64)
    quarters = tl.floor(wide * TWO_OVER_PI + 0.5)
    x = (wide - quarters * HALF_PI).to(tl.float32)
    z = x * x
    # Taylor's series: for |x| <= pi/4 the first terms left out are below 2e-9 and 3e-8.
    sine = x + x * z * (-1 / 6 + z * (1 / 120 + z * (-1 / 5040 + z * (1 / 362880))))
    cosine = 1.0 - 0.5 * z + z * z * (1 / 24 + z * (-1 / 720 + z * (1 / 40320)))
    quadrant = quarters.to(tl.int32)
    odd = (quadrant & 1) != 0
    cos = tl.where(odd, sine, cosine)
    sin = tl.where(odd, cosine, sine)
    return (
        tl.where(((quadrant + 1) & 2) != 0, -cos, cos),
        tl.where((quadrant & 2) != 0, -sin, sin),
    )


@triton.jit
def turned(first: tl.tensor, second: tl.tensor, cos: tl.tensor, sin: tl.tensor) -> tl.tuple:
    """Both halves of rotated rows, float32."""
    return first * cos - second * sin, second * cos + first * sin


# Rows are whole 16 bytes whatever these are: one compilation for all sizes of pages and pools, and
# for positions and slots that are a part of one upload, at any place.
_COUNTS = ("num_pages", "page_size", "num_rows")
_PLACES = ("positions", "slots")


@triton.jit(do_not_specialize=_COUNTS, do_not_specialize_on_alignment=_PLACES)
def _rope_kernel(
    q: tl.tensor,
    out: tl.tensor,
    k: tl.tensor,
    v: tl.tensor,
    positions: tl.tensor,
    inv_freq: tl.tensor,
    factor: tl.tensor,
    kv: tl.tensor,
    slots: tl.tensor,
    num_pages: tl.tensor,
    page_size: tl.tensor,
    q_row: tl.tensor,
    q_head: tl.tensor,
    k_row: tl.tensor,
    k_head: tl.tensor,
    v_row: tl.tensor,
    v_head: tl.tensor,
    num_rows: tl.tensor,
    NUM_HEADS: tl.constexpr,
    NUM_KV_HEADS: tl.constexpr,
    HALF: tl.constexpr,
    BLOCK_HALF: tl.constexpr,
    BLOCK_H: tl.constexpr,
    BLOCK_K: tl.constexpr,
    ROWS: tl.constexpr,
) -> None:
    """``ROWS`` rows: ``NUM_HEADS`` of q to ``out``, ``NUM_KV_HEADS`` of k and v to their slots.

    Either count may be 0. Strides in elements; the last axis is contiguous.
    """
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None, None]
    pair = tl.arange(0, BLOCK_HALF)[None, None, :]
    in_rows, in_dim = row < num_rows, pair < HALF
    position = tl.load(positions + row, mask=in_rows, other=0).to(tl.float32)
    cos, sin = cos_sin(position * tl.load(inv_freq + pair, mask=in_dim, other=0.0))
    cos, sin = cos * factor, sin * factor
    for start in tl.static_range(0, NUM_HEADS, BLOCK_H):
        head = start + tl.arange(0, BLOCK_H)[None, :, None]
        mask = in_rows & in_dim & (head < NUM_HEADS)
        at = q + row * q_row + head * q_head + pair
        first = tl.load(at, mask=mask).to(tl.float32)
        second = tl.load(at + HALF, mask=mask).to(tl.float32)
        first, second = turned(first, second, cos, sin)
        to = out + (row * NUM_HEADS + head) * (2 * HALF) + pair
        tl.store(to, first.to(out.dtype.element_ty), mask=mask)
        tl.store(to + HALF, second.to(out.dtype.element_ty), mask=mask)
    if NUM_KV_HEADS > 0:
        slot = tl.load(slots + row, mask=in_rows, other=-1).to(tl.int64)
        page, offset = slot // page_size, slot % page_size
        for start in tl.static_range(0, NUM_KV_HEADS, BLOCK_K):
            head = start + tl.arange(0, BLOCK_K)[None, :, None]
            mask = (slot >= 0) & in_dim & (head < NUM_KV_HEADS)
            at = k + row * k_row + head * k_head + pair
            first = tl.load(at, mask=mask).to(tl.float32)
            second = tl.load(at + HALF, mask=mask).to(tl.float32)
            first, second = turned(first, second, cos, sin)
            to = kv + ((page * NUM_KV_HEADS + head) * page_size + offset) * (2 * HALF) + pair
            tl.store(to, first.to(kv.dtype.element_ty), mask=mask)
            tl.store(to + HALF, second.to(kv.dtype.element_ty), mask=mask)
            at = v + row * v_row + head * v_head + pair
            # The values' pages follow all of the keys' pages.
            page_of_v = page + num_pages
            to = kv + ((page_of_v * NUM_KV_HEADS + head) * page_size + offset) * (2 * HALF) + pair
            tl.store(to, tl.load(at, mask=mask), mask=mask)
            tl.store(to + HALF, tl.load(at + HALF, mask=mask), mask=mask)


def _blocks(num_heads: int, num_kv_heads: int, half: int) -> dict[str, int]:
    """Compile-time sizes; a count of heads may be 0. One row, or more where rows are small."""
    block_half = triton.next_power_of_2(half)
    block_h, block_k = (
        min(triton.next_power_of_2(max(heads, 1)), HEADS_AT_ONCE)
        for heads in (num_heads, num_kv_heads)
    )
    return {
        "NUM_HEADS": num_heads,
        "NUM_KV_HEADS": num_kv_heads,
        "HALF": half,
        "BLOCK_HALF": block_half,
        "BLOCK_H": block_h,
        "BLOCK_K": block_k,
        "ROWS": max(1, TILE // (max(block_h, block_k) * block_half)),
    }


def _num_warps(num_heads: int) -> int:
    """One program turns all heads of a row: few warps, so that few compute the same angles.

    One where there are keys alone, or a thread would load less than 16 bytes at once.
    """
    return 2 if num_heads else 1


def rope_and_append(
    q: Tensor, k: Tensor, v: Tensor, rotation: Rotation, kv: Tensor, slots: Tensor
) -> Tensor:
    """As ``reference.rope_and_append``; q, k and v may be strided views along rows and heads."""
    q, k, v = (_dense_rows(x) for x in (q, k, v))
    out = q.new_empty(q.shape)
    _launch(q, out, k, v, rotation, kv, slots, q.shape[1], k.shape[1])
    return out


def append(k: Tensor, v: Tensor, rotation: Rotation, kv: Tensor, slots: Tensor) -> None:
    """As ``reference.append``."""
    k, v = _dense_rows(k), _dense_rows(v)
    # No head of q is read or written: k and kv only stand where the kernel takes a pointer.
    _launch(k, kv, k, v, rotation, kv, slots, 0, k.shape[1])


def rotate(x: Tensor, rotation: Rotation) -> Tensor:
    """As ``reference.rotate``."""
    x = _dense_rows(x)
    out = x.new_empty(x.shape)
    # No key is read or written: x and out only stand where the kernel takes a pointer.
    _launch(x, out, x, x, rotation, x.new_empty(2, 0, 0, 0, 0), rotation.positions, x.shape[1], 0)
    return out


def _dense_rows(x: Tensor) -> Tensor:
    """``x [N, heads, D]`` with D contiguous: itself, unless it is a view of another order."""
    return x if x.stride(2) == 1 else x.contiguous()


def _launch(
    q: Tensor,
    out: Tensor,
    k: Tensor,
    v: Tensor,
    rotation: Rotation,
    kv: Tensor,
    slots: Tensor,
    num_heads: int,
    num_kv_heads: int,
) -> None:
    rows, sizes = rotation.positions.shape[0], _blocks(num_heads, num_kv_heads, q.shape[2] // 2)
    _rope_kernel[(triton.cdiv(rows, sizes["ROWS"]),)](
        q,
        out,
        k,
        v,
        rotation.positions,
        rotation.inv_freq,
        rotation.factor,
        kv,
        slots,
        kv.shape[1],
        kv.shape[3],
        *(stride for x in (q, k, v) for stride in x.stride()[:2]),
        rows,
        **sizes,
        num_warps=_num_warps(num_heads),
    )


def _case(kind: str, name: str, head_dim: int, num_heads: int, num_kv_heads: int) -> AotCase:
    sizes = _blocks(num_heads, num_kv_heads, head_dim // 2)
    strides = ("q_row", "q_head", "k_row", "k_head", "v_row", "v_head")
    return AotCase(
        name=f"{kind}-{name}-d{head_dim}",
        kernel=_rope_kernel,
        signature={
            **dict.fromkeys(("q", "out", "k", "v", "kv"), f"*{name}"),
            **dict.fromkeys(_PLACES, "*i64"),
            **{"inv_freq": "*fp32", "factor": "fp32"},
            **dict.fromkeys((*strides, *_COUNTS), "i32"),
            **dict.fromkeys(sizes, "constexpr"),
        },
        constexprs=sizes,
        aligned=("q", "out", "k", "v", "kv", "inv_freq", *strides),
        num_warps=_num_warps(num_heads),
        expects=("wide_loads",),
        labels={"op": kind, "dtype": name, "head_dim": str(head_dim)},
    )


def aot_cases(arch: int) -> list[AotCase]:
    """Head dims 64, 96, 128 and 256 at Qwen2-7B's heads. The same on every chip."""
    return [
        _case(kind, name, head_dim, num_heads, num_kv_heads)
        for kind, num_heads, num_kv_heads in (
            ("rope_and_append", 28, 4),
            ("append", 0, 4),
            ("rotate", 28, 0),
        )
        for name in ("bf16", "fp16", "fp32")
        for head_dim in (64, 96, 128, 256)
    ]
