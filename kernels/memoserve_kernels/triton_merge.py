"""Partial results of a query row become one, weighted by their log-sum-exps, in Triton."""

from typing import Final

import triton
import triton.language as tl
from torch import Tensor

from memoserve_kernels.aot import AotCase
from memoserve_kernels.decode_tables import DecodeTables
from memoserve_kernels.triton_pages import LN_2, LOWEST, padded

# Partial results taken at once: independent loads in flight.
BLOCK_S: Final = 16
_WARPS: Final = 4


@triton.jit(do_not_specialize_on_alignment=("row_slots", "lse"))
def merge_kernel(
    partial: tl.tensor,
    partial_lse: tl.tensor,
    row_slots: tl.tensor,
    out: tl.tensor,
    lse: tl.tensor,
    out_stride: tl.tensor,
    HEAD_DIM: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_S: tl.constexpr,
) -> None:
    """Query row ``program_id(0)``, head ``program_id(1)``; rows without a slot stay as they are.

    ``sum_i 2^(lse_i - lse) o_i`` with ``lse = log2 sum_i 2^(lse_i)`` (arXiv 2402.05099, eq. 6, in
    base 2). A partial result whose log-sum-exp is minus infinity saw no key and weighs nothing.
    """
    row = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1)
    heads = tl.num_programs(1)
    first = tl.load(row_slots + row)
    last = tl.load(row_slots + row + 1)
    if first < last:
        lanes = tl.arange(0, BLOCK_S)
        dims = tl.arange(0, BLOCK_D)
        inside = dims < HEAD_DIM
        top = tl.full((), LOWEST, tl.float32)
        total = tl.full((), 0.0, tl.float32)
        acc = tl.zeros([BLOCK_D], tl.float32)
        for begin in tl.range(first, last, BLOCK_S):
            slots = begin + lanes
            named = slots < last
            at = slots.to(tl.int64) * heads + head
            found = tl.load(partial_lse + at, mask=named, other=float("-inf"))
            results = tl.load(
                partial + at[:, None] * HEAD_DIM + dims[None, :],
                mask=named[:, None] & inside[None, :],
                other=0.0,
            )
            highest = tl.maximum(top, tl.max(found, 0))
            weights = tl.exp2(found - highest)
            fade = tl.exp2(top - highest)
            total = total * fade + tl.sum(weights, 0)
            acc = acc * fade + tl.sum(results * weights[:, None], 0)
            top = highest
        offset = row * out_stride + head * HEAD_DIM
        tl.store(out + offset + dims, (acc / total).to(out.dtype.element_ty), mask=inside)
        if lse is not None:
            tl.store(lse + row * heads + head, (top + tl.log2(total)) * LN_2)


def merge(tables: DecodeTables, out: Tensor, lse: Tensor | None) -> None:
    """Write ``out [N, H, D]`` and ``lse [N, H]`` (natural log) from partial results; one launch."""
    dim = tables.shape.head_dim
    merge_kernel[(tables.capacity.rows, tables.shape.heads)](
        tables.partial,
        tables.partial_lse,
        tables.row_slots,
        out,
        lse,
        out.stride(0),
        HEAD_DIM=dim,
        BLOCK_D=padded(dim),
        BLOCK_S=BLOCK_S,
        num_warps=_WARPS,
    )


def aot_cases(arch: int) -> list[AotCase]:
    """Every type and tuned head dim, with and without the log-sum-exp; alike on all chips."""
    return [
        _case(name, head_dim, with_lse)
        for name in ("bf16", "fp16", "fp32")
        for head_dim in (64, 96, 128, 256)
        for with_lse in (False, True)
    ]


def _case(name: str, head_dim: int, with_lse: bool) -> AotCase:
    constants = {"HEAD_DIM": head_dim, "BLOCK_D": padded(head_dim), "BLOCK_S": BLOCK_S}
    signature = {
        "partial": "*fp32",
        "partial_lse": "*fp32",
        "row_slots": "*i32",
        "out": f"*{name}",
        "lse": "*fp32" if with_lse else "constexpr",
        "out_stride": "i32",
    }
    return AotCase(
        name=f"merge_{name}_d{head_dim}{'_lse' if with_lse else ''}",
        kernel=merge_kernel,
        signature=signature | dict.fromkeys(constants, "constexpr"),
        constexprs=constants | ({} if with_lse else {"lse": None}),
        aligned=("partial", "partial_lse", "out", "out_stride"),
        num_warps=_WARPS,
        expects=("wide_loads",),
        labels={"op": "paged_decode", "dtype": name, "head_dim": str(head_dim)},
    )
