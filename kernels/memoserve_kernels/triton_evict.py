"""The KV eviction: surviving rows of closed windows move to their memory slots, in one launch.

All layers and heads of all sequences at once. A key turns by new minus old position, in float32,
as in ``triton_rope``; a value moves as it is. Where the memory is kept in 8 bits a row is rounded
on the way by the rule of ``eight_bits.quantise``: its largest number picks the smallest power of
two that fits, exactly, by its exponent and mantissa bits.
"""

from typing import Final

import torch
import triton
import triton.language as tl
from torch import Tensor

from memoserve_kernels.aot import AotCase
from memoserve_kernels.eight_bits import SMALLEST_EXPONENT
from memoserve_kernels.layout import MemoryPages, Rotation
from memoserve_kernels.triton_pages import check_memory
from memoserve_kernels.triton_rope import cos_sin, turned

SMALLEST = tl.constexpr(SMALLEST_EXPONENT)
# Largest of a row is mantissa * 2^exponent with the mantissa in [1, 2). It fits into 8 bits when
# divided by 2^(exponent - 6) in int8 (127 = 1.984375 * 2^6), by 2^(exponent - 8) in float8_e4m3fn
# (448 = 1.75 * 2^8), or by twice that where the mantissa is above that of the limit.
FITS: Final = {torch.int8: (6, 0x7E0000), torch.float8_e4m3fn: (8, 0x600000)}
EIGHT_BITS: Final = {"i8": torch.int8, "fp8e4nv": torch.float8_e4m3fn}
# Added and subtracted, leaves the nearest integer, ties to even, of up to 2^22.
ROUNDER = tl.constexpr(12582912.0)
# The angles of a move are computed once for its heads.
NUM_WARPS: Final = 1
HEADS_AT_ONCE: Final = 16


@triton.jit
def _powers(
    first: tl.tensor, second: tl.tensor, SHIFT: tl.constexpr, LIMIT_MANTISSA: tl.constexpr
) -> tl.tuple:
    """Scales ``[BLOCK_K, 1]`` of rows given in halves, and what to multiply the rows by.

    Compares bit patterns, whose order is that of the sizes, with infinity and NaN on top.
    """
    sizes = tl.maximum(
        first.to(tl.int32, bitcast=True) & 0x7FFFFFFF,
        second.to(tl.int32, bitcast=True) & 0x7FFFFFFF,
    )
    largest = tl.max(sizes, axis=1)[:, None]
    exponent = (largest >> 23) - 127 - SHIFT + tl.where((largest & 0x7FFFFF) > LIMIT_MANTISSA, 1, 0)
    exponent = tl.maximum(exponent, SMALLEST)
    exponent = tl.where(largest == 0, 0, exponent)
    scale = ((exponent + 127) << 23).to(tl.float32, bitcast=True)
    inverse = ((127 - exponent) << 23).to(tl.float32, bitcast=True)
    # A row that is not finite stays so: nothing may take it for a memory.
    return tl.where(largest >= 0x7F800000, float("nan"), scale), inverse


@triton.jit
def _rounded(x: tl.tensor, INTEGERS: tl.constexpr) -> tl.tensor:
    """Scaled numbers as 8-bit storage sees them: integers, ties to even, or floats as they are."""
    if INTEGERS:
        return (x + ROUNDER) - ROUNDER
    else:
        return x


# Rows are whole 16 bytes whatever these are: one compilation for all sizes of pages and pools, and
# for moves that are a part of one upload, at any place.
_COUNTS: Final = ("num_pages", "page_size", "target_pages", "target_page_size")
_MOVES: Final = ("sources", "targets", "deltas")


@triton.jit(do_not_specialize=_COUNTS, do_not_specialize_on_alignment=_MOVES)
def _evict_kernel(
    kv: tl.tensor,
    data: tl.tensor,
    scales: tl.tensor,
    sources: tl.tensor,
    targets: tl.tensor,
    deltas: tl.tensor,
    inv_freq: tl.tensor,
    factor: tl.tensor,
    num_pages: tl.tensor,
    page_size: tl.tensor,
    target_pages: tl.tensor,
    target_page_size: tl.tensor,
    NUM_KV_HEADS: tl.constexpr,
    HALF: tl.constexpr,
    BLOCK_HALF: tl.constexpr,
    BLOCK_K: tl.constexpr,
    SHIFT: tl.constexpr,
    LIMIT_MANTISSA: tl.constexpr,
    INTEGERS: tl.constexpr,
) -> None:
    """One move in one layer, all kv heads. ``SHIFT`` 0: ``data`` is of the type of ``kv``."""
    move, layer = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64)
    source, target = tl.load(sources + move).to(tl.int64), tl.load(targets + move).to(tl.int64)
    pair = tl.arange(0, BLOCK_HALF)[None, :]
    in_dim = pair < HALF
    delta = tl.load(deltas + move).to(tl.float32)
    cos, sin = cos_sin(delta * tl.load(inv_freq + pair, mask=in_dim, other=0.0))
    cos, sin = cos * factor, sin * factor
    for start in tl.static_range(0, NUM_KV_HEADS, BLOCK_K):
        head = start + tl.arange(0, BLOCK_K)[:, None]
        in_heads = head < NUM_KV_HEADS
        mask = in_dim & in_heads & (target >= 0)
        for part in tl.static_range(2):
            page = (layer * 2 + part) * num_pages + source // page_size
            row = (page * NUM_KV_HEADS + head) * page_size + source % page_size
            at = kv + row * (2 * HALF) + pair
            first = tl.load(at, mask=mask, other=0.0).to(tl.float32)
            second = tl.load(at + HALF, mask=mask, other=0.0).to(tl.float32)
            if part == 0:
                first, second = turned(first, second, cos, sin)
            page = (layer * 2 + part) * target_pages + target // target_page_size
            row = (page * NUM_KV_HEADS + head) * target_page_size + target % target_page_size
            if SHIFT > 0:
                scale, inverse = _powers(first, second, SHIFT, LIMIT_MANTISSA)
                first = _rounded(first * inverse, INTEGERS)
                second = _rounded(second * inverse, INTEGERS)
                tl.store(scales + row, scale, mask=in_heads & (target >= 0))
            to = data + row * (2 * HALF) + pair
            tl.store(to, first.to(data.dtype.element_ty), mask=mask)
            tl.store(to + HALF, second.to(data.dtype.element_ty), mask=mask)


def evict_window(
    kv: Tensor, sources: Tensor, targets: Tensor, rotation: Rotation, memory: MemoryPages | None
) -> None:
    """As ``reference.evict_window``; 8-bit keys are rounded once, from float32.

    No target may be the source of another move: moves are done in any order. Raises ValueError
    where this device has no float8_e4m3fn.
    """
    if memory is not None:
        check_memory(memory, kv.device)
    eight_bits = None if memory is None else memory.data.dtype
    data, scales = (kv, kv) if memory is None else (memory.data, memory.scales)
    _evict_kernel[(sources.shape[0], kv.shape[0])](
        kv,
        data,
        scales,
        sources,
        targets,
        rotation.positions,
        rotation.inv_freq,
        rotation.factor,
        kv.shape[2],
        kv.shape[4],
        data.shape[2],
        data.shape[4],
        **_sizes(eight_bits, kv.shape[3], kv.shape[5] // 2),
        num_warps=NUM_WARPS,
    )


def _sizes(eight_bits: torch.dtype | None, num_kv_heads: int, half: int) -> dict[str, int]:
    """Compile-time sizes."""
    shift, fits = (0, 0) if eight_bits is None else FITS[eight_bits]
    return {
        "NUM_KV_HEADS": num_kv_heads,
        "HALF": half,
        "BLOCK_HALF": triton.next_power_of_2(half),
        "BLOCK_K": min(triton.next_power_of_2(num_kv_heads), HEADS_AT_ONCE),
        "SHIFT": shift,
        "LIMIT_MANTISSA": fits,
        "INTEGERS": int(eight_bits == torch.int8),
    }


def _case(name: str, to: str, head_dim: int) -> AotCase:
    sizes = _sizes(EIGHT_BITS.get(to), 4, head_dim // 2)
    return AotCase(
        name=f"evict_window-{name}-{to}-d{head_dim}",
        kernel=_evict_kernel,
        signature={
            "kv": f"*{name}",
            "data": f"*{to}",
            "scales": "*fp32" if to in EIGHT_BITS else f"*{name}",
            **dict.fromkeys(_MOVES, "*i64"),
            **{"inv_freq": "*fp32", "factor": "fp32"},
            **dict.fromkeys(_COUNTS, "i32"),
            **dict.fromkeys(sizes, "constexpr"),
        },
        constexprs=sizes,
        aligned=("kv", "data", "scales", "inv_freq"),
        num_warps=NUM_WARPS,
        # Four heads of 64 in 16 bits are no more than 8 bytes a thread.
        expects=("wide_loads",) if head_dim > 64 or name == "fp32" else (),
        labels={"op": "evict_window", "dtype": name, "memory": to, "head_dim": str(head_dim)},
    )


def aot_cases(arch: int) -> list[AotCase]:
    """Each type as it is and to 8 bits at head dims 64, 96, 128 and 256, Qwen2-7B's kv heads."""
    to = ("i8", "fp8e4nv") if arch >= 89 else ("i8",)
    return [
        _case(name, target, head_dim)
        for name in ("bf16", "fp16", "fp32")
        for target in (name, *to)
        for head_dim in (64, 96, 128, 256)
    ]
