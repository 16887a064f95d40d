"""``paged_decode`` in Triton: many readers, shared pages, split keys, and nothing else read."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

pytest.importorskip("triton")

from memoserve_kernels import ops, triton_decode
from memoserve_kernels.decode_plan import plan_decode
from memoserve_kernels.decode_tables import DecodeCapacity, DecodeTables
from memoserve_kernels.decode_tiles import DecodeTiles, decode_shape, decode_tiles
from memoserve_kernels.layout import AttentionLayout, SequenceLayout
from tests.kernels.attention_cases import Shape, Step, make_step

# Bounds of loops that a kernel computes: the interpreter makes integers of arrays of one number.
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
# Small enough that short tables cross the borders of tiles, and few readers fill the larger one.
SMALL = (DecodeTiles(16, 16, 4, 1, 1), DecodeTiles(64, 16, 4, 1, 1))
ATOL = {torch.float32: 2e-6, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}


def check(step: Step, tiles: tuple[DecodeTiles, ...] | None = SMALL) -> None:
    """Output and log-sum-exp of named rows equal those by hand; other rows stay as they were."""
    moved = step.to(DEVICE)
    out = torch.full_like(moved.q, math.nan)
    lse = torch.full(moved.q.shape[:2], math.nan, device=DEVICE)
    triton_decode.paged_decode(
        moved.q, moved.kv, moved.layout, moved.scale, moved.memory, out, lse, tiles=tiles
    )
    equals_hand(step, out, lse)


def equals_hand(step: Step, out: torch.Tensor, lse: torch.Tensor) -> None:
    atol = ATOL[step.q.dtype]
    expected = step.by_hand()
    torch.testing.assert_close(out.cpu().double(), expected, atol=atol, rtol=atol, equal_nan=True)
    # Scores are taken in float32 whatever the type: only the sum's order differs.
    expected = step.lse_by_hand()
    torch.testing.assert_close(lse.cpu().double(), expected, atol=4e-6, rtol=2e-6, equal_nan=True)


def with_sequences(step: Step, sequences: list[SequenceLayout]) -> Step:
    old = step.layout
    layout = AttentionLayout(tuple(sequences), old.columns, old.limits, old.starts)
    return replace(step, layout=layout)


def forked(step: Step, memory_rows: int, window_rows: int = 0) -> Step:
    """All readers begin with the first one's tables: whole pages of so many rows, or all of it."""
    first = step.layout.sequences[0]
    size = step.kv.shape[3]
    past_size = size if step.memory is None else step.memory.data.shape[3]
    sequences = []
    for s in step.layout.sequences:
        if memory_rows == first.memory_rows == s.memory_rows:
            s = replace(s, memory_pages=tuple(first.memory_pages))
        else:
            kept = memory_rows // past_size
            s = replace(s, memory_pages=first.memory_pages[:kept] + s.memory_pages[kept:])
        kept = window_rows // size
        sequences.append(replace(s, window_pages=first.window_pages[:kept] + s.window_pages[kept:]))
    return with_sequences(step, sequences)


CASES = {
    "one-row-alone": [Shape(1, 0)],
    "one-key-more-than-a-tile": [Shape(1, 33, 15)],
    "empty-window": [Shape(1, 20), Shape(2, 16)],
    "empty-memory": [Shape(2, 0, 20), Shape(1, 0, 15)],
    "on-borders": [Shape(1, 32, 15), Shape(2, 16, 30)],
    "beacons": [Shape(3, 17, 37, 2), Shape(2, 0, 8, 1)],
    "rows-of-a-prompt": [Shape(11, 35, 7), Shape(1, 40, 2)],
}


@pytest.mark.parametrize("shapes", CASES.values(), ids=CASES.keys())
def test_equals_hand(shapes: list[Shape]) -> None:
    check(make_step(shapes, page_size=16, seed=1))


@pytest.mark.parametrize("page_size", [1, 3, 64])
def test_any_page_size(page_size: int) -> None:
    """Smaller than a tile, across its borders, and with several tiles each; pages shared."""
    step = make_step([Shape(1, 70, 5), Shape(2, 70, 66)], page_size=page_size, seed=2)
    check(forked(step, 64))


@pytest.mark.parametrize(("heads", "kv_heads"), [(2, 2), (7, 1), (6, 2)])
def test_groups(heads: int, kv_heads: int) -> None:
    step = make_step([Shape(1, 19, 2), Shape(2, 19, 4)], heads=heads, kv_heads=kv_heads, seed=3,
                     page_size=16)  # fmt: skip
    check(forked(step, 19))


def test_a_group_larger_than_the_tiles() -> None:
    """Two parts of nine heads for each of two kv heads."""
    step = make_step([Shape(1, 19, 2)], heads=36, kv_heads=2, page_size=16, seed=3)
    check(step, SMALL[:1])


@pytest.mark.parametrize("readers", [2, 7, 64])
def test_readers_of_one_memory(readers: int) -> None:
    """With 64 their rows fill several of the largest tiles; with 7 one of them in part."""
    shapes = [Shape(1, 37, 1 + n % 3) for n in range(readers)]
    step = make_step(shapes, heads=2 + readers % 2, kv_heads=1, page_size=16, seed=readers)
    check(forked(step, 37))


@pytest.mark.parametrize(("memory_rows", "window_rows"), [(32, 0), (37, 16), (33, 32), (16, 0)])
def test_forks(memory_rows: int, window_rows: int) -> None:
    """At page borders, inside pages, of memory and window; one reader with two rows."""
    shapes = [Shape(1, 37, 35), Shape(2, 37, 34), Shape(1, 39, 40)]
    check(forked(make_step(shapes, page_size=16, seed=4), memory_rows, window_rows))


def test_forks_of_forks() -> None:
    """Two of three readers share more than all; the first ends inside a page of the others."""
    step = make_step([Shape(1, 30, 1), Shape(1, 60, 2), Shape(1, 50, 3)], page_size=8, seed=5)
    a, b, c = step.layout.sequences
    b = replace(b, memory_pages=a.memory_pages[:3] + b.memory_pages[3:])
    c = replace(c, memory_pages=b.memory_pages[:6] + c.memory_pages[6:])
    # As if the second had gone on writing in the page whose first rows the first one reads.
    a = replace(a, memory_pages=b.memory_pages[: len(a.memory_pages)])
    check(with_sequences(step, [a, b, c]))


def test_a_beacon_reads_what_its_token_reads() -> None:
    """As another reader with a row of its own: one more column, all the rest shared."""
    step = make_step([Shape(2, 18, 20)], page_size=16, seed=6)
    (both,) = step.layout.sequences
    token = replace(both, last_row=1, window_rows=both.window_rows - 1)
    check(with_sequences(step, [token, replace(both, first_row=1)]))


@pytest.mark.parametrize("head_dim", [24, 64, 128])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_types_and_head_dims(dtype: torch.dtype, head_dim: int) -> None:
    step = make_step([Shape(1, 21, 2), Shape(2, 21)], dim=head_dim, dtype=dtype, page_size=16,
                     kv_heads=1, seed=7)  # fmt: skip
    check(forked(step, 21))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_memory_in_8_bits(dtype: torch.dtype) -> None:
    """In pages of its own size, shared; windows stay in the cache."""
    step = make_step([Shape(1, 53, 17), Shape(2, 53, 1), Shape(1, 0, 3)], dtype=dtype, seed=8,
                     page_size=16, memory_dtype=torch.int8, memory_page_size=32)  # fmt: skip
    check(forked(step, 53))


def test_rows_of_nobody_stay_as_they_are() -> None:
    check(make_step([Shape(1, 17), Shape(2, 5, 3)], page_size=16, gap=2, seed=9))


def test_tiles_of_the_dispatcher_and_its_door(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEMOSERVE_BACKEND", "triton")
    step = make_step([Shape(1, 130, 3), Shape(1, 130, 1)], page_size=64, seed=10)
    step = forked(step, 130)
    moved = step.to(DEVICE)
    out = torch.full_like(moved.q, math.nan)
    lse = torch.full(moved.q.shape[:2], math.nan, device=DEVICE)
    got = ops.paged_decode(moved.q, moved.kv, moved.layout, moved.scale, out=out, lse=lse)
    assert got is out
    equals_hand(step, out, lse)


def test_a_wide_row_of_a_strided_query() -> None:
    """q and out may be parts of wider rows, as a fused projection leaves them."""
    step = make_step([Shape(1, 17, 2), Shape(1, 4, 2)], page_size=16, seed=11)
    moved = step.to(DEVICE)
    wide = torch.zeros(2, 6, 8, device=DEVICE)
    wide[:, :4] = moved.q
    out = torch.full((2, 6, 8), math.nan, device=DEVICE)[:, 1:5]
    lse = torch.empty(2, 4, device=DEVICE)
    triton_decode.paged_decode(
        wide[:, :4], moved.kv, moved.layout, step.scale, None, out, lse, tiles=SMALL
    )
    equals_hand(step, out, lse)


def test_fixed_tables_serve_step_after_step() -> None:
    """Filled anew they give what fresh ones give; rows past a smaller step stay as they are."""
    step = make_step([Shape(1, 37, 4), Shape(1, 37, 2), Shape(1, 37, 19)], page_size=16, seed=12)
    step = forked(step, 37).to(DEVICE)
    shape = decode_shape(step.q, step.kv, None, SMALL)
    capacity = DecodeCapacity.for_batch(shape, rows=3, pages=12)
    tables = DecodeTables.allocate(shape, capacity, DEVICE)
    old = step.layout
    fixed = AttentionLayout((), old.columns, old.limits, old.starts)
    tables.attach(fixed)
    for sequences in (old.sequences[:1], old.sequences, old.sequences[1:2]):
        plan = plan_decode(sequences, 3, shape)
        assert tables.fits(plan)
        tables.fill(plan)
        out = torch.full_like(step.q, math.nan)
        lse = torch.full(step.q.shape[:2], math.nan, device=DEVICE)
        triton_decode.paged_decode(step.q, step.kv, fixed, step.scale, None, out, lse, tiles=SMALL)
        equals_hand(with_sequences(step, list(sequences)).to(torch.device("cpu")), out, lse)


def test_tables_are_attached_once() -> None:
    step = make_step([Shape(1, 3)], page_size=16)
    shape = decode_shape(step.q, step.kv, None, SMALL)
    capacity = DecodeCapacity.for_batch(shape, rows=1, pages=2)
    for number in range(2):
        tables = DecodeTables.allocate(shape, capacity, torch.device("cpu"))
        if number == 0:
            tables.attach(step.layout)
        else:
            with pytest.raises(ValueError, match="already"):
                tables.attach(step.layout)


def test_a_lane_that_the_rows_cannot_fill_is_not_launched() -> None:
    step = make_step([Shape(1, 3)], page_size=16)
    shape = decode_shape(step.q, step.kv, None, SMALL)
    busy = [
        DecodeTables.allocate(shape, DecodeCapacity.for_batch(shape, rows, 9), DEVICE).busy
        for rows in (8, 9)
    ]
    assert busy == [(True, False), (True, True)]


def test_float32_over_8_bits_wants_a_narrow_head() -> None:
    step = make_step([Shape(1, 3)], dim=129, seed=13, memory_dtype=torch.int8)
    with pytest.raises(ValueError, match="at most 128"):
        check(step)


@pytest.mark.parametrize("arch", [80, 90, 100])
def test_each_configuration_is_compiled_ahead_of_time(arch: int) -> None:
    """For each type, with keys of its own and in 8 bits."""
    compiled = {
        (case.labels["dtype"], case.signature["data"] in ("*i8", "*fp8e4nv"),
         case.constexprs["BLOCK_D"], case.constexprs["BLOCK_M"], case.constexprs["BLOCK_N"],
         case.num_warps, case.num_stages)
        for case in triton_decode.aot_cases(arch)
    }  # fmt: skip
    names = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}
    chosen = {
        (name, eight_bits, dim, t.block_m, t.block_n, t.num_warps, t.num_stages)
        for dtype, name in names.items()
        for eight_bits in (False, True)
        for dim in (128, 256)
        if not (eight_bits and dim == 256 and name != "bf16")
        for t in decode_tiles(dtype, dim, arch, eight_bits)
    }
    assert chosen <= compiled
