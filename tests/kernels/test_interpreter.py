"""The corrections of Triton's interpreter: each needed, each right."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests import interpreter

pytest.importorskip("triton")
import triton
import triton.language as tl

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="kernels are compiled here")


@triton.jit
def product(a: Any, b: Any, out: Any, SIZE: tl.constexpr) -> None:
    at = tl.arange(0, SIZE)[:, None] * SIZE + tl.arange(0, SIZE)[None, :]
    tl.store(out + at, tl.dot(tl.load(a + at), tl.load(b + at)))


@triton.jit
def copied(x: Any, out: Any, SIZE: tl.constexpr) -> None:
    at = tl.arange(0, SIZE)
    tl.store(out + at, tl.load(x + at))


@triton.jit
def doubled(x: Any, out: Any, SIZE: tl.constexpr) -> None:
    at = tl.arange(0, SIZE)
    tl.store(out + at, tl.load(x + at) + tl.load(x + at))


@pytest.fixture(params=["corrected", "as shipped"])
def right(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether results are to be right; the interpreter as shipped must be seen to be wrong."""
    from triton.runtime.interpreter import InterpreterBuilder

    shipped: dict[str, Any] | None = getattr(InterpreterBuilder, "uncorrected", None)
    if shipped is None:
        pytest.skip("this Triton keeps bfloat16 as numbers and needs no correction")
    if request.param == "as shipped":
        for name, method in shipped.items():
            monkeypatch.setattr(InterpreterBuilder, name, method)
    return bool(request.param == "corrected")


def drawn(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_products_of_bfloat16(right: bool) -> None:
    a, b = drawn(16, 16, seed=0).bfloat16(), drawn(16, 16, seed=1).bfloat16()
    out = torch.empty(16, 16)
    product[(1,)](a, b, out, 16)
    assert torch.allclose(out, a.float() @ b.float(), atol=1e-5) is right


def test_float32_is_rounded_to_bfloat16(right: bool) -> None:
    """Ties both ways, a carry into the exponent, both zeros, subnormals, the largest, infinity."""
    special = [1 + 2**-8, 1 + 3 * 2**-8, 2 - 2**-9, 0.0, -0.0, 1e-40, -3e38, float("inf")]
    x = torch.cat([torch.tensor(special), torch.tensor([3.4e38] * 8), drawn(16, seed=2)])
    out = torch.zeros(32, dtype=torch.bfloat16)
    copied[(1,)](x, out, 32)
    assert torch.equal(out.view(torch.int16), x.bfloat16().view(torch.int16)) is right


def test_arithmetic_of_bfloat16_is_refused(right: bool) -> None:
    x, out = drawn(16, seed=3).bfloat16(), torch.zeros(16, dtype=torch.bfloat16)
    if right:
        with pytest.raises(Exception, match="widen to float32"):
            doubled[(1,)](x, out, 16)
    else:
        doubled[(1,)](x, out, 16)
        assert not torch.equal(out, x * 2)


def test_widening_is_exact_and_nan_stays() -> None:
    every = np.arange(2**16, dtype=np.uint32).astype(np.uint16)
    wide = interpreter.widen(every)
    wanted = torch.from_numpy(every.view(np.int16)).view(torch.bfloat16).float().numpy()
    assert np.array_equal(wide, wanted, equal_nan=True)
    back = interpreter.narrow(wide)
    assert np.array_equal(back[~np.isnan(wide)], every[~np.isnan(wide)])
    assert np.isnan(interpreter.widen(back[np.isnan(wide)])).all()
