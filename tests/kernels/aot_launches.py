"""Run apart from the interpreter: what the doors' launches are compiled for, on every chip.

The doors are called as a step calls them, over types, head dims, memories, sizes of pages and
groups, with tensors that say they lie on a chip. Each launch is bound by Triton itself and written
down instead of run. Prints every compilation that a launch wants and ``aot_cases`` lacks and every
case that no launch wants, or ``same``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache
from itertools import product
from types import SimpleNamespace
from typing import Any, Final
from unittest import mock

import torch
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.compiler.compiler import make_backend
from triton.runtime.jit import KernelInterface, create_function_from_signature

from memoserve_kernels import ops
from memoserve_kernels.aot import AotCase
from memoserve_kernels.decode_tables import DecodeCapacity, DecodeTables
from memoserve_kernels.decode_tiles import decode_shape, decode_tiles
from memoserve_kernels.layout import AttentionLayout, MemoryPages, Rotation, SequenceLayout
from tools.aot.build import collect, modules_with_cases
from tools.aot.figures import ARCHES

DTYPES: Final = (torch.bfloat16, torch.float16, torch.float32)
HEAD_DIMS: Final = (64, 96, 128, 256)
# Sizes of pages, powers of two past every tile and some that no tile divides, with groups.
STEPS: Final = ((64, 1), (64, 7), (64, 64), (128, 8), (32, 2), (16, 7), (8, 8), (1, 7), (10, 4))
KV_HEADS: Final = 4
QWEN2_7B_HEADS: Final = 28
QWEN2_7B_GATE: Final = 18944
WIDTHS: Final = (64, 3584, 16384)
# Rows times heads that are more than these want tiles of another size.
TILES_OF_ROWS: Final = (0, 16, 64)


@dataclass(frozen=True)
class Compilation:
    """All that tells two compilations of the house's kernels apart."""

    kernel: str
    types: tuple[tuple[str, str], ...]
    constants: tuple[tuple[str, str], ...]
    aligned: tuple[str, ...]
    num_warps: int
    num_stages: int

    @classmethod
    def of_case(cls, case: AotCase) -> Compilation:
        """What is compiled ahead of time."""
        return cls(
            case.kernel.fn.__name__,
            tuple(sorted(case.signature.items())),
            _in_words(case.constexprs),
            tuple(sorted(case.aligned)),
            case.num_warps,
            case.num_stages,
        )

    @classmethod
    def of_launch(
        cls, kernel: Any, backend: Any, args: Sequence[Any], named: Mapping[str, Any]
    ) -> Compilation:
        """What the just-in-time compiler would compile for these arguments."""
        values, found, given = _binder(kernel, backend)(*args, **named)
        options = backend.parse_options(given)
        kinds = sorted(zip(kernel.arg_names, found, strict=True))
        constants = {name: values[name] for name, (kind, _) in kinds if kind == "constexpr"}
        return cls(
            kernel.fn.__name__,
            tuple((name, kind) for name, (kind, _) in kinds),
            _in_words(constants),
            tuple(n for n, (_, special) in kinds if n not in constants and special == "D"),
            options.num_warps,
            options.num_stages,
        )


def _in_words(constants: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """Constants in one order; in words, for 1 and True are equal and not the same."""
    return tuple(sorted((name, repr(value)) for name, value in constants.items()))


@cache
def _binder(kernel: Any, backend: Any) -> Callable[..., Any]:
    """Values, types with what is known of them, and options, of a launch's arguments."""
    bind: Callable[..., Any] = create_function_from_signature(
        kernel.signature, kernel.params, backend
    )
    return bind


@contextmanager
def written_down(arch: int) -> Iterator[set[Compilation]]:
    """What is launched meanwhile; nothing runs, and device n is a chip of capability n."""
    backend = make_backend(GPUTarget("cuda", arch, 32))
    properties = SimpleNamespace(multi_processor_count=2)
    written: set[Compilation] = set()

    def select(kernel: Any, grid: object) -> Any:
        return lambda *args, **named: written.add(
            Compilation.of_launch(kernel, backend, args, named)
        )

    with ExitStack() as stack:
        for where, name, instead in (
            (KernelInterface, "__getitem__", select),
            (torch.cuda, "get_device_capability", lambda chip: divmod(chip.index, 10)),
            (torch.cuda, "get_device_properties", lambda chip: properties),
        ):
            stack.enter_context(mock.patch.object(where, name, instead))
        yield written


@dataclass(frozen=True)
class Chip:
    """Makes tensors that lie in ordinary memory and say that they lie on a chip."""

    arch: int

    def empty(self, *shape: int, dtype: torch.dtype) -> Tensor:
        """Numbers that nobody reads."""
        device = {"device": torch.device("cuda", self.arch)}
        return torch.empty(shape, dtype=dtype).as_subclass(type("OnChip", (Tensor,), device))

    def memory(self, dtype: torch.dtype | None, *shape: int) -> MemoryPages | None:
        """Pages of 8 bits; None for a memory in the cache itself."""
        if dtype is None:
            return None
        scales = torch.empty(shape[:-1], dtype=torch.float32)
        return MemoryPages(self.empty(*shape, dtype=dtype), scales)

    def memory_dtypes(self) -> list[torch.dtype | None]:
        """Types that a memory may be kept in."""
        return [None, torch.int8] + [torch.float8_e4m3fn] * (self.arch >= 89)


def _integers(count: int, place: int) -> Tensor:
    """A part of an upload, from its number ``place`` on; an odd place is no multiple of 16."""
    return torch.zeros(count + place, dtype=torch.int64)[place:]


def _layout(rows_of_each: Sequence[int], place: int) -> AttentionLayout:
    """Readers of the same few rows of memory and of window, on one page each or on more."""
    sequences, first = [], 0
    for rows in rows_of_each:
        pages = tuple(range(rows))
        sequences.append(SequenceLayout(first, first + rows, pages, rows, pages, rows, True))
        first += rows
    part = _integers(first, place)
    return AttentionLayout(tuple(sequences), part, part, part)


def attend(chip: Chip, dtype: torch.dtype, dim: int, page_size: int, group: int) -> None:
    """Prompts and decode steps of few and of many readers, over each kind of memory."""
    kv = chip.empty(2, 5, KV_HEADS, page_size, dim, dtype=dtype)
    heads = KV_HEADS * group
    for memory_dtype in chip.memory_dtypes():
        # The same bytes hold more rows.
        memory = chip.memory(memory_dtype, 2, 5, KV_HEADS, page_size * dtype.itemsize, dim)
        prompt = chip.empty(5, heads, dim, dtype=dtype)
        for place in (0, 1):
            ops.attention(prompt, kv, _layout([5], place), 1.0, memory=memory)
        if memory is not None and dtype == torch.float32 and dim > 128:
            continue  # refused, as another test shows
        for held in TILES_OF_ROWS:
            q = chip.empty(held // group + 1, heads, dim, dtype=dtype)
            ops.attention(q, kv, _layout([1] * q.shape[0], 0), 1.0, memory=memory)
            captured, lse = _captured(q, kv, memory), torch.empty(q.shape[:2])
            ops.paged_decode(q, kv, captured, 1.0, memory=memory, lse=lse)


def _captured(q: Tensor, kv: Tensor, memory: MemoryPages | None) -> AttentionLayout:
    """The layout of a step in a graph, with tables of its own."""
    assert q.device.index is not None
    tiles = decode_tiles(q.dtype, q.shape[2], q.device.index)
    shape = decode_shape(q, kv, memory, tiles)
    part = _integers(q.shape[0], 1)
    layout = AttentionLayout((), part, part, part)
    capacity = DecodeCapacity.for_batch(shape, q.shape[0], pages=9)
    DecodeTables.allocate(shape, capacity, torch.device("cpu")).attach(layout)
    return layout


def rotate_and_evict(chip: Chip, dtype: torch.dtype, dim: int, page_size: int, place: int) -> None:
    """Rows of one product into the cache, and out of it into each kind of memory."""
    kv = chip.empty(2, 2, 5, KV_HEADS, page_size, dim, dtype=dtype)
    together = chip.empty(3, QWEN2_7B_HEADS + 2 * KV_HEADS, dim, dtype=dtype)
    q, k, v = together.split([QWEN2_7B_HEADS, KV_HEADS, KV_HEADS], dim=1)
    slots = _integers(3, place)
    rotation = Rotation(slots, torch.ones(dim // 2))
    ops.rope_and_append(q, k, v, rotation, kv[0], slots)
    ops.append(k, v, rotation, kv[0], slots)
    ops.rotate(q, rotation)
    for memory_dtype in chip.memory_dtypes():
        memory = chip.memory(memory_dtype, 2, 2, 5, KV_HEADS, page_size, dim)
        ops.evict_window(kv, slots, slots, rotation, memory=memory)


def normalise(chip: Chip, dtype: torch.dtype) -> None:
    """Norms of each width, and the gate."""
    for width in WIDTHS:
        x, weight = chip.empty(3, width, dtype=dtype), chip.empty(width, dtype=dtype)
        ops.rms_norm(x, weight, 1e-6)
        ops.add_rms_norm(x, x, weight, 1e-6)
    gate = chip.empty(3, QWEN2_7B_GATE, dtype=dtype)
    ops.silu_mul(gate, gate)


def launched(arch: int) -> set[Compilation]:
    """What all doors launch on a chip."""
    chip = Chip(arch)
    with written_down(arch) as written:
        for dtype in DTYPES:
            normalise(chip, dtype)
            for dim, (page_size, group) in product(HEAD_DIMS, STEPS):
                for place in (0, 1):
                    rotate_and_evict(chip, dtype, dim, page_size, place)
                attend(chip, dtype, dim, page_size, group)
    return written


def differences(arch: int) -> list[str]:
    """Compilations that are launched or compiled ahead of time, and not both."""
    cases = {Compilation.of_case(case) for _, case in collect(modules_with_cases(), [arch])}
    found = launched(arch)
    lacking = [f"sm_{arch}: launched and not compiled: {one}" for one in found - cases]
    return lacking + [f"sm_{arch}: compiled and never launched: {one}" for one in cases - found]


def main() -> None:
    """Compare launches and cases, chip by chip."""
    lines = [line for arch in ARCHES for line in differences(arch)]
    print("\n".join(lines) or "same")


if __name__ == "__main__":
    main()
