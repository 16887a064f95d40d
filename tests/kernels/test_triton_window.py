"""``window_attention`` in Triton: every key that is a row's own, and nothing else."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

pytest.importorskip("triton")

import triton
import triton.language as tl

from memoserve_kernels import reference, triton_window
from memoserve_kernels.layout import AttentionLayout, MemoryPages
from memoserve_kernels.triton_pages import tile_rows
from memoserve_kernels.window_tiles import WindowTiles, choose_tiles
from tests.kernels.attention_cases import Shape, Step, make_step

# Bounds of loops that a kernel computes: the interpreter makes integers of arrays of one number.
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
# Small enough that short sequences cross the borders of tiles in both directions.
SMALL = WindowTiles(block_m=16, block_n=16, num_warps=4, num_stages=1)
ATOL = {torch.float32: 2e-6, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}
CASES = {
    "one-row-alone": [Shape(1, 0)],
    "one-row": [Shape(1, 33, 5)],
    "empty-window": [Shape(18, 33)],
    "empty-memory": [Shape(19, 0, 30)],
    "on-borders": [Shape(16, 32, 16)],
    "past-borders": [Shape(17, 33, 16)],
    "before-borders": [Shape(15, 31, 15)],
    "ragged": [Shape(5, 0, 11), Shape(1, 12, 3), Shape(34, 20, 24)],
    "beacons": [Shape(20, 0, 0, 4), Shape(3, 17, 31, 2)],
    "beacons-and-others": [Shape(18, 5, 0, 2), Shape(1, 4, 2), Shape(11, 6, 17, 3)],
}
MIXED = [Shape(9, 21, 14), Shape(18, 5, 3, 2)]


def check(step: Step, sizes: WindowTiles | None = SMALL, descriptors: bool = False) -> None:
    """Output and log-sum-exp of named rows equal those by hand; other rows stay as they were."""
    moved = step.to(DEVICE)
    out = torch.full_like(moved.q, math.nan)
    lse = torch.full(moved.q.shape[:2], math.nan, device=DEVICE)
    triton_window.window_attention(
        moved.q,
        moved.kv,
        moved.layout,
        moved.scale,
        moved.memory,
        out,
        lse,
        sizes=sizes,
        descriptors=descriptors,
    )
    atol = ATOL[step.q.dtype]
    expected = step.by_hand()
    torch.testing.assert_close(out.cpu().double(), expected, atol=atol, rtol=atol, equal_nan=True)
    # Scores are taken in float32 whatever the type: only the sum's order differs.
    expected = step.lse_by_hand()
    torch.testing.assert_close(lse.cpu().double(), expected, atol=4e-6, rtol=2e-6, equal_nan=True)


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("shapes", CASES.values(), ids=CASES.keys())
def test_equals_hand(shapes: list[Shape], seed: int) -> None:
    """Whole tiles through pointers (odd seeds) and through descriptors (even seeds)."""
    check(make_step(shapes, page_size=16, seed=seed), descriptors=seed % 2 == 0)


@pytest.mark.parametrize("page_size", [1, 3, 64])
def test_any_page_size(page_size: int) -> None:
    """Pages smaller than a tile, across its borders, and with several tiles each."""
    check(make_step(MIXED, page_size=page_size, seed=3), descriptors=True)
    check(make_step([Shape(4, 65, 62)], page_size=page_size, seed=4))


@pytest.mark.parametrize(("heads", "kv_heads"), [(2, 2), (7, 1), (6, 2), (28, 4)])
def test_groups(heads: int, kv_heads: int) -> None:
    """Query heads that share a kv head lie in one tile, also where a row is split by its end."""
    check(make_step([Shape(5, 21, 14)], heads=heads, kv_heads=kv_heads, page_size=16, seed=5))


@pytest.mark.parametrize("dtype", ATOL, ids=str)
@pytest.mark.parametrize("dim", [8, 24, 64, 128])
def test_head_dims(dim: int, dtype: torch.dtype) -> None:
    step = make_step([Shape(6, 20, 13)], dim=dim, page_size=16, dtype=dtype, seed=6)
    check(step, descriptors=dim != 24)


@pytest.mark.parametrize("dtype", ATOL, ids=str)
def test_sizes_as_chosen(dtype: torch.dtype) -> None:
    """Sizes of a GPU, and the larger ones of the interpreter."""
    step = make_step([Shape(40, 70, 45), Shape(3, 129, 2)], dim=16, page_size=64, dtype=dtype)
    check(step, sizes=choose_tiles(dtype, 128, 90), descriptors=True)
    check(step, sizes=None)


@pytest.mark.parametrize(("page_size", "memory_page_size"), [(16, 32), (4, 7), (16, 3)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_memory_in_8_bits(dtype: torch.dtype, page_size: int, memory_page_size: int) -> None:
    step = make_step(
        [Shape(9, 41, 14), Shape(2, 32, 3), Shape(3, 0, 5)],
        dim=16,
        page_size=page_size,
        dtype=dtype,
        seed=8,
        memory_dtype=torch.int8,
        memory_page_size=memory_page_size,
    )
    check(step, descriptors=memory_page_size == 32)


def test_rows_of_nobody_are_left_alone() -> None:
    step = make_step([Shape(6, 5, 3), Shape(2, 9)], page_size=16, seed=9, gap=5)
    assert step.by_hand().isnan().any()
    check(step)
    some = AttentionLayout(step.layout.sequences[1:], *_visibility(step))
    check(Step(step.q, step.kv, some, step.scale))


def _visibility(step: Step) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return step.layout.columns, step.layout.limits, step.layout.starts


def test_rows_may_lie_apart() -> None:
    """Queries as a part of a wider product, output likewise."""
    step = make_step([Shape(9, 21, 14)], page_size=16, seed=10).to(DEVICE)
    wide = torch.full((9, 7, 8), math.nan, device=DEVICE)
    wide[:, :4] = step.q
    out = torch.full((9, 6, 8), math.nan, device=DEVICE)
    triton_window.window_attention(
        wide[:, :4], step.kv, step.layout, step.scale, None, out[:, 2:], None, sizes=SMALL
    )
    expected = step.to(torch.device("cpu")).by_hand()
    torch.testing.assert_close(out[:, 2:].cpu().double(), expected, atol=2e-6, rtol=2e-6)
    assert out[:, :2].isnan().all()


def test_limits_end_with_the_window() -> None:
    """A limit past the window shows all of it, later columns too, and no slot after it."""
    step = make_step([Shape(5, 7, 20)], page_size=16, seed=14)
    everything = torch.full_like(step.layout.limits, 1000)
    columns, _, starts = _visibility(step)
    layout = AttentionLayout(step.layout.sequences, columns, everything, starts)
    expected = torch.empty_like(step.q)
    reference.window_attention(step.q, step.kv, layout, step.scale, None, expected, None)
    step = Step(step.q, step.kv, layout, step.scale).to(DEVICE)
    out = torch.full_like(step.q, math.nan)
    triton_window.window_attention(
        step.q, step.kv, step.layout, step.scale, None, out, None, sizes=SMALL
    )
    torch.testing.assert_close(out.cpu(), expected, atol=2e-6, rtol=2e-6)


@triton.jit
def _rows_of_tile(
    table: tl.tensor, found: tl.tensor, first: tl.tensor, end: tl.tensor, WHOLE: tl.constexpr
) -> None:
    origin, offsets = tile_rows(table, first, end, 3, 8, 64, 16, WHOLE, True)
    tl.store(found + tl.arange(0, 16), origin + offsets)


@pytest.mark.parametrize("whole", [True, False])
def test_rows_of_large_pools(whole: bool) -> None:
    """Row numbers past 2^31: head 3 of 8 in pages of 64 rows, at the end of page 2^28."""
    table = torch.tensor([5, 2**28], dtype=torch.int32, device=DEVICE)
    found = torch.zeros(16, dtype=torch.int64, device=DEVICE)
    _rows_of_tile[(1,)](table, found, 112, 128, whole)
    assert found.tolist() == [(2**28 * 8 + 3) * 64 + 48 + lane for lane in range(16)]


def test_large_scores_do_not_overflow() -> None:
    step = make_step([Shape(3, 40, 7)], page_size=16, seed=11)
    check(Step(step.q, step.kv, step.layout, 30.0))


def test_no_sequence_is_no_launch() -> None:
    step = make_step([Shape(3, 4)], seed=12)
    empty = AttentionLayout((), *_visibility(step))
    out = torch.full_like(step.q, math.nan)
    triton_window.window_attention(step.q, step.kv, empty, step.scale, None, out, None)
    assert out.isnan().all()


def _bad(name: str) -> tuple[dict[str, Any], str]:
    step = make_step([Shape(3, 4)])
    q, kv, out = step.q, step.kv, torch.empty_like(step.q)
    eight = torch.zeros_like(kv).to(torch.float8_e4m3fn)
    scales = torch.ones(kv.shape[:-1])
    changed: dict[str, tuple[dict[str, Any], str]] = {
        "type": ({"q": q.double(), "kv": kv.double(), "out": out.double()}, "float64"),
        "types": ({"q": q.half()}, "one type"),
        "dim": ({"q": torch.zeros(3, 4, 320)}, "head dim 320"),
        "scale": ({"scale": -1.0}, "scale -1.0"),
        "strides": ({"out": torch.empty(3, 8, 4).transpose(1, 2)}, "side by side"),
        "kv": ({"kv": kv.transpose(2, 3).contiguous().transpose(2, 3)}, "contiguous"),
        "lse": ({"lse": torch.zeros(3, 4).double()}, "float32"),
        "memory": ({"memory": MemoryPages(kv.half(), scales)}, "int8"),
        "apart": ({"memory": MemoryPages(eight.mT.contiguous().mT, scales)}, "contiguous"),
        "fp8": ({"memory": MemoryPages(eight, scales)}, "float8_e4m3fn"),
    }
    arguments: dict[str, Any] = {
        "q": q,
        "kv": kv,
        "layout": step.layout,
        "scale": step.scale,
        "memory": None,
        "out": out,
        "lse": None,
    }
    arguments.update(changed[name][0])
    return arguments, changed[name][1]


@pytest.mark.parametrize(
    "name",
    ["type", "types", "dim", "scale", "strides", "kv", "lse", "memory", "apart", "fp8"],
)
def test_refuses_by_name(name: str) -> None:
    arguments, message = _bad(name)
    with pytest.raises(ValueError, match=message):
        triton_window.window_attention(**arguments)


def test_tiles_go_over_once_a_step() -> None:
    uploads: list[int] = []

    def upload(values: NDArray[np.int32]) -> torch.Tensor:
        uploads.append(values.size)
        return torch.from_numpy(values)

    step = make_step([Shape(9, 21, 14), Shape(2, 3)], page_size=16, seed=13)
    layout = AttentionLayout(step.layout.sequences, *_visibility(step), upload=upload)
    out = torch.empty_like(step.q)
    for _ in range(2):
        triton_window.window_attention(
            step.q, step.kv, layout, step.scale, None, out, None, sizes=SMALL
        )
    assert len(uploads) == 1
