"""Stage ``correctness``: what was computed against float64, a row a case."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from benchmarks.gpu.bench import Bench
from benchmarks.gpu.machine import Machine
from memoserve_kernels import reference
from memoserve_kernels.layout import AttentionLayout, MemoryPages
from tests.kernels.attention_cases import Step


@dataclass(frozen=True)
class Limit:
    """``element``: as absolute plus relative error of each; ``norm``: ||out - ref|| / ||ref||."""

    element: float
    norm: float


# One rounding of the output, the rounding of the weights before the second product, and room for
# other orders of summation; float32 far below what TF32 would give (3e-4).
LIMITS = {
    torch.float32: Limit(1e-5, 2e-6),
    torch.float16: Limit(4e-3, 1e-3),
    torch.bfloat16: Limit(2e-2, 8e-3),
}
# Scores of 16-bit products are summed in float32 by the matrix units, in their own order.
LSE_LIMITS = {dtype: Limit(5e-5, 1e-5) for dtype in LIMITS} | {torch.float32: LIMITS[torch.float32]}


def judge(
    bench: Bench, op: str, shape: str, found: Tensor, wanted: Tensor, limit: Limit, note: str = ""
) -> bool:
    """One row: the largest absolute error, and whether all of it is within the limit."""
    wanted = wanted.double().to(found.device)
    error = (found.double() - wanted).abs()
    bounded = bool((error <= limit.element * (1 + wanted.abs())).all())  # NaN is not
    norm = float(error.norm() / wanted.norm().clamp_min(1e-30))
    passed = bounded and norm <= limit.norm
    verdict = "pass" if passed else "FAIL"
    said = f"{verdict}; limit {limit.element:g} + relative; norm ratio {norm:.2g} of {limit.norm:g}"
    bench.rows.add(
        op, shape, float(error.max()) if error.numel() else 0.0, "max abs error", f"{said}; {note}"
    )
    return passed


def judge_exactly(
    bench: Bench, op: str, shape: str, found: Tensor, wanted: Tensor, note: str = ""
) -> bool:
    """One row: how many elements differ; NaN equals NaN."""
    wanted = wanted.to(found.device)
    differ = (found != wanted) & ~(found.isnan() & wanted.isnan())
    return judge_none(bench, op, shape, differ, "that differ", note)


def judge_none(bench: Bench, op: str, shape: str, wrong: Tensor, what: str, note: str = "") -> bool:
    """One row: how many elements are wrong; none may be."""
    count = int(wrong.sum())
    verdict = f"{'FAIL' if count else 'pass'}; 0 allowed; {note}"
    bench.rows.add(op, shape, count, f"elements {what}", verdict)
    return count == 0


def moved(machine: Machine, step: Step) -> Step:
    """A step of the tests' cases on the device."""
    layout = step.layout
    columns, limits, starts = (
        part.to(machine.device) for part in (layout.columns, layout.limits, layout.starts)
    )
    layout = replace(layout, columns=columns, limits=limits, starts=starts, _derived={})
    return replace(step, q=step.q.to(machine.device), kv=step.kv.to(machine.device), layout=layout)


def wanted_attention(
    q: Tensor, kv: Tensor, layout: AttentionLayout, scale: float, memory: MemoryPages | None = None
) -> tuple[Tensor, Tensor]:
    """Output and log-sum-exp by the reference in float64, on the device of its arguments."""
    wide = q.double()
    out = torch.full_like(wide, float("nan"))
    lse = torch.full(q.shape[:2], float("nan"), dtype=torch.float64, device=q.device)
    reference.window_attention(wide, kv.double(), layout, scale, memory, out, lse)
    return out, lse


def poisoned_outputs(q: Tensor) -> tuple[Tensor, Tensor]:
    """Where a kernel writes: NaN, so that a row that is left out stays so."""
    lse = torch.full(q.shape[:2], float("nan"), dtype=torch.float32, device=q.device)
    return torch.full_like(q, float("nan")), lse
