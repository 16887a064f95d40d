"""Stage ``correctness``: rotation, writing, eviction, norm and gate, on fresh random rows."""

from __future__ import annotations

from itertools import product

import torch
from torch import Tensor

from benchmarks.gpu.bench import Bench, Section, refusals
from benchmarks.gpu.check_attention import Form, forms
from benchmarks.gpu.checks import LIMITS, Limit, judge, judge_exactly, judge_none
from benchmarks.gpu.pools import rotation
from memoserve_kernels import ops, reference
from memoserve_kernels.layout import MemoryPages

NAN = float("nan")


def _draw(bench: Bench, generator: torch.Generator, form: Form, *shape: int) -> Tensor:
    return bench.machine.normal(*shape, dtype=form.dtype, generator=generator)


def _integers(seed: int, count: int, below: int) -> Tensor:
    """Distinct integers in random order."""
    return torch.randperm(below, generator=torch.Generator().manual_seed(seed))[:count]


def rope(bench: Bench) -> None:
    """``rope_and_append``, ``append`` and ``rotate``; every seventh row is written nowhere."""
    for number, form in enumerate(forms(bench)):
        for rows in (1, 9) if bench.machine.dry else (1, 61, 700):
            seed, shape = bench.seed + 40_000 + 10 * number + rows, f"{form.label} rows={rows}"
            bench.guard("rope_and_append", shape, check_rope, bench, shape, form, rows, seed)


def check_rope(bench: Bench, shape: str, form: Form, rows: int, seed: int) -> None:
    """One step's rows, rotated and written."""
    machine = bench.machine
    generator = machine.generator(seed)
    q = _draw(bench, generator, form, rows, form.heads, form.dim)
    k, v = (_draw(bench, generator, form, rows, form.kv_heads, form.dim) for _ in range(2))
    pages = -(-rows // form.page_size) + 3
    shape_kv = (2, pages, form.kv_heads, form.page_size, form.dim)
    kv = torch.full(shape_kv, NAN, dtype=form.dtype, device=machine.device)
    slots = _integers(seed, rows, pages * form.page_size)
    slots[torch.arange(rows) % 7 == 3] = -1
    slots = slots.to(machine.device)
    angles = rotation(machine, _integers(seed, rows, 200_000), form.dim)
    wanted_kv, plain_kv = kv.double(), kv.clone()
    wanted = reference.rope_and_append(q.double(), k.double(), v.double(), angles, wanted_kv, slots)
    found = ops.rope_and_append(q, k, v, angles, kv, slots)
    ops.append(k, v, angles, plain_kv, slots)
    note, limit = f"seed {seed}", LIMITS[form.dtype]
    judge(bench, "rope_and_append q", shape, found, wanted, limit, note)
    judge(bench, "rotate", shape, ops.rotate(q, angles), wanted, limit, note)
    written = ~wanted_kv.isnan()
    judge(bench, "rope_and_append kv", shape, kv[written], wanted_kv[written], limit, note)
    judge_exactly(bench, "untouched slots", shape, kv.isnan(), ~written, note)
    judge_exactly(bench, "append", shape, plain_kv, kv, note)


def _cache(bench: Bench, form: Form, generator: torch.Generator, pages: int) -> Tensor:
    layers = 3
    return _draw(bench, generator, form, layers, 2, pages, form.kv_heads, form.page_size, form.dim)


def evict(bench: Bench) -> None:
    """``evict_window`` into the cache; sources anywhere, one of them moved twice."""
    for number, form in enumerate(forms(bench)):
        seed = bench.seed + 50_000 + number
        bench.guard("evict_window", form.label, check_evict, bench, form.label, form, seed)


def check_evict(bench: Bench, shape: str, form: Form, seed: int) -> None:
    """One eviction."""
    machine = bench.machine
    moves = 5 if machine.dry else 137
    pages = -(-3 * moves // form.page_size)
    kv = _cache(bench, form, machine.generator(seed), pages)
    slots = _integers(seed, 2 * moves, pages * form.page_size).to(machine.device)
    sources, targets = slots[:moves].clone(), slots[moves:]
    sources[-1] = sources[0]
    turn = rotation(machine, _integers(seed, moves, 3000) - 2500, form.dim)
    wanted, before, note = kv.double(), kv.clone(), f"seed {seed}"
    reference.evict_window(wanted, sources, targets, turn, None)
    ops.evict_window(kv, sources, targets, turn)
    page, offset = targets // form.page_size, targets % form.page_size
    there = (slice(None), slice(None), page, slice(None), offset)
    judge(bench, "evict_window", shape, kv[there], wanted[there], LIMITS[form.dtype], note)
    after = kv.clone()
    after[there] = before[there]
    judge_exactly(bench, "evict_window, others", shape, after, before, note)


def evict_to_eight_bits(bench: Bench) -> None:
    """``evict_window`` into 8-bit pages, of another page size than the cache."""
    for number, form in enumerate(forms(bench)[:2]):
        for dtype in (torch.int8, torch.float8_e4m3fn):
            seed = bench.seed + 60_000 + number
            shape = f"{form.label} to {str(dtype).removeprefix('torch.')}"
            bench.guard("evict_window", shape, check_eight_bits, bench, shape, form, dtype, seed)


def check_eight_bits(bench: Bench, shape: str, form: Form, dtype: torch.dtype, seed: int) -> None:
    """One eviction into 8-bit pages."""
    machine = bench.machine
    moves = 5 if machine.dry else 137
    pages, size = -(-2 * moves // form.page_size), 2 * form.page_size
    kv = _cache(bench, form, machine.generator(seed), pages)
    shape_8 = (3, 2, pages, form.kv_heads, size, form.dim)
    found, wanted = (
        MemoryPages(
            torch.zeros(shape_8, dtype=dtype, device=machine.device),
            torch.full(shape_8[:-1], NAN, device=machine.device),
        )
        for _ in range(2)
    )
    sources = _integers(seed, moves, pages * form.page_size).to(machine.device)
    targets = _integers(seed + 1, moves, pages * size).to(machine.device)
    turn = rotation(machine, _integers(seed, moves, 3000) - 2500, form.dim)
    reference.evict_window(kv, sources, targets, turn, wanted)
    with refusals():
        ops.evict_window(kv, sources, targets, turn, memory=found)
    page, offset = targets // size, targets % size
    there = (slice(None), slice(None), page, slice(None), offset)
    scales = torch.maximum(found.scales[there], wanted.scales[there]).double()[..., None]
    rows, wanted_rows = (
        m.data[there].double() * m.scales[there].double()[..., None] for m in (found, wanted)
    )
    # A key that turned may round to the neighbour, where it lies half way between; values may not.
    step = scales
    if dtype == torch.float8_e4m3fn:
        step = torch.maximum(wanted_rows.abs() / 8, scales * 2.0**-9)
    beyond = ~((rows - wanted_rows).abs() <= step)
    note = f"seed {seed}"
    judge_none(bench, "evict_window keys", shape, beyond, "more than a step off", note)
    flips = Limit(float("inf"), 2e-3)
    judge(bench, "evict_window", shape, rows, wanted_rows, flips, note)
    value, wanted_value = (m.data[:, 1][:, page, :, offset].float() for m in (found, wanted))
    judge_exactly(bench, "evict_window values", shape, value, wanted_value, note)
    untouched, wanted_untouched = (m.scales.isnan() for m in (found, wanted))
    judge_exactly(bench, "evict_window untouched", shape, untouched, wanted_untouched, note)


def element_wise(bench: Bench) -> None:
    """``rms_norm``, ``add_rms_norm`` and ``silu_mul``; gate and up are halves of one product."""
    norms, gates = ((24,), (24,)) if bench.machine.dry else ((3584, 1000), (18944, 1000))
    dtypes = sorted({form.dtype for form in forms(bench)}, key=str)
    work = [(check_norms, width) for width in norms] + [(check_gate, width) for width in gates]
    for number, ((check, width), dtype) in enumerate(product(work, dtypes)):
        seed = bench.seed + 70_000 + number
        shape = f"width={width} {str(dtype).removeprefix('torch.')}"
        bench.guard("norms", shape, check, bench, shape, width, dtype, seed)


def check_norms(bench: Bench, shape: str, width: int, dtype: torch.dtype, seed: int) -> None:
    """Both norms of one width."""
    generator, rows, note = bench.machine.generator(seed), 67, f"seed {seed}"

    def draw(*shape: int) -> Tensor:
        return bench.machine.normal(*shape, dtype=dtype, generator=generator)

    x, residual, weight = draw(rows, width), draw(rows, width), draw(width)
    limit = LIMITS[dtype]
    wide = reference.rms_norm(x.double(), weight.double(), 1e-6)
    judge(bench, "rms_norm", shape, ops.rms_norm(x, weight, 1e-6), wide, limit, note)
    normed, total = ops.add_rms_norm(x, residual, weight, 1e-6)
    sums = x.double() + residual.double()
    judge(bench, "add_rms_norm sum", shape, total, sums, limit, note)
    wide = reference.rms_norm(sums, weight.double(), 1e-6)
    judge(bench, "add_rms_norm", shape, normed, wide, limit, note)


def check_gate(bench: Bench, shape: str, width: int, dtype: torch.dtype, seed: int) -> None:
    """The gate of one width, from the two halves of one product."""
    generator, rows, note = bench.machine.generator(seed), 67, f"seed {seed}"
    both = bench.machine.normal(rows, 2 * width, dtype=dtype, generator=generator)
    gate, up = both.chunk(2, dim=-1)
    wide = reference.silu_mul(gate.double(), up.double())
    judge(bench, "silu_mul", shape, ops.silu_mul(gate, up), wide, LIMITS[dtype], note)


SECTIONS: dict[str, Section] = {
    "rope": rope,
    "evict": evict,
    "evict to 8 bits": evict_to_eight_bits,
    "norms": element_wise,
}
