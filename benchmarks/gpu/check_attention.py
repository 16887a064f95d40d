"""Stage ``correctness``: ``window_attention`` and ``paged_decode`` on fresh random cases.

The same cases as the tests' (pages in random order among pages of NaN), with the head dims and
types that are tuned, and readers of shared memories.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch

from benchmarks.gpu.bench import Bench, Section, refusals
from benchmarks.gpu.checks import (
    LIMITS,
    LSE_LIMITS,
    judge,
    moved,
    poisoned_outputs,
    wanted_attention,
)
from benchmarks.gpu.pools import Problem, Sequence, make_problem, poisoned
from memoserve_kernels import ops
from tests.kernels.attention_cases import Shape, Step, make_step

WINDOWS = {
    "one row": [Shape(1, 0)],
    "no memory": [Shape(200, 0, 37)],
    "no window before": [Shape(130, 65)],
    "odd lengths": [Shape(77, 131, 54), Shape(3, 7, 4), Shape(1, 12, 3), Shape(257, 1)],
    "page borders": [Shape(64, 128, 64), Shape(128, 64), Shape(16, 0, 16)],
    "chunks": [Shape(300, 700, 211), Shape(129, 513, 0), Shape(5, 0, 11)],
    "step-expansion": [Shape(68, 33, 0, 4), Shape(5, 12, 13, 2), Shape(3, 7, 15, 2)],
}
DECODES = {
    "one row each": [Shape(1, 0), Shape(1, 33), Shape(1, 4, 3), Shape(1, 700, 300)],
    "two rows": [Shape(2, 130, 61), Shape(2, 9), Shape(1, 64, 63), Shape(2, 0, 64)],
    "one and beacons": [Shape(2, 40, 20, 1), Shape(1, 16, 16)],
}
DRY_WINDOWS = {"mixed": [Shape(9, 5, 3), Shape(1, 3), Shape(6, 0, 0, 2)]}
DRY_DECODES = {"mixed": [Shape(1, 9, 2), Shape(2, 4)]}


@dataclass(frozen=True)
class Form:
    """Heads, kv heads, head dim, page size and type of a pool."""

    heads: int
    kv_heads: int
    dim: int
    page_size: int
    dtype: torch.dtype = torch.bfloat16

    @property
    def label(self) -> str:
        """As rows name it."""
        name = str(self.dtype).removeprefix("torch.")
        return f"H{self.heads} K{self.kv_heads} D{self.dim} S{self.page_size} {name}"


# The shape that is served first: what a stage that runs out of time must have checked.
FORMS = (
    Form(28, 4, 128, 64),
    Form(28, 4, 128, 64, torch.float32),
    Form(14, 2, 64, 64, torch.float16),
    Form(8, 8, 128, 3),
    Form(7, 1, 64, 16),
    Form(4, 2, 96, 64),
    Form(4, 2, 256, 64),
    Form(4, 2, 8, 1, torch.float32),
    Form(32, 8, 64, 16, torch.float32),
)
DRY_FORMS = (Form(4, 2, 8, 4, torch.float32),)


def forms(bench: Bench) -> tuple[Form, ...]:
    """Of this run."""
    return DRY_FORMS if bench.machine.dry else FORMS


def _check(bench: Bench, op: str, shape: str, problem: Problem | Step, note: str) -> None:
    """One call of a door: output and log-sum-exp."""
    q, kv, layout, scale = problem.q, problem.kv, problem.layout, problem.scale
    memory = problem.memory if isinstance(problem, Problem) else None
    out, lse = poisoned_outputs(q)
    door: Callable[..., Any] = getattr(ops, op)
    with refusals():
        door(q, kv, layout, scale, memory=memory, out=out, lse=lse)
    wanted, wanted_lse = wanted_attention(q, kv, layout, scale, memory)
    limit = LIMITS[q.dtype]
    judge(bench, op, shape, out, wanted, limit, note)
    judge(bench, f"{op} lse", shape, lse, wanted_lse, LSE_LIMITS[q.dtype], note)


def _over_cases(bench: Bench, op: str, cases: dict[str, list[Shape]], salt: int) -> None:
    for number, form in enumerate(forms(bench)):
        for place, (name, shapes) in enumerate(cases.items()):
            seed, shape = bench.seed + salt + 100 * number + place, f"{form.label} {name}"
            bench.guard(op, shape, check_case, bench, op, shape, form, shapes, seed)


def check_case(
    bench: Bench, op: str, shape: str, form: Form, shapes: list[Shape], seed: int
) -> None:
    """One step of the tests' cases."""
    step = make_step(
        shapes,
        heads=form.heads,
        kv_heads=form.kv_heads,
        dim=form.dim,
        page_size=form.page_size,
        dtype=form.dtype,
        seed=seed,
    )
    _check(bench, op, shape, moved(bench.machine, step), f"seed {seed}")


def window(bench: Bench) -> None:
    """Prompts and windows."""
    _over_cases(bench, "window_attention", DRY_WINDOWS if bench.machine.dry else WINDOWS, 0)


def decode(bench: Bench) -> None:
    """One or two rows a sequence."""
    _over_cases(bench, "paged_decode", DRY_DECODES if bench.machine.dry else DECODES, 10_000)


def _readers(count: int, memory: int, window: int) -> list[Sequence]:
    """Readers of one memory, every third of which sees its beginning only, and one of its own."""
    shared = [
        Sequence(1 + number % 2, memory - (number % 3 == 2) * (memory // 3), window + number, 0)
        for number in range(count)
    ]
    return [*shared, Sequence(1, memory // 2, window, 1)]


def _shared_cases(bench: Bench) -> Iterator[tuple[Form, int, int, int]]:
    lengths = ((7, 9, 2),) if bench.machine.dry else ((1, 4096, 5), (2, 1000, 64), (7, 777, 129))
    lengths = lengths if bench.machine.dry else (*lengths, (64, 8192, 200), (200, 640, 31))
    for form in forms(bench)[:4]:
        for count, memory, own in lengths:
            yield form, count, memory, own


def shared(bench: Bench) -> None:
    """Groups of 1 to 200 readers of one memory, of its beginning, and a stranger."""
    for number, (form, count, memory, own) in enumerate(_shared_cases(bench)):
        seed = bench.seed + 20_000 + number
        shape = f"{form.label} {count} readers of {memory} rows, windows from {own}"
        sequences = _readers(count, memory, own)
        bench.guard(
            "paged_decode", shape, check_pool, bench, "paged_decode", shape, form, sequences, seed
        )


def check_pool(
    bench: Bench,
    op: str,
    shape: str,
    form: Form,
    sequences: list[Sequence],
    seed: int,
    memory_type: torch.dtype | None = None,
) -> None:
    """One step whose sequences may share a memory, or keep it in 8 bits."""
    problem = _problem(bench, form, sequences, seed, memory_type)
    _check(bench, op, shape, problem, f"seed {seed}")


def _problem(
    bench: Bench,
    form: Form,
    sequences: list[Sequence],
    seed: int,
    memory_type: torch.dtype | None = None,
) -> Problem:
    sizes = replace(
        bench.sizes,
        heads=form.heads,
        kv_heads=form.kv_heads,
        head_dim=form.dim,
        page_size=form.page_size,
    )
    made = make_problem(
        bench.machine, sizes, sequences, seed, dtype=form.dtype, memory_type=memory_type
    )
    return poisoned(made)


def eight_bit(bench: Bench) -> None:
    """Memory rows in int8 and float8_e4m3fn: the values are exact, so the limits stay."""
    dry = bench.machine.dry
    tall = [Sequence(9, 7, 11, 0)] if dry else [Sequence(200, 333, 230, 0)]
    cases = {
        "paged_decode": _readers(3, 9, 2) if dry else _readers(7, 777, 40),
        "window_attention": [*tall, Sequence(3, 5, 8, 1)],
    }
    for number, form in enumerate(forms(bench)[:3]):
        for dtype in (torch.int8, torch.float8_e4m3fn):
            shape = f"{form.label} memory in {str(dtype).removeprefix('torch.')}"
            seed = bench.seed + 30_000 + number
            for op, sequences in cases.items():
                bench.guard(op, shape, check_pool, bench, op, shape, form, sequences, seed, dtype)


SECTIONS: dict[str, Section] = {
    "window_attention": window,
    "paged_decode": decode,
    "shared readers": shared,
    "memory in 8 bits": eight_bit,
}
