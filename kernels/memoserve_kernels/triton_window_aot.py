"""What ``window_attention`` can choose, to be compiled without a GPU."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Final

import torch

from memoserve_kernels.aot import AotCase
from memoserve_kernels.triton_pages import padded
from memoserve_kernels.triton_window import constants
from memoserve_kernels.triton_window_kernel import window_kernel
from memoserve_kernels.window_tiles import choose_tiles, has_descriptors

HEAD_DIMS: Final = (64, 96, 128, 256)
_NAMES: Final = {
    torch.float32: "fp32",
    torch.bfloat16: "bf16",
    torch.float16: "fp16",
    torch.int8: "i8",
    torch.float8_e4m3fn: "fp8e4nv",
}
_POINTERS: Final = ("q", "out", "kv", "memory", "memory_scales")
_INTEGERS: Final = {
    "columns": "*i64",
    "limits": "*i64",
    "starts": "*i64",
    "tiles": "*i32",
    "pages": "*i32",
    "lse": "*fp32",
    "scale": "fp32",
}


@dataclass(frozen=True)
class _Choice:
    """One compilation: the types, and whether tiles of keys lie in one piece of a page."""

    dtype: torch.dtype
    head_dim: int
    memory_dtype: torch.dtype | None
    whole: bool


def aot_cases(arch: int) -> list[AotCase]:
    """Every choice for head dims 64, 96, 128 and 256.

    Left out are choices that differ from one of these in a type alone (float16 and float32 beside
    8-bit memories or pages that tiles do not divide). float32 beyond 128 spills at every size.
    """
    return [_case(choice, arch) for choice in _choices(arch)]


def _choices(arch: int) -> Iterator[_Choice]:
    eight_bits = [torch.int8] + [torch.float8_e4m3fn] * (arch >= 89)
    for head_dim, memory, whole in product(HEAD_DIMS, [None, *eight_bits], [True, False]):
        yield _Choice(torch.bfloat16, head_dim, memory, whole)
    for head_dim in HEAD_DIMS:
        yield _Choice(torch.float16, head_dim, None, True)
    for head_dim in HEAD_DIMS:
        yield _Choice(torch.float32, head_dim, None, True)


def _case(choice: _Choice, arch: int) -> AotCase:
    dtype, memory = _NAMES[choice.dtype], _NAMES[choice.memory_dtype or choice.dtype]
    sizes = choose_tiles(choice.dtype, choice.head_dim, arch, choice.memory_dtype)
    described = choice.whole and has_descriptors(arch)
    fixed: dict[str, int | bool | None] = {**constants(choice.head_dim, sizes, choice.whole)}
    types = {**_INTEGERS, **{name: f"*{dtype}" for name in ("q", "out", "kv")}}
    types |= {"memory": f"*{memory}", "memory_scales": "*fp32"}
    if choice.memory_dtype is None:
        fixed["memory_scales"] = None
    block = f"[{sizes.block_n}, {padded(choice.head_dim)}]"
    if described:
        types["kv_described"] = f"tensordesc<{dtype}{block}>"
        types["memory_described"] = f"tensordesc<{memory}{block}>"
    else:
        fixed |= {"kv_described": None, "memory_described": None}
    names = window_kernel.arg_names
    pointers = [name for name in _POINTERS if name not in fixed]
    return AotCase(
        name=f"window-{dtype}-d{choice.head_dim}-memory-{memory}{'' if choice.whole else '-apart'}",
        kernel=window_kernel,
        signature={n: "constexpr" if n in fixed else types.get(n, "i32") for n in names},
        constexprs=fixed,
        aligned=(*pointers, "q_stride", "out_stride"),
        num_warps=sizes.num_warps,
        num_stages=sizes.num_stages,
        expects=_expects(choice, arch, described),
        may_spill=choice.dtype == torch.float32 and choice.head_dim > 128,
        labels={
            "op": "window_attention",
            "dtype": dtype,
            "head_dim": str(choice.head_dim),
            "memory": memory,
        },
    )


def _expects(choice: _Choice, arch: int, described: bool) -> tuple[str, ...]:
    if arch >= 100:
        return ()
    loads = ("tma",) if described else ("wide_loads", "async_copy")
    if choice.dtype == torch.float32:
        return loads
    return (*loads, "wgmma" if arch == 90 else "mma")
