"""What ``window_attention`` can choose, to be compiled without a GPU."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product, starmap
from typing import Final

import torch

from memoserve_kernels.aot import AotCase
from memoserve_kernels.triton_pages import padded
from memoserve_kernels.triton_window import constants
from memoserve_kernels.triton_window_kernel import window_kernel
from memoserve_kernels.window_tiles import WindowTiles, choose_tiles, takes_descriptors

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
    """Every choice for head dims 64, 96, 128 and 256."""
    return [_case(choice, arch) for choice in _choices(arch)]


def _choices(arch: int) -> Iterator[_Choice]:
    dtypes = (torch.bfloat16, torch.float16, torch.float32)
    memories = [None, torch.int8] + [torch.float8_e4m3fn] * (arch >= 89)
    return starmap(_Choice, product(dtypes, HEAD_DIMS, memories, [True, False]))


def _case(choice: _Choice, arch: int) -> AotCase:
    dtype, memory = _NAMES[choice.dtype], _NAMES[choice.memory_dtype or choice.dtype]
    sizes = choose_tiles(choice.dtype, choice.head_dim, arch, choice.memory_dtype)
    described = choice.whole and takes_descriptors(
        choice.dtype, choice.head_dim, arch, choice.memory_dtype
    )
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
        expects=_expects(choice, sizes, arch, described),
        labels={
            "op": "window_attention",
            "dtype": dtype,
            "head_dim": str(choice.head_dim),
            "memory": memory,
        },
    )


def _expects(choice: _Choice, sizes: WindowTiles, arch: int, described: bool) -> tuple[str, ...]:
    if arch >= 100:
        return ()
    ahead = ("async_copy",) if sizes.num_stages > 1 else ()
    loads = ("tma",) if described else ("wide_loads", *ahead)
    if choice.dtype == torch.float32:
        return loads
    return (*loads, "wgmma" if arch == 90 else "mma")
