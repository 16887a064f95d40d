"""Kernels that are no part of the house: what `tools.aot` must see, it is shown here."""

import os

import triton
import triton.language as tl

from memoserve_kernels.aot import AotCase


@triton.jit
def softmax_row(x: tl.tensor, y: tl.tensor, count: tl.tensor, BLOCK: tl.constexpr) -> None:
    """One row: all of it is held in registers between the reduction and the store."""
    lanes = tl.arange(0, BLOCK)
    seen = lanes < count
    value = tl.load(x + lanes, mask=seen, other=-float("inf")).to(tl.float32)
    power = tl.exp(value - tl.max(value, 0))
    tl.store(y + lanes, (power / tl.sum(power, 0)).to(y.dtype.element_ty), mask=seen)


@triton.jit
def product(x: tl.tensor, y: tl.tensor, BLOCK: tl.constexpr) -> None:
    """``y = x x^T``, 64 rows of BLOCK."""
    rows, lanes = tl.arange(0, 64)[:, None], tl.arange(0, BLOCK)[None, :]
    value = tl.load(x + rows * BLOCK + lanes)
    across = tl.arange(0, 64)[None, :]
    tl.store(y + rows * 64 + across, tl.dot(value, tl.trans(value)))


@triton.jit
def refused(x: tl.tensor, BLOCK: tl.constexpr) -> None:
    """Asks for a tile whose size is no power of two."""
    tl.store(x + tl.arange(0, BLOCK), 0.0)


POINTERS = {"x": "*bf16", "y": "*fp32", "BLOCK": "constexpr"}


def softmax_case(name: str, block: int, **changes: object) -> AotCase:
    """A case of ``softmax_row`` by one warp."""
    fields: dict[str, object] = {
        "signature": {"x": "*fp32", "y": "*fp32", "count": "i32", "BLOCK": "constexpr"},
        "constexprs": {"BLOCK": block},
        "aligned": ("x", "y", "count"),
        "num_warps": 1,
        **changes,
    }
    return AotCase(name, softmax_row, **fields)  # type: ignore[arg-type]


def aot_cases(arch: int) -> list[AotCase]:
    """Those that the variable AOT_TOYS names."""
    wanted = os.environ["AOT_TOYS"].split(",")
    product_case = AotCase(
        "product-bf16-d64",
        product,
        POINTERS,
        {"BLOCK": 64},
        aligned=("x", "y"),
        expects=("wgmma" if arch == 90 else "mma", "wide_loads") if arch < 100 else (),
        labels={"dtype": "bf16", "head_dim": "64"},
    )
    every = [
        softmax_case("good", 1024, expects=("wide_loads",)),
        softmax_case("spilling", 8192),
        softmax_case("unaligned", 1024, aligned=(), expects=("wide_loads",)),
        softmax_case("twice", 1024),
        softmax_case("twice", 2048),
        softmax_case(
            "forgotten", 1024, signature={"x": "*fp32", "y": "*fp32", "BLOCK": "constexpr"}
        ),
        softmax_case("constant", 1024, constexprs={"BLOCK": 1024, "count": 7}),
        softmax_case("stray", 1024, aligned=("x", "BLOCK")),
        AotCase("refused", refused, {"x": "*fp32", "BLOCK": "constexpr"}, {"BLOCK": 1000}),
        product_case,
    ]
    return [case for case in every if case.name in wanted]
