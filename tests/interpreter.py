"""Triton's interpreter, corrected: what it gets wrong in silence is patched or refused.

``watch`` costs nothing until something imports Triton. Then, where PyTorch finds no CUDA device,
kernels run in the interpreter, and the interpreter of Triton 3.6 is corrected in three places:

- products of bfloat16 multiply the bit patterns as integers: operands are widened to float32;
- float32 to bfloat16 truncates: it rounds to the nearest, ties to even, as a GPU does;
- sums, products and comparisons of bfloat16 work on the bit patterns: they raise TypeError, for
  a kernel widens after every load.

Casts of 8-bit floats stay wrong there; no test in the interpreter may use them.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

_INTERPRETER = "triton.runtime.interpreter"


def watch() -> None:
    """Choose the interpreter when Triton is first imported, and correct it then."""
    if "triton" in sys.modules:
        raise RuntimeError("Triton was imported before the tests could choose its interpreter")
    if not any(isinstance(finder, _AtImport) for finder in sys.meta_path):
        sys.meta_path.insert(0, _AtImport())


class _AtImport(MetaPathFinder):
    """Sees the import of Triton; every other import passes by."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != "triton":
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            run = spec.loader.exec_module

            def run_and_correct(module: ModuleType) -> None:
                _choose()
                run(module)
                if _INTERPRETER in sys.modules:
                    correct(sys.modules[_INTERPRETER])

            spec.loader.exec_module = run_and_correct  # type: ignore[method-assign]
        return spec


def _choose() -> None:
    """Triton reads the variable when it decorates its first kernel, while it is imported."""
    import torch

    if not torch.cuda.is_available():
        os.environ.setdefault("TRITON_INTERPRET", "1")


def widen(bits: NDArray[np.uint16]) -> NDArray[np.float32]:
    """Bit patterns of bfloat16 as the float32 they stand for."""
    return (np.ascontiguousarray(bits).astype(np.uint32) << 16).view(np.float32)


def narrow(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Float32 to bit patterns of bfloat16: nearest, ties to even; NaN stays NaN."""
    bits = np.ascontiguousarray(values).view(np.uint32)
    rounded = ((bits.astype(np.uint64) + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    quiet = ((bits >> 16) | 0x0040).astype(np.uint16)
    return np.where(np.isnan(values), quiet, rounded)


def correct(module: ModuleType) -> None:
    """Patch ``InterpreterBuilder`` where it keeps bfloat16 as integers; once is enough."""
    builder: Any = module.InterpreterBuilder
    language: Any = module.tl
    plain = module._get_np_dtype(language.bfloat16) == np.uint16
    if not plain or hasattr(builder, "uncorrected"):
        return
    names = ("create_dot", "cast_impl", "binary_op", "unary_op")
    builder.uncorrected = {name: getattr(builder, name) for name in names}
    builder.create_dot = _dot(module, builder.create_dot)
    builder.cast_impl = _cast(module, builder.cast_impl)
    for name in ("binary_op", "unary_op"):
        setattr(builder, name, _refusing(module, getattr(builder, name)))


def _dot(module: Any, run: Callable[..., Any]) -> Callable[..., Any]:
    def wide(handle: Any) -> Any:
        if handle.dtype.scalar != module.tl.bfloat16:
            return handle
        return module.TensorHandle(widen(handle.data), module.tl.float32)

    def create_dot(self: Any, a: Any, b: Any, *rest: Any) -> Any:
        return run(self, wide(a), wide(b), *rest)

    return create_dot


def _cast(module: Any, run: Callable[..., Any]) -> Callable[..., Any]:
    bfloat16, float32 = module.tl.bfloat16, module.tl.float32

    def cast_impl(self: Any, source: Any, wanted: Any) -> Any:
        have, want = source.dtype.scalar, wanted.scalar
        if have == bfloat16 and want != bfloat16:
            source = module.TensorHandle(widen(source.data), float32)
            return source if want == float32 else run(self, source, wanted)
        if want == bfloat16 and have != bfloat16:
            with np.errstate(over="ignore"):  # past the largest float32 is infinity, as on a GPU
                values = source.data.astype(np.float32)
            return module.TensorHandle(narrow(values), bfloat16)
        return run(self, source, wanted)

    return cast_impl


def _refusing(module: Any, run: Callable[..., Any]) -> Callable[..., Any]:
    def operation(self: Any, first: Any, *rest: Any) -> Any:
        if first.dtype.scalar == module.tl.bfloat16:
            raise TypeError("bfloat16 arithmetic in the interpreter: widen to float32 first")
        return run(self, first, *rest)

    return operation
