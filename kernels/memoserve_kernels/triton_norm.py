"""Norms and the gate of the MLP, each one pass over memory.

Sums in float32; rounded where the reference rounds, so that a 16-bit result is the same.
"""

from typing import Final

import triton
import triton.language as tl
from torch import Tensor

from memoserve_kernels.aot import AotCase

# A row is held in the registers of one program, 16 numbers a thread; wider ones would spill.
MAX_WIDTH: Final = 16384
# Numbers of a tile: of one wide row or of many narrow ones.
TILE: Final = 1024
GATE_WARPS: Final = 4
QWEN2_7B_GATE: Final = 18944


@triton.jit(do_not_specialize=("num_rows",))
def _norm_kernel(
    x: tl.tensor,
    residual: tl.tensor,
    weight: tl.tensor,
    normed: tl.tensor,
    total: tl.tensor,
    x_row: tl.tensor,
    residual_row: tl.tensor,
    num_rows: tl.tensor,
    eps: tl.tensor,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
    ROWS: tl.constexpr,
    ADDS: tl.constexpr,
) -> None:
    """``ROWS`` rows; ``ADDS``: of ``residual + x``, which goes to ``total``."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    at = tl.arange(0, BLOCK)[None, :]
    mask = (row < num_rows) & (at < WIDTH)
    kept = normed.dtype.element_ty
    wide = tl.load(x + row * x_row + at, mask=mask, other=0.0).to(tl.float32)
    if ADDS:
        wide += tl.load(residual + row * residual_row + at, mask=mask, other=0.0).to(tl.float32)
        summed = wide.to(kept)
        tl.store(total + row * WIDTH + at, summed, mask=mask)
        wide = summed.to(tl.float32)
    mean = tl.sum(wide * wide, axis=1)[:, None] / WIDTH
    rounded = (wide * tl.rsqrt(mean + eps)).to(kept).to(tl.float32)
    weights = tl.load(weight + at, mask=at < WIDTH, other=0.0).to(tl.float32)
    tl.store(normed + row * WIDTH + at, (weights * rounded).to(kept), mask=mask)


@triton.jit(do_not_specialize=("num_rows",))
def _gate_kernel(
    gate: tl.tensor,
    up: tl.tensor,
    out: tl.tensor,
    gate_row: tl.tensor,
    up_row: tl.tensor,
    num_rows: tl.tensor,
    width: tl.tensor,
    BLOCK: tl.constexpr,
    ROWS: tl.constexpr,
) -> None:
    """``BLOCK`` columns of ``ROWS`` rows."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)[None, :]
    mask = (row < num_rows) & (at < width)
    kept = out.dtype.element_ty
    x = tl.load(gate + row * gate_row + at, mask=mask, other=0.0).to(tl.float32)
    # exp of what is never positive: no overflow on the way.
    small = tl.exp(-tl.abs(x))
    silu = x * tl.where(x >= 0, 1.0, small) / (1.0 + small)
    ups = tl.load(up + row * up_row + at, mask=mask, other=0.0).to(tl.float32)
    product = silu.to(kept).to(tl.float32) * ups
    tl.store(out + row * width + at, product.to(kept), mask=mask)


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """As ``reference.rms_norm``, for x and weight of one type, up to ``MAX_WIDTH`` wide."""
    rows = _as_rows(x)
    normed = x.new_empty(x.shape)
    # Nothing is added: rows and normed only stand where the kernel takes a pointer.
    _launch_norm(rows, rows, weight, normed, normed, eps, adds=False)
    return normed


def add_rms_norm(x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """As ``reference.add_rms_norm``, for arguments of one type, up to ``MAX_WIDTH`` wide."""
    normed, total = x.new_empty(x.shape), x.new_empty(x.shape)
    _launch_norm(_as_rows(x), _as_rows(residual), weight, normed, total, eps, adds=True)
    return normed, total


def _as_rows(x: Tensor) -> Tensor:
    """``[..., W]`` as ``[N, W]`` with W contiguous: a view of it wherever one exists."""
    return (x if x.stride(-1) == 1 else x.contiguous()).reshape(-1, x.shape[-1])


def _launch_norm(
    x: Tensor,
    residual: Tensor,
    weight: Tensor,
    normed: Tensor,
    total: Tensor,
    eps: float,
    *,
    adds: bool,
) -> None:
    if not x.dtype == residual.dtype == weight.dtype:
        raise ValueError(f"one type, not {x.dtype}, {residual.dtype} and {weight.dtype}")
    if x.shape[1] > MAX_WIDTH:
        raise ValueError(f"a norm over {x.shape[1]}: at most {MAX_WIDTH}")
    sizes, num_warps = _norm_sizes(x.shape[1], adds)
    _norm_kernel[(triton.cdiv(x.shape[0], sizes["ROWS"]),)](
        x,
        residual,
        weight.contiguous(),
        normed,
        total,
        x.stride(0),
        residual.stride(0),
        x.shape[0],
        eps,
        **sizes,
        num_warps=num_warps,
    )


def _norm_sizes(width: int, adds: bool) -> tuple[dict[str, int], int]:
    """Compile-time sizes and warps: 16 numbers a thread."""
    block = triton.next_power_of_2(width)
    sizes = {"WIDTH": width, "BLOCK": block, "ROWS": max(TILE // block, 1), "ADDS": int(adds)}
    return sizes, max(block, TILE) // 512


def _gate_sizes(width: int) -> dict[str, int]:
    """Compile-time sizes."""
    block = min(triton.next_power_of_2(width), TILE)
    return {"BLOCK": block, "ROWS": TILE // block}


def silu_mul(gate: Tensor, up: Tensor) -> Tensor:
    """As ``reference.silu_mul``, for arguments of one type; halves of one product are taken."""
    if gate.dtype != up.dtype:
        raise ValueError(f"one type, not {gate.dtype} and {up.dtype}")
    out = gate.new_empty(gate.shape)
    gates, ups = _as_rows(gate), _as_rows(up)
    rows, width = gates.shape
    sizes = _gate_sizes(width)
    _gate_kernel[(triton.cdiv(rows, sizes["ROWS"]), triton.cdiv(width, sizes["BLOCK"]))](
        gates,
        ups,
        out,
        gates.stride(0),
        ups.stride(0),
        rows,
        width,
        **sizes,
        num_warps=GATE_WARPS,
    )
    return out


def _norm_case(name: str, width: int, adds: bool) -> AotCase:
    sizes, num_warps = _norm_sizes(width, adds)
    pointers = ("x", "residual", "weight", "normed", "total")
    strides = ("x_row", "residual_row")
    kind = "add_rms_norm" if adds else "rms_norm"
    return AotCase(
        name=f"{kind}-{name}-w{width}",
        kernel=_norm_kernel,
        signature={
            **dict.fromkeys(pointers, f"*{name}"),
            **dict.fromkeys(strides, "i32"),
            **{"num_rows": "i32", "eps": "fp32"},
            **dict.fromkeys(sizes, "constexpr"),
        },
        constexprs=sizes,
        aligned=(*pointers, *strides),
        num_warps=num_warps,
        expects=("wide_loads",),
        labels={"op": kind, "dtype": name, "width": str(width)},
    )


def _gate_case(name: str) -> AotCase:
    pointers, aligned = ("gate", "up", "out"), ("gate_row", "up_row", "width")
    sizes = _gate_sizes(QWEN2_7B_GATE)
    return AotCase(
        name=f"silu_mul-{name}",
        kernel=_gate_kernel,
        signature={
            **dict.fromkeys(pointers, f"*{name}"),
            **dict.fromkeys((*aligned, "num_rows"), "i32"),
            **dict.fromkeys(sizes, "constexpr"),
        },
        constexprs=sizes,
        aligned=(*pointers, *aligned),
        num_warps=GATE_WARPS,
        expects=("wide_loads",),
        labels={"op": "silu_mul", "dtype": name},
    )


def aot_cases(arch: int) -> list[AotCase]:
    """A narrow width, Qwen2-7B's and the widest, its gate. The same on every chip."""
    names = ("bf16", "fp16", "fp32")
    norms = [
        _norm_case(name, width, adds)
        for name in names
        for width in (64, 3584, MAX_WIDTH)
        for adds in (False, True)
    ]
    return [*norms, *map(_gate_case, names)]
