"""Rows in 8 bits: the one rule of rounding that reference, cache and kernels share."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

# No scale is a denormal, whatever the row.
SMALLEST_EXPONENT: Final = -100
# Largest value of each type.
LIMITS: Final = {torch.int8: 127.0, torch.float8_e4m3fn: 448.0}


def quantise(rows: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """``rows [..., D]`` in 8 bits with a scale each ``[...]``: the smallest power of two that fits.

    A value is off by at most half a step. In int8 that is 1/127 of the row's largest value, 1/254
    where that lies just below a power of two times 127; in float8_e4m3fn 1/16 of the value itself,
    and for the smallest of a row 2^-10 of its scale. Rounds to even. A row that is not finite gets
    a scale that is NaN: nothing may take it for a memory.
    """
    limit = LIMITS[dtype]
    wide = rows.to(torch.promote_types(torch.float32, rows.dtype))
    largest = wide.abs().amax(dim=-1)
    # largest = mantissa * 2^exponent with the mantissa in [0.5, 1): exact, unlike a logarithm.
    mantissa, exponent = torch.frexp(largest / limit)
    exponent = (exponent - (mantissa == 0.5).int()).clamp(min=SMALLEST_EXPONENT)
    scales = torch.ldexp(torch.ones_like(largest), exponent)
    scales = torch.where(largest > 0, scales, 1.0)
    scaled = wide / scales[..., None]
    data = scaled.round().to(dtype) if dtype == torch.int8 else scaled.to(dtype)
    return data, torch.where(largest.isfinite(), scales, torch.nan).float()
