"""Norms and gate in Triton, against plain formulas in float64 and the reference's rounding."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from memoserve_kernels import reference

pytest.importorskip("triton")
from memoserve_kernels import triton_norm

BY_DTYPE = {torch.float32: 2e-6, torch.float16: 2e-3, torch.bfloat16: 2e-2}
by_dtype = pytest.mark.parametrize(
    ("dtype", "tolerance"), BY_DTYPE.items(), ids=["fp32", "fp16", "bf16"]
)
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def drawn(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    made = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    return made.to(DEVICE, dtype)


def close(got: Tensor, wanted: Tensor, tolerance: float) -> None:
    torch.testing.assert_close(got.double(), wanted.double(), atol=tolerance, rtol=tolerance)


def norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    wide = x.double()
    return weight.double() * wide / (wide.square().mean(-1, keepdim=True) + eps).sqrt()


@by_dtype
@pytest.mark.parametrize("width", [1, 24, 64])
def test_rms_norm(dtype: torch.dtype, tolerance: float, width: int) -> None:
    x, weight = drawn(3, width, dtype=dtype) * 4, drawn(width, dtype=dtype, seed=1)
    out = triton_norm.rms_norm(x, weight, 0.1)
    assert out.dtype == dtype
    close(out, norm(x, weight, 0.1), tolerance)


@by_dtype
def test_add_rms_norm(
    dtype: torch.dtype, tolerance: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three rows in tiles of two."""
    monkeypatch.setattr(triton_norm, "TILE", 64)
    x, residual, weight = (drawn(3, 24, dtype=dtype, seed=seed) for seed in range(3))
    normed, total = triton_norm.add_rms_norm(x, residual, weight[0], 1e-3)
    assert torch.equal(total, residual + x)
    close(normed, norm(total, weight[0], 1e-3), tolerance)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_16_bits_round_where_the_reference_rounds(dtype: torch.dtype) -> None:
    """A wider sum or product would differ in the last bit of a number in ten."""
    x, residual, weight = (drawn(4, 48, dtype=dtype, seed=seed) * 3 for seed in range(3))
    normed, total = triton_norm.add_rms_norm(x, residual, weight[0], 1e-6)
    wanted, wanted_total = reference.add_rms_norm(x, residual, weight[0], 1e-6)
    assert torch.equal(total, wanted_total)
    assert (normed != wanted).double().mean() < 0.02
    gated = triton_norm.silu_mul(x, residual)
    assert (gated != reference.silu_mul(x, residual)).double().mean() < 0.02


def test_no_number_outside_a_row_counts() -> None:
    """Rows of a wider tensor, NaN around them, and one more axis in front."""
    pool = torch.full((2, 3, 10), math.nan, device=DEVICE)
    pool[:, :, 2:7] = drawn(2, 3, 5)
    x, residual, weight = pool[:, :, 2:7], drawn(2, 3, 5, seed=1), drawn(5, seed=2)
    close(triton_norm.rms_norm(x, weight, 1e-6), norm(x, weight, 1e-6), 2e-6)
    normed, total = triton_norm.add_rms_norm(residual, x, weight, 1e-6)
    close(normed, norm(x + residual, weight, 1e-6), 2e-6)
    assert torch.equal(total, x + residual)


@by_dtype
def test_silu_mul_of_halves_of_one_product(
    dtype: torch.dtype, tolerance: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(triton_norm, "TILE", 32)
    joint = drawn(3, 26, dtype=dtype) * 5
    gate, up = joint.chunk(2, dim=1)
    wide = gate.double()
    close(triton_norm.silu_mul(gate, up), wide / (1 + (-wide).exp()) * up.double(), tolerance)


def test_silu_mul_of_more_than_one_tile(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton_norm, "TILE", 16)
    gate, up = drawn(2, 37), drawn(2, 40, seed=1)[:, :37]
    close(triton_norm.silu_mul(gate, up), gate * gate.sigmoid() * up, 2e-6)
    transposed = triton_norm.silu_mul(gate.T.contiguous().T, up)
    assert torch.equal(transposed, triton_norm.silu_mul(gate, up))


def test_silu_at_its_ends() -> None:
    gate = torch.tensor([[-1e4, -90.0, -0.0, 0.0, 90.0, 1e4, math.nan]], device=DEVICE)
    out = triton_norm.silu_mul(gate, torch.ones_like(gate))
    close(out[:, :6], torch.nn.functional.silu(gate[:, :6]), 1e-6)
    assert out[0, 6].isnan()


def test_refusals_say_why() -> None:
    x, weight = drawn(1, 4), drawn(4)
    with pytest.raises(ValueError, match="one type"):
        triton_norm.rms_norm(x, weight.half(), 1e-6)
    with pytest.raises(ValueError, match="one type"):
        triton_norm.silu_mul(x, x.half())
    wide = torch.empty(1, triton_norm.MAX_WIDTH + 1, device=DEVICE)
    with pytest.raises(ValueError, match="at most 16384"):
        triton_norm.rms_norm(wide, wide[0], 1e-6)
