"""Rotation and its way into the cache in Triton, against plain formulas in float64."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from memoserve_kernels.layout import Rotation

pytest.importorskip("triton")
from memoserve_kernels import triton_rope

BY_DTYPE = {torch.float32: 3e-6, torch.float16: 4e-3, torch.bfloat16: 3e-2}
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def drawn(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    made = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    return made.to(DEVICE, dtype)


def rotation(positions: list[int], dim: int, factor: float = 1.0, base: float = 1e4) -> Rotation:
    inv_freq = base ** (-torch.arange(0, dim, 2, dtype=torch.float64) / dim)
    return Rotation(torch.tensor(positions, device=DEVICE), inv_freq.float().to(DEVICE), factor)


def turned(x: Tensor, by: Rotation) -> Tensor:
    """Rotation in float64 of the float32 angles."""
    angles = (by.positions.float()[:, None, None] * by.inv_freq).double()
    first, second = x.double().chunk(2, dim=-1)
    cos, sin = angles.cos() * by.factor, angles.sin() * by.factor
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


def close(got: Tensor, wanted: Tensor, atol: float) -> None:
    torch.testing.assert_close(got.double(), wanted.double(), atol=atol, rtol=atol, equal_nan=True)


@pytest.mark.parametrize(
    ("dim", "dtype"),
    [(2, torch.float32), (6, torch.float32), (24, torch.bfloat16), (64, torch.float16)],
)
def test_rotate(dim: int, dtype: torch.dtype) -> None:
    atol = BY_DTYPE[dtype]
    x, by = drawn(5, 3, dim, dtype=dtype), rotation([0, 1, -7, 300, 8191], dim, factor=1.3)
    out = triton_rope.rotate(x, by)
    assert out.dtype == dtype
    close(out, turned(x, by), atol)


def test_angles_are_right_at_a_billion_and_next_to_quarter_turns() -> None:
    """355 is 226 quarter turns to 3e-5; past 1e5 a sum of float32 parts would be off."""
    positions = [355, 710, -355, 99_999, 1_000_003, -1_048_575, 16_777_215, 1_000_000_000]
    by = rotation(positions, 64, base=1e6)
    x = drawn(len(positions), 1, 64)
    close(triton_rope.rotate(x, by), turned(x, by), 1e-6)


def test_more_heads_than_one_tile_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton_rope, "HEADS_AT_ONCE", 2)
    kv = torch.full((2, 2, 5, 4, 6), math.nan, device=DEVICE)
    q, k, v = drawn(2, 7, 6), drawn(2, 5, 6, seed=1), drawn(2, 5, 6, seed=2)
    by, slots = rotation([3, 4], 6), torch.tensor([1, 6], device=DEVICE)
    close(triton_rope.rope_and_append(q, k, v, by, kv, slots), turned(q, by), 3e-6)
    close(kv[0, [0, 1], :, [1, 2]], turned(k, by), 3e-6)
    assert torch.equal(kv[1, [0, 1], :, [1, 2]], v)


@pytest.mark.parametrize(
    ("dtype", "page_size", "width"),
    [
        (torch.float32, 1, torch.int64),
        (torch.float16, 3, torch.int32),
        (torch.bfloat16, 16, torch.int64),
    ],
)
def test_rows_go_to_their_slots_and_nowhere_else(
    dtype: torch.dtype, page_size: int, width: torch.dtype
) -> None:
    atol = BY_DTYPE[dtype]
    pages, kv_heads, dim = 48 // page_size, 3, 10
    kv = torch.full((2, pages, kv_heads, page_size, dim), math.nan, device=DEVICE, dtype=dtype)
    q, k, v = (drawn(5, n, dim, dtype=dtype, seed=n) for n in (6, 3, 4))
    v = v[:, :3]
    by, slots = rotation([2, 3, 4, 90, 91], dim), [47, 14, -1, 0, 7]
    where = torch.tensor(slots, device=DEVICE, dtype=width)
    out = triton_rope.rope_and_append(q, k, v, by, kv, where)
    close(out, turned(q, by), atol)
    wanted = torch.full_like(kv, math.nan)
    for row, slot in enumerate(slots):
        if slot >= 0:
            wanted[0, slot // page_size, :, slot % page_size] = turned(k, by)[row].to(dtype)
            wanted[1, slot // page_size, :, slot % page_size] = v[row]
    close(kv[0], wanted[0], atol)
    assert torch.equal(kv[1].nan_to_num(9), wanted[1].nan_to_num(9))


def test_append_writes_what_rope_and_append_writes() -> None:
    q, k, v = drawn(3, 4, 8), drawn(3, 2, 8, seed=1), drawn(3, 2, 8, seed=2)
    by, slots = rotation([4, 5, 6], 8, 1.2), torch.tensor([5, 2, -1], device=DEVICE)
    one, two = (torch.zeros(2, 4, 2, 3, 8, device=DEVICE) for _ in range(2))
    triton_rope.rope_and_append(q, k, v, by, one, slots)
    triton_rope.append(k, v, by, two, slots)
    assert torch.equal(one, two)
    assert one.any()


def views(kind: str) -> tuple[Tensor, ...]:
    """q, k, v ``[3, heads, 8]``: parts of one product, of more heads, or out of order."""
    if kind == "more heads":
        parts = (drawn(3, 4 * skip, 8, seed=skip)[:, ::skip] for skip in (2, 3, 1))
        return tuple(part[:, :heads] for part, heads in zip(parts, (4, 2, 2), strict=True))
    if kind == "one product":
        joint = drawn(3, (4 + 2 + 2) * 8)
        return tuple(part.unflatten(1, (-1, 8)) for part in joint.split([32, 16, 16], dim=1))
    return tuple(drawn(8, heads, 3, seed=heads).permute(2, 1, 0) for heads in (4, 2, 2))


@pytest.mark.parametrize("kind", ["one product", "more heads", "out of order"])
def test_strided_views(kind: str) -> None:
    q, k, v = views(kind)
    assert not q.is_contiguous()
    kv = torch.zeros(2, 4, 2, 3, 8, device=DEVICE)
    by, slots = rotation([4, 5, 6], 8), torch.tensor([5, 2, 9], device=DEVICE)
    out = triton_rope.rope_and_append(q, k, v, by, kv, slots)
    assert out.is_contiguous()
    close(out, turned(q, by), 3e-6)
    pages, offsets = slots // 3, slots % 3
    close(kv[0, pages, :, offsets], turned(k, by), 3e-6)
    assert torch.equal(kv[1, pages, :, offsets], v)


def test_no_rows() -> None:
    x: Any = drawn(0, 2, 8)
    assert triton_rope.rotate(x, rotation([], 8)).shape == (0, 2, 8)
