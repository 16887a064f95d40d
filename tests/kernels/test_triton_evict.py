"""Eviction in Triton: rows move, keys turn once, 8-bit memories are rounded as the rule says."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from memoserve_kernels import eight_bits, reference
from memoserve_kernels.layout import MemoryPages, Rotation

pytest.importorskip("triton")
from memoserve_kernels import triton_evict

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SIZE = 4
# One row lands twice; one is written nowhere.
SOURCES, TARGETS, DELTAS = [9, 17, 2, 17, 10], [40, 21, 22, 23, -1], [-17, -20, -5_000_003, 0, 4]


def rotation(dim: int, factor: float = 1.0) -> Rotation:
    inv_freq = 1e4 ** (-torch.arange(0, dim, 2, dtype=torch.float64) / dim)
    return Rotation(torch.tensor(DELTAS, device=DEVICE), inv_freq.float().to(DEVICE), factor)


def slots(values: list[int]) -> Tensor:
    return torch.tensor(values, device=DEVICE)


def rows_of(pool: Tensor, of: list[int], size: int) -> Tensor:
    """Rows ``[n, L, 2, K, D]`` (or without D) of a pool ``[L, 2, P, K, S, ...]``."""
    return torch.stack([pool[:, :, slot // size, :, slot % size] for slot in of])


def cache(layers: int, heads: int, dim: int, dtype: torch.dtype, seed: int = 0) -> Tensor:
    """Pages of NaN, but for the sources."""
    kv = torch.full((layers, 2, 12, heads, SIZE, dim), math.nan, dtype=torch.float32)
    generator = torch.Generator().manual_seed(seed)
    for slot in SOURCES:
        drawn = torch.randn(layers, 2, heads, dim, generator=generator)
        kv[:, :, slot // SIZE, :, slot % SIZE] = drawn
    return kv.to(DEVICE, dtype)


def wanted_rows(kv: Tensor, by: Rotation) -> Tensor:
    """Moved rows in float64, turned by the float32 angles."""
    rows = rows_of(kv, SOURCES, SIZE).double()
    angles = (by.positions.float()[:, None] * by.inv_freq).double()[:, None, None]
    first, second = rows[:, :, 0].chunk(2, dim=-1)
    cos, sin = angles.cos() * by.factor, angles.sin() * by.factor
    keys = torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)
    return torch.stack([keys, rows[:, :, 1]], dim=2)


@pytest.mark.parametrize(
    ("dtype", "atol"), [(torch.float32, 3e-6), (torch.float16, 4e-3), (torch.bfloat16, 3e-2)]
)
@pytest.mark.parametrize(("heads", "dim"), [(3, 6), (2, 64)])
def test_moves(
    dtype: torch.dtype, atol: float, heads: int, dim: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(triton_evict, "HEADS_AT_ONCE", 2)
    kv, by = cache(2, heads, dim, dtype), rotation(dim, 1.1)
    before = kv.clone()
    triton_evict.evict_window(kv, slots(SOURCES), slots(TARGETS), by, None)
    expected = before.double()
    for slot, row in zip(TARGETS, wanted_rows(before, by), strict=True):
        if slot >= 0:
            expected[:, :, slot // SIZE, :, slot % SIZE] = row
    torch.testing.assert_close(kv.double(), expected, atol=atol, rtol=atol, equal_nan=True)
    values = rows_of(kv, TARGETS[:-1], SIZE)[:, :, 1]
    assert torch.equal(values, rows_of(before, SOURCES[:-1], SIZE)[:, :, 1])


def empty_memory(kv: Tensor, size: int, dtype: torch.dtype = torch.int8) -> MemoryPages:
    layers, _, _, heads, _, dim = kv.shape
    data = torch.full((layers, 2, 20, heads, size, dim), 99, dtype=torch.int8, device=DEVICE)
    scales = torch.full((layers, 2, 20, heads, size), 7.0, device=DEVICE)
    return MemoryPages(data.view(dtype), scales)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_into_eight_bits(dtype: torch.dtype) -> None:
    """Values are those of the rule, bit by bit; keys are off by half a step of the least scale."""
    kv, by, size = cache(2, 3, 24, dtype), rotation(24), 3
    memory, source = empty_memory(kv, size), kv.clone()
    triton_evict.evict_window(kv, slots(SOURCES), slots(TARGETS), by, memory)
    kept = TARGETS[:-1]
    data, scales = rows_of(memory.data, kept, size), rows_of(memory.scales, kept, size)
    rows = wanted_rows(source, by)[:-1]
    by_rule = eight_bits.quantise(rows[:, :, 1].float(), torch.int8)
    assert torch.equal(data[:, :, 1], by_rule[0])
    assert torch.equal(scales[:, :, 1], by_rule[1])
    keys, steps = data[:, :, 0] * scales[:, :, 0, :, None], scales[:, :, 0].double()
    assert (((keys - rows[:, :, 0]).abs().amax(-1) / steps) < 0.5001).all()
    assert torch.equal(steps, eight_bits.quantise(rows[:, :, 0].float(), torch.int8)[1].double())
    written = {(slot // size, slot % size) for slot in kept}
    free = [(p, s) for p in range(20) for s in range(size) if (p, s) not in written]
    assert all((memory.data[:, :, p, :, s] == 99).all() for p, s in free)
    assert all((memory.scales[:, :, p, :, s] == 7).all() for p, s in free)
    assert torch.equal(kv.nan_to_num(5), source.nan_to_num(5))


def edge_rows() -> Tensor:
    """Rows ``[n, 4]`` whose largest lies at, just below and just above what a scale holds."""
    limit = torch.tensor(127.0)
    up, down = limit.nextafter(torch.tensor(1e9)), limit.nextafter(torch.tensor(0.0))
    largest = torch.stack([limit, up, down, limit * 2**-99, limit * 2.0**90, limit * 2**-110])
    ties = torch.tensor([0.5, 1.5, -2.5])
    rows = torch.cat([largest[:, None], ties * (largest[:, None] / 127)], dim=1)
    return torch.cat([rows, torch.zeros(1, 4), torch.full((1, 4), 1e-40)])


def test_scales_at_their_borders() -> None:
    rows = edge_rows().to(DEVICE)
    count = rows.shape[0]
    kv = torch.zeros(1, 2, count, 1, 1, 4, device=DEVICE)
    kv[0, :, :, 0, 0] = rows
    memory = empty_memory(kv, 1)
    still = Rotation(torch.zeros(count, dtype=torch.int64, device=DEVICE), rotation(4).inv_freq)
    at = torch.arange(count, device=DEVICE)
    triton_evict.evict_window(kv, at, at + 1, still, memory)
    data, scales = eight_bits.quantise(rows, torch.int8)
    for part in (0, 1):
        assert torch.equal(memory.data[0, part, 1 : count + 1, 0, 0], data)
        assert torch.equal(memory.scales[0, part, 1 : count + 1, 0, 0], scales)


@pytest.mark.filterwarnings("ignore:invalid value")
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_row_that_is_not_finite_stays_so(bad: float) -> None:
    kv = torch.ones(1, 2, 3, 1, 1, 4, device=DEVICE)
    kv[0, :, 1, 0, 0, 2] = bad
    memory, one = empty_memory(kv, 1), torch.tensor([1], device=DEVICE)
    by = Rotation(torch.tensor([3], device=DEVICE), rotation(4).inv_freq)
    triton_evict.evict_window(kv, one, one, by, memory)
    assert memory.scales[0, :, 1].isnan().all()


@pytest.mark.skipif(torch.cuda.is_available(), reason="for the interpreter")
def test_float8_is_refused_where_it_would_be_wrong() -> None:
    kv = cache(1, 1, 4, torch.float32)
    memory = empty_memory(kv, 2, torch.float8_e4m3fn)
    with pytest.raises(ValueError, match="float8_e4m3fn"):
        triton_evict.evict_window(kv, slots(SOURCES), slots(TARGETS), rotation(4), memory)


def test_same_as_the_reference() -> None:
    """A last look from the other side: whole pools, both ways."""
    kv, by = cache(2, 2, 8, torch.float32), rotation(8)
    keep = slice(0, -1)  # the reference takes no negative slot
    moves = slots(SOURCES[keep]), slots(TARGETS[keep])
    by = Rotation(by.positions[keep], by.inv_freq)
    mine, theirs = kv.clone(), kv.clone()
    triton_evict.evict_window(mine, *moves, by, None)
    reference.evict_window(theirs, *moves, by, None)
    torch.testing.assert_close(mine, theirs, atol=3e-6, rtol=3e-6, equal_nan=True)
