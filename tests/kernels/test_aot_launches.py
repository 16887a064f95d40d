"""What is compiled ahead of time is what is launched: same constants, types and alignment.

The doors are called as a step calls them, with the launches written down instead of run; each
must be one case of ``aot_cases``, whose promises about divisibility hold for its arguments.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from memoserve_kernels.aot import AotCase
from memoserve_kernels.layout import Rotation
from tests.kernels.attention_cases import Shape, Step, make_step

triton = pytest.importorskip("triton")

HEADS, KV_HEADS, DIM = 28, 4, 128
TYPES = {
    torch.bfloat16: "bf16",
    torch.float32: "fp32",
    torch.int8: "i8",
    torch.int32: "i32",
    torch.int64: "i64",
}


@dataclass(frozen=True)
class Launch:
    """Arguments of one launch by name, and the warps and stages it asks for."""

    kernel: Any
    arguments: Mapping[str, Any]
    num_warps: int
    num_stages: int

    def is_case(self, case: AotCase) -> bool:
        """Whether this is the compilation that the case names."""
        if case.kernel is not self.kernel or case.signature.keys() != self.arguments.keys():
            return False
        types = {name: _type(value) for name, value in self.arguments.items()}
        return (
            all(_same(self.arguments[name], value) for name, value in case.constexprs.items())
            and all(t in ("constexpr", types[name]) for name, t in case.signature.items())
            and (case.num_warps, case.num_stages) == (self.num_warps, self.num_stages)
        )

    def unaligned(self, case: AotCase) -> set[str]:
        """Arguments that the case says are divisible by 16, and are not."""
        return {name for name in case.aligned if _place(self.arguments[name]) % 16}


def _same(found: object, wanted: object) -> bool:
    return type(found) is type(wanted) and found == wanted


def _type(value: Any) -> str:
    """Triton's name of an argument's type."""
    if isinstance(value, Tensor):
        return f"*{TYPES[value.dtype]}"
    if isinstance(value, (int, float)):
        integer = "i32" if value != 1 else "a constant"  # as the launcher makes of a one
        return integer if isinstance(value, int) else "fp32"
    if value is None:
        return "none"
    return f"tensordesc<{TYPES[value.base.dtype]}{value.block_shape}>"


def _place(value: Any) -> int:
    return value.data_ptr() if isinstance(value, Tensor) else int(value)


@pytest.fixture
def launches(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Launch]]:
    """What is launched; nothing runs."""
    written: list[Launch] = []

    def select(kernel: Any, grid: object) -> Any:
        def write(*arguments: Any, num_warps: int = 4, num_stages: int = 3, **named: Any) -> None:
            together = {**dict(zip(kernel.arg_names, arguments, strict=False)), **named}
            written.append(Launch(kernel, together, num_warps, num_stages))

        return write

    monkeypatch.setattr(triton.runtime.jit.KernelInterface, "__getitem__", select)
    yield written


def _step(readers: int, page_size: int, memory: bool) -> Step:
    """Readers of one row; few enough rows that the pool stays small."""
    step = make_step(
        [Shape(queries=1, memory=3, before=2)] * readers,
        heads=HEADS,
        kv_heads=KV_HEADS,
        dim=DIM,
        page_size=page_size,
        dtype=torch.bfloat16,
        memory_dtype=torch.int8 if memory else None,
        memory_page_size=page_size,
    )
    return step


def _found(launches: list[Launch], modules: list[str], arch: int) -> list[str]:
    """Names of the cases that the launches are, each exactly one."""
    from tools.aot.build import collect

    cases = [case for _, case in collect([f"memoserve_kernels.{name}" for name in modules], [arch])]
    assert launches
    names = []
    for launch in launches:
        matching = [case for case in cases if launch.is_case(case)]
        types = {name: _type(value) for name, value in launch.arguments.items()}
        assert len(matching) == 1, f"no case, or several: {launch.kernel.fn.__name__} {types}"
        (case,) = matching
        assert launch.unaligned(case) == set(), case.name
        names.append(case.name)
    return names


@pytest.mark.parametrize("arch", [80, 90])
@pytest.mark.parametrize("page_size", [64, 16])
@pytest.mark.parametrize("memory", [False, True])
def test_window_attention(arch: int, page_size: int, memory: bool, launches: list[Launch]) -> None:
    from memoserve_kernels.triton_window import window_attention
    from memoserve_kernels.window_tiles import choose_tiles, has_descriptors

    step = _step(1, page_size, memory)
    sizes = choose_tiles(torch.bfloat16, DIM, arch, torch.int8 if memory else None)
    window_attention(
        step.q,
        step.kv,
        step.layout,
        step.scale,
        step.memory,
        torch.empty_like(step.q),
        None,
        sizes=sizes,
        descriptors=has_descriptors(arch),
    )
    (name,) = _found(launches, ["triton_window_aot"], arch)
    assert ("apart" in name, "i8" in name) == (page_size < 64, memory)


@pytest.mark.parametrize("arch", [80, 90])
@pytest.mark.parametrize("page_size", [64, 16])
@pytest.mark.parametrize("memory", [False, True])
@pytest.mark.parametrize("readers", [1, 7, 20])
def test_paged_decode(
    arch: int,
    page_size: int,
    memory: bool,
    readers: int,
    launches: list[Launch],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from memoserve_kernels import triton_decode

    monkeypatch.setattr(triton_decode, "compute_capability", lambda _: arch)
    step = _shared(_step(readers, page_size, memory))
    out, lse = torch.empty_like(step.q), torch.empty(step.q.shape[:2])
    for wanted in (None, lse):
        triton_decode.paged_decode(
            step.q, step.kv, step.layout, step.scale, step.memory, out, wanted
        )
    names = _found(launches, ["triton_decode", "triton_merge"], arch)
    assert len(set(names)) >= 3  # tiles of the window's keys, and both merges


def _shared(step: Step) -> Step:
    """The same step with one memory for all."""
    first = step.layout.sequences[0]
    sequences = tuple(
        replace(one, memory_pages=first.memory_pages) for one in step.layout.sequences
    )
    return replace(step, layout=replace(step.layout, sequences=sequences, _derived={}))


@pytest.mark.parametrize("arch", [80, 90])
def test_rope_and_evict_and_norm(arch: int, launches: list[Launch]) -> None:
    from memoserve_kernels import triton_backend as doors

    rotation = Rotation(torch.arange(3), torch.ones(DIM // 2))
    slots = torch.arange(3)
    q = torch.zeros(3, HEADS, DIM, dtype=torch.bfloat16)
    k = torch.zeros(3, KV_HEADS, DIM, dtype=torch.bfloat16)
    step = _step(1, 64, memory=True)
    assert step.memory is not None
    doors.rope_and_append(q, k, k, rotation, step.kv, slots)
    doors.append(k, k, rotation, step.kv, slots)
    doors.rotate(q, rotation)
    doors.evict_window(step.kv[None], slots, slots, rotation, None)
    both = type(step.memory)(step.memory.data[None], step.memory.scales[None])
    doors.evict_window(step.kv[None], slots, slots, rotation, both)
    x = torch.zeros(3, HEADS * DIM, dtype=torch.bfloat16)
    doors.rms_norm(x, x[0], 1e-6)
    doors.add_rms_norm(x, x, x[0], 1e-6)
    doors.silu_mul(x, x)
    names = _found(launches, ["triton_rope", "triton_evict", "triton_norm"], arch)
    assert len(set(names)) == len(names) == 8
