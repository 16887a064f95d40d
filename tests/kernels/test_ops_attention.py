"""``window_attention``: reference against rows computed by hand, the fast path against both."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch

from memoserve_kernels import cpu, ops, reference
from tests.kernels.attention_cases import Shape, Step, make_step

# Odd sizes, page borders (pages of 4), empty memories, one row, chunks inside a window.
STEPS = {
    "B1-Q1-M0-W0": [Shape(1, 0)],
    "B1-Q1-M33-W0": [Shape(1, 33)],
    "B1-Q1-M4-W3": [Shape(1, 4, 3)],
    "B1-Q2-M8-W6": [Shape(2, 8, 6)],
    "B1-Q3-M7-W4": [Shape(3, 7, 4)],
    "B1-Q8-M5-W0": [Shape(8, 5)],
    "B1-Q8-M0-W9": [Shape(8, 0, 9)],
    "B1-Q9-M0-W0": [Shape(9, 0)],
    "B1-Q9-M1-W0": [Shape(9, 1)],
    "B1-Q17-M0-W5": [Shape(17, 0, 5)],
    "B1-Q40-M64-W24": [Shape(40, 64, 24)],
    "B3-Q17-M33-W7": [Shape(17, 33, 7), Shape(1, 12, 3), Shape(5, 0, 11)],
    "B4-mixed": [Shape(2, 9), Shape(23, 3), Shape(1, 0, 15), Shape(8, 16, 16)],
}
# The closing forward of a window with appended beacons that see their own step only.
STEP_EXPANSION = {
    "B1-Q20-M0-beacons4": [Shape(20, 0, 0, 4)],
    "B1-Q5-M12-W13-beacons2": [Shape(5, 12, 13, 2)],
    "B1-Q3-M7-W15-beacons2": [Shape(3, 7, 15, 2)],
    "B3-mixed": [Shape(18, 5, 0, 2), Shape(1, 4, 2), Shape(11, 6, 3)],
}
ALL = STEPS | STEP_EXPANSION
GROUPS = [(2, 2), (4, 2), (7, 1)]
BY_DTYPE = {torch.float32: 2e-6, torch.bfloat16: 2e-2}

by_step = pytest.mark.parametrize("shapes", ALL.values(), ids=ALL.keys())
by_group = pytest.mark.parametrize(("heads", "kv_heads"), GROUPS, ids=["G1", "G2", "G7"])
by_dtype = pytest.mark.parametrize(("dtype", "atol"), BY_DTYPE.items(), ids=["fp32", "bf16"])


def run(backend: object, step: Step) -> torch.Tensor:
    out = torch.full_like(step.q, math.nan)
    backend.window_attention(step.q, step.kv, step.layout, step.scale, None, out, None)  # type: ignore[attr-defined]
    return out


@by_group
@by_step
def test_reference_is_attention(shapes: list[Shape], heads: int, kv_heads: int) -> None:
    step = make_step(shapes, heads=heads, kv_heads=kv_heads, dtype=torch.float64, seed=1)
    torch.testing.assert_close(run(reference, step), step.by_hand(), atol=1e-12, rtol=1e-12)


@by_dtype
@by_group
@by_step
def test_cpu_equals_hand(
    shapes: list[Shape], heads: int, kv_heads: int, dtype: torch.dtype, atol: float
) -> None:
    """Free pages and unused slots hold NaN: whoever reads what is not its own shows it."""
    for seed in (2, 3):
        step = make_step(shapes, heads=heads, kv_heads=kv_heads, dtype=dtype, seed=seed)
        out = run(cpu, step)
        assert out.dtype == dtype
        torch.testing.assert_close(out.double(), step.by_hand(), atol=atol, rtol=atol)


@by_dtype
@by_step
def test_cpu_equals_reference(shapes: list[Shape], dtype: torch.dtype, atol: float) -> None:
    step = make_step(shapes, dim=16, dtype=dtype, seed=4)
    torch.testing.assert_close(run(cpu, step), run(reference, step), atol=atol, rtol=atol)


@pytest.mark.parametrize("page_size", [1, 3, 16, 64])
@pytest.mark.parametrize("shuffled", [True, False], ids=["shuffled", "contiguous"])
def test_page_size_changes_nothing(page_size: int, shuffled: bool) -> None:
    step = make_step(STEPS["B4-mixed"], page_size=page_size, shuffled=shuffled, seed=5)
    torch.testing.assert_close(run(cpu, step).double(), step.by_hand(), atol=2e-6, rtol=2e-6)


@pytest.mark.parametrize("backend", [reference, cpu], ids=["reference", "cpu"])
@by_step
def test_every_row_is_written(
    shapes: list[Shape], backend: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Outputs start as NaN; a row that is left out stays so."""
    empty_like = torch.empty_like
    monkeypatch.setattr(torch, "empty_like", lambda x: empty_like(x).fill_(math.nan))
    assert run(backend, make_step(shapes, seed=6)).isfinite().all()


@pytest.mark.parametrize("rows", range(1, cpu.FEW_ROWS + 2))
def test_decode_with_beacons(rows: int) -> None:
    """A decode step has one row, two with a beacon, more where a window closes."""
    step = make_step([Shape(rows, 10, 5), Shape(1, 3)], seed=rows)
    torch.testing.assert_close(run(cpu, step).double(), step.by_hand(), atol=2e-6, rtol=2e-6)


def test_large_scores_do_not_overflow() -> None:
    step = make_step([Shape(1, 20), Shape(12, 20)], seed=8)
    hot = Step(step.q * 300, step.kv, step.layout, step.scale)
    torch.testing.assert_close(run(cpu, hot).double(), hot.by_hand(), atol=1e-3, rtol=1e-3)


# -- the doors ---------------------------------------------------------------------------------


def test_the_door_checks_shapes() -> None:
    step = make_step([Shape(3, 4)])
    with pytest.raises(ValueError, match="2 query rows, layout for 3"):
        ops.window_attention(step.q[:2], step.kv, step.layout, step.scale)
    with pytest.raises(ValueError, match="multiple of kv heads"):
        ops.window_attention(step.q[:, :3], step.kv, step.layout, step.scale)


@pytest.mark.parametrize(
    ("forced", "dtype", "wanted"),
    [
        ("", torch.float32, "cpu"),
        ("", torch.bfloat16, "cpu"),
        ("", torch.float64, "reference"),
        ("reference", torch.float32, "reference"),
        ("cpu", torch.float64, "cpu"),
    ],
)
def test_backend_choice(
    forced: str, dtype: torch.dtype, wanted: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEMOSERVE_BACKEND", forced)
    assert ops.backend_name(torch.device("cpu"), dtype) == wanted


def test_the_door_goes_where_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    step = make_step([Shape(3, 4)])
    called: list[str] = []

    def note(name: str) -> Callable[..., torch.Tensor]:
        def attention(q: torch.Tensor, *_: object) -> torch.Tensor:
            called.append(name)
            return q

        return attention

    monkeypatch.setattr(cpu, "window_attention", note("cpu"))
    monkeypatch.setattr(reference, "window_attention", note("reference"))
    for forced in ("reference", "cpu"):
        monkeypatch.setenv("MEMOSERVE_BACKEND", forced)
        ops.window_attention(step.q, step.kv, step.layout, step.scale)
    assert called == ["reference", "cpu"]


def test_an_unknown_backend_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEMOSERVE_BACKEND", "fpga")
    with pytest.raises(ValueError, match="'fpga'; known: reference, cpu, triton"):
        ops.backend_name(torch.device("cpu"), torch.float32)
