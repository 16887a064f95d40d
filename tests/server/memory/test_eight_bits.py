"""Memory rows in 8 bits: the rounding rule, the cache that keeps them, what comes back."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from memoserve.memory.kv_cache import KVCache, KVShape
from memoserve.memory.page_table import PageCopy
from memoserve_kernels.eight_bits import quantise

TYPES = [torch.int8, torch.float8_e4m3fn]
# Half a step: of the row's largest value in int8, of the value itself in fp8 (three bits).
WORST = {torch.int8: 1 / 127, torch.float8_e4m3fn: 1 / 16}
by_type = pytest.mark.parametrize("dtype", TYPES, ids=["int8", "fp8"])


def rows_of(seed: int, spread: float) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    sizes = torch.exp2(torch.randn(6, 2, 2, 3, 1, generator=generator) * spread)
    return torch.randn(6, 2, 2, 3, 8, generator=generator) * sizes


@by_type
@given(seed=st.integers(0, 2**31), spread=st.sampled_from([0.0, 4.0, 20.0]))
def test_error_is_within_half_a_step(dtype: torch.dtype, seed: int, spread: float) -> None:
    rows = rows_of(seed, spread)
    data, scales = quantise(rows, dtype)
    back = data.float() * scales[..., None]
    largest = rows.abs().amax(dim=-1, keepdim=True)
    if dtype == torch.int8:
        assert ((back - rows).abs() <= largest * WORST[dtype] * 1.0001).all()
    else:
        allowed = rows.abs() * WORST[dtype] + scales[..., None] * 2.0**-10
        assert ((back - rows).abs() <= allowed * 1.0001).all()


@by_type
@given(seed=st.integers(0, 2**31))
def test_scales_are_the_smallest_powers_of_two(dtype: torch.dtype, seed: int) -> None:
    rows = rows_of(seed, 3.0)
    limit = 127.0 if dtype == torch.int8 else 448.0
    _, scales = quantise(rows, dtype)
    assert (torch.frexp(scales).mantissa == 0.5).all()
    largest = rows.abs().amax(dim=-1)
    assert (largest <= limit * scales * 1.000001).all()
    assert (largest > limit * scales / 2 * 0.999999).all()


@by_type
@pytest.mark.parametrize("value", [0.0, 1e-44, 127.0, 448.0, 1.0, 3e38])
def test_edges(dtype: torch.dtype, value: float) -> None:
    data, scales = quantise(torch.tensor([[value, -value, 0.0]]), dtype)
    back = data.float() * scales[..., None]
    assert back.isfinite().all()
    assert back[0, 0] == pytest.approx(value, rel=1 / 16, abs=1e-30)
    assert back[0, 1] == -back[0, 0]


@by_type
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_row_that_is_not_finite_stays_so(dtype: torch.dtype, bad: float) -> None:
    data, scales = quantise(torch.tensor([[1.0, bad], [1.0, 2.0]]), dtype)
    back = data.float() * scales[..., None]
    assert back[0].isnan().all()
    assert back[1].isfinite().all()


def cache_of(dtype: torch.dtype, memory_dtype: torch.dtype | None) -> KVCache:
    return KVCache(KVShape(2, 3, 8, dtype, memory_dtype), 5, 4, torch.device("cpu"))


@by_type
@pytest.mark.parametrize("wide", [torch.bfloat16, torch.float32], ids=["bf16", "fp32"])
def test_what_left_comes_back_unchanged(dtype: torch.dtype, wide: torch.dtype) -> None:
    cache = cache_of(wide, dtype)
    slots = torch.tensor([3, 9, 0, 17, 8, 1])
    cache.write_memory(slots, rows_of(1, 3.0).to(wide))
    once = cache.read_memory(slots)
    assert once.dtype == wide
    elsewhere = torch.tensor([20, 21, 30, 33, 2, 25])
    cache.write_memory(elsewhere, once)
    assert torch.equal(cache.read_memory(elsewhere), once)


def test_a_page_holds_as_many_more_rows_as_they_are_smaller() -> None:
    for wide, more in ((torch.bfloat16, 2), (torch.float32, 4)):
        eight, plain = cache_of(wide, torch.int8), cache_of(wide, None)
        assert (eight.page_size, eight.memory_page_size) == (4, 4 * more)
        assert plain.memory_page_size == 4
        assert eight.memory is not None
        assert eight.memory.data.untyped_storage().data_ptr() == eight.data.data_ptr()
        stored = eight.data.nbytes + eight.memory.scales.nbytes
        assert stored == 5 * eight.shape.page_bytes(4)
        assert plain.data.nbytes == 5 * plain.shape.page_bytes(4)


def test_the_two_kinds_of_page_do_not_touch() -> None:
    cache = cache_of(torch.bfloat16, torch.int8)
    memory, window = torch.arange(8), torch.arange(4, 8)  # page 0 in 8 bits, page 1 as it is
    kept, raw = rows_of(2, 1.0)[[0, 1, 2, 3, 4, 5, 0, 1]].bfloat16(), rows_of(3, 1.0)[:4].bfloat16()
    cache.write_memory(memory, kept)
    before = cache.read_memory(memory)
    cache.write(window, raw)
    assert torch.equal(cache.read_memory(memory), before)
    assert torch.equal(cache.read(window), raw)


def test_a_copied_tail_page_takes_its_scales_along() -> None:
    cache = cache_of(torch.bfloat16, torch.int8)
    cache.write_memory(torch.arange(8, 14), rows_of(4, 4.0).bfloat16())
    cache.copy_memory_pages([PageCopy(source=1, target=3, rows=5)])
    assert torch.equal(
        cache.read_memory(torch.arange(24, 29)), cache.read_memory(torch.arange(8, 13))
    )
    assert cache.read_memory(torch.tensor([29])).abs().sum() == 0
