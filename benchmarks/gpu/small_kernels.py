"""Every kernel once on small shapes: what runs under the sanitizer. Prints a mark before each."""

from __future__ import annotations

import torch

from benchmarks.gpu import check_attention, check_rows
from benchmarks.gpu.bench import Bench, Section
from benchmarks.gpu.check_attention import Form
from benchmarks.gpu.pools import Sequence
from tests.kernels.attention_cases import Shape

MARK = "@@"
WINDOW = [Shape(37, 70, 5), Shape(3, 9, 2), Shape(12, 0, 0, 2)]
DECODE = [Shape(1, 70, 5), Shape(2, 9), Shape(1, 0, 3)]
READERS = [*(Sequence(1, 70, 5 + number, 0) for number in range(5)), Sequence(2, 9, 4, 1)]
# Whole pages a tile, and rows by their own addresses.
FORMS = (Form(14, 2, 128, 64), Form(4, 2, 8, 3, torch.float32))


def _announce(name: str) -> None:
    print(f"\n{MARK} {name}", flush=True)


def _forms(bench: Bench) -> tuple[Form, ...]:
    return FORMS[1:] if bench.machine.dry else FORMS


def attention(bench: Bench) -> None:
    """Windows, decode steps, readers of one memory, memory in int8."""
    for form in _forms(bench):
        for op, shapes in (("window_attention", WINDOW), ("paged_decode", DECODE)):
            _announce(op)
            check = check_attention.check_case
            bench.guard(op, form.label, check, bench, op, form.label, form, shapes, bench.seed)
        for op in ("paged_decode", "window_attention"):
            for kind in (None, torch.int8):
                name = f"{op}, {'int8 memory' if kind else 'shared memory'}"
                _announce(name)
                check_pool = check_attention.check_pool
                bench.guard(
                    name, form.label, check_pool, bench, op, form.label, form, READERS, 1, kind
                )


def rows(bench: Bench) -> None:
    """Rotation, writing, eviction, norms."""
    for form in _forms(bench):
        label, seed = form.label, bench.seed
        _announce("rope_and_append, append, rotate")
        bench.guard("rope", label, check_rows.check_rope, bench, label, form, 17, seed)
        _announce("evict_window")
        bench.guard("evict", label, check_rows.check_evict, bench, label, form, seed)
        _announce("evict_window, int8 memory")
        check = check_rows.check_eight_bits
        bench.guard("evict", label, check, bench, label, form, torch.int8, seed)
        _announce("rms_norm, add_rms_norm, silu_mul")
        for element_wise in (check_rows.check_norms, check_rows.check_gate):
            bench.guard("norms", label, element_wise, bench, label, 200, form.dtype, seed)
    _announce("end")


SECTIONS: dict[str, Section] = {"attention": attention, "rows": rows}
