"""Rotation, writing and eviction of rows, norm and gate: against plain formulas."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from memoserve_kernels import ops
from memoserve_kernels.layout import Rotation

BY_DTYPE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 3e-2}
by_dtype = pytest.mark.parametrize(
    ("dtype", "atol"), BY_DTYPE.items(), ids=["fp64", "fp32", "bf16"]
)


def frequencies(dim: int, dtype: torch.dtype = torch.float64) -> Tensor:
    inv_freq = 10000.0 ** (-torch.arange(0, dim, 2, dtype=torch.float64) / dim)
    return inv_freq if dtype == torch.float64 else inv_freq.float()


def turned(x: Tensor, positions: list[int], factor: float = 1.0) -> Tensor:
    """Pair ``i`` with ``i + D/2`` turned by its angle, number by number."""
    out = x.double().clone()
    half = x.shape[-1] // 2
    for row, position in enumerate(positions):
        for i in range(half):
            angle = position * 10000.0 ** (-2 * i / (2 * half))
            a, b = x[row, :, i].double(), x[row, :, i + half].double()
            out[row, :, i] = factor * (a * math.cos(angle) - b * math.sin(angle))
            out[row, :, i + half] = factor * (b * math.cos(angle) + a * math.sin(angle))
    return out


def draw(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


@by_dtype
@pytest.mark.parametrize("factor", [1.0, 1.3])
def test_rotate(dtype: torch.dtype, atol: float, factor: float) -> None:
    positions = [0, 1, 7, 300]
    x = draw(4, 3, 10, dtype=dtype)
    rotation = Rotation(torch.tensor(positions), frequencies(10, dtype), factor)
    out = ops.rotate(x, rotation)
    assert out.dtype == dtype
    torch.testing.assert_close(out.double(), turned(x, positions, factor), atol=atol, rtol=atol)


def test_angles_are_computed_in_float32_whatever_the_type() -> None:
    """A bfloat16 position would be off by hundreds of radians at 100,003."""
    positions = [100_003]
    x = draw(1, 1, 8, dtype=torch.bfloat16)
    out = ops.rotate(x, Rotation(torch.tensor(positions), frequencies(8, torch.float32)))
    torch.testing.assert_close(out.double(), turned(x, positions), atol=5e-2, rtol=5e-2)


@by_dtype
def test_rope_and_append(dtype: torch.dtype, atol: float) -> None:
    kv = torch.full((2, 5, 2, 3, 6), math.nan, dtype=dtype)
    q, k, v = draw(4, 4, 6, dtype=dtype), draw(4, 2, 6, dtype=dtype, seed=1), draw(4, 2, 6, seed=2)
    v = v.to(dtype)
    positions, slots = [2, 3, 4, 90], [13, 14, 0, 7]
    rotation = Rotation(torch.tensor(positions), frequencies(6, dtype))
    out = ops.rope_and_append(q, k, v, rotation, kv, torch.tensor(slots))
    torch.testing.assert_close(out.double(), turned(q, positions), atol=atol, rtol=atol)
    for row, slot in enumerate(slots):
        key, value = kv[:, slot // 3, :, slot % 3]
        torch.testing.assert_close(key.double(), turned(k, positions)[row], atol=atol, rtol=atol)
        assert torch.equal(value, v[row])
    untouched = set(range(15)) - set(slots)
    assert all(kv[:, slot // 3, :, slot % 3].isnan().all() for slot in untouched)


def test_append_writes_what_rope_and_append_writes() -> None:
    k, v, slots = draw(3, 2, 8), draw(3, 2, 8, seed=1), torch.tensor([5, 2, 9])
    rotation = Rotation(torch.tensor([4, 5, 6]), frequencies(8))
    one, two = (torch.zeros(2, 4, 2, 3, 8, dtype=torch.float64) for _ in range(2))
    ops.rope_and_append(draw(3, 4, 8), k, v, rotation, one, slots)
    ops.append(k, v, rotation, two, slots)
    assert torch.equal(one, two)
    assert one.any()


@by_dtype
def test_evict_moves_values_and_turns_keys_once(dtype: torch.dtype, atol: float) -> None:
    """A key written for one position reads, after its move, as if written for the other."""
    layers, dim, size = 3, 8, 4
    old, new = [20, 25, 30, 21], [3, 4, 5, 0]
    sources, targets = [9, 17, 2, 10], [20, 21, 22, 23]
    kv = torch.full((layers, 2, 6, 2, size, dim), math.nan, dtype=dtype)
    k, v = draw(layers, 4, 2, dim, dtype=dtype), draw(layers, 4, 2, dim, dtype=dtype, seed=1)
    inv_freq = frequencies(dim, dtype)
    for layer in range(layers):
        written = Rotation(torch.tensor(old), inv_freq)
        ops.append(k[layer], v[layer], written, kv[layer], torch.tensor(sources))
    before = kv.clone()
    deltas = torch.tensor(new) - torch.tensor(old)
    ops.evict_window(kv, torch.tensor(sources), torch.tensor(targets), Rotation(deltas, inv_freq))
    for layer in range(layers):
        wanted = turned(k[layer], new)
        for row, slot in enumerate(targets):
            key, value = kv[layer, :, slot // size, :, slot % size]
            torch.testing.assert_close(key.double(), wanted[row], atol=atol, rtol=atol)
            assert torch.equal(value, v[layer, row])
    others = [s for s in range(24) if s not in targets]
    pages, offsets = torch.tensor(others) // size, torch.tensor(others) % size
    assert torch.equal(
        kv[:, :, pages, :, offsets].nan_to_num(7), before[:, :, pages, :, offsets].nan_to_num(7)
    )


def test_one_row_may_survive_twice() -> None:
    """A sink row that is a beacon too lands in two slots, each with its own turn."""
    kv = torch.zeros(1, 2, 4, 1, 4, 4, dtype=torch.float64)
    k = draw(1, 1, 4)
    ops.append(k, k, Rotation(torch.tensor([6]), frequencies(4)), kv[0], torch.tensor([2]))
    moves = Rotation(torch.tensor([0, 1]) - 6, frequencies(4))
    ops.evict_window(kv, torch.tensor([2, 2]), torch.tensor([8, 9]), moves)
    for slot, position in ((8, 0), (9, 1)):
        key = kv[0, 0, slot // 4, :, slot % 4]
        torch.testing.assert_close(key, turned(k, [position])[0], atol=1e-12, rtol=0)


@by_dtype
def test_rms_norm(dtype: torch.dtype, atol: float) -> None:
    x, weight = draw(5, 12, dtype=dtype), draw(12, dtype=dtype, seed=1)
    wide = x.double()
    wanted = weight.double() * wide / (wide.pow(2).mean(-1, keepdim=True) + 0.1).sqrt()
    out = ops.rms_norm(x, weight, 0.1)
    assert out.dtype == dtype
    torch.testing.assert_close(out.double(), wanted, atol=atol, rtol=atol)


def test_silu_mul() -> None:
    gate, up = draw(3, 5), draw(3, 5, seed=1)
    wanted = gate / (1 + (-gate).exp()) * up
    torch.testing.assert_close(ops.silu_mul(gate, up), wanted, atol=1e-12, rtol=1e-12)


def test_doors_refuse_what_disagrees() -> None:
    x, kv = draw(3, 2, 4), torch.zeros(2, 2, 2, 4, 4)
    short = Rotation(torch.arange(2), frequencies(4))
    right = Rotation(torch.arange(3), frequencies(4))
    two = torch.arange(2)
    with pytest.raises(ValueError, match="one position a row"):
        ops.rotate(x, short)
    with pytest.raises(ValueError, match="one position a row"):
        ops.rope_and_append(x, x, x, short, kv, torch.arange(3))
    with pytest.raises(ValueError, match="slots disagree"):
        ops.rope_and_append(x, x, x, right, kv, two)
    with pytest.raises(ValueError, match="slots disagree"):
        ops.append(x, x, right, kv, two)
    with pytest.raises(ValueError, match="one move a row"):
        ops.evict_window(kv[None], two, torch.arange(3), short)
    with pytest.raises(ValueError, match="gate and up disagree"):
        ops.silu_mul(x, x[:2])
