"""Run apart from the interpreter: what a launch is compiled for, as the compiler finds it out.

Prints a line for each launch that differs from the case compiled ahead of time, and ``same``.
"""

from __future__ import annotations

from typing import Any
from unittest import mock

import torch
from triton.backends.compiler import GPUTarget
from triton.compiler.compiler import make_backend
from triton.runtime.jit import create_function_from_signature

from memoserve_kernels import triton_window
from memoserve_kernels.aot import AotCase
from memoserve_kernels.triton_window_aot import aot_cases
from memoserve_kernels.triton_window_kernel import window_kernel
from memoserve_kernels.window_tiles import choose_tiles, has_descriptors
from tests.kernels.attention_cases import Shape, make_step

# Type, head dim, type of the memory, page size.
LAUNCHES: dict[str, tuple[torch.dtype, int, torch.dtype | None, int]] = {
    "window-bf16-d128-memory-bf16": (torch.bfloat16, 128, None, 64),
    "window-bf16-d96-memory-i8": (torch.bfloat16, 96, torch.int8, 64),
    "window-bf16-d256-memory-i8-apart": (torch.bfloat16, 256, torch.int8, 10),
    "window-fp16-d64-memory-fp16": (torch.float16, 64, None, 128),
    "window-fp32-d128-memory-fp32": (torch.float32, 128, None, 64),
}


class _Recorder:
    """Stands for the kernel and keeps what it was launched with."""

    def __getitem__(self, grid: tuple[int, int]) -> _Recorder:
        return self

    def __call__(self, *args: Any, **kwargs: Any) -> None:
        self.args, self.kwargs = args, kwargs


def differences(case: AotCase, recorder: _Recorder, arch: int) -> list[str]:
    """Arguments whose type, value or alignment differ, and options that do."""
    backend = make_backend(GPUTarget("cuda", arch, 32))
    bind = create_function_from_signature(window_kernel.signature, window_kernel.params, backend)
    _, found, options = bind(*recorder.args, **recorder.kwargs)
    wrong = []
    for name, (kind, special) in zip(window_kernel.arg_names, found, strict=True):
        expected = case.constexprs.get(name, name in case.aligned)
        actual = special if kind == "constexpr" else special == "D"
        if (kind, actual) != (case.signature[name], expected):
            wrong.append(f"{name}: {kind} {actual}, not {case.signature[name]} {expected}")
    if options != {"num_warps": case.num_warps, "num_stages": case.num_stages}:
        wrong.append(f"options {options}")
    return wrong


def launched(name: str, arch: int, recorder: _Recorder) -> None:
    """Launch what a case stands for, with tensors on the CPU."""
    dtype, dim, memory, page_size = LAUNCHES[name]
    step = make_step(
        [Shape(3, 70, 5)],
        heads=14,
        dim=dim,
        page_size=page_size,
        dtype=dtype,
        memory_dtype=memory,
        memory_page_size=2 * page_size,
    )
    with mock.patch.object(triton_window, "window_kernel", recorder):
        triton_window.window_attention(
            step.q,
            step.kv,
            step.layout,
            step.scale,
            step.memory,
            torch.empty_like(step.q),
            None,
            sizes=choose_tiles(dtype, dim, arch, memory),
            descriptors=has_descriptors(arch),
        )


def main() -> None:
    """Compare each launch with its case on two chips."""
    recorder = _Recorder()
    for arch in (80, 90):
        cases = {case.name: case for case in aot_cases(arch)}
        for name in LAUNCHES:
            launched(name, arch, recorder)
            for line in differences(cases[name], recorder, arch):
                print(name, arch, line)
    print("same")


if __name__ == "__main__":
    main()
