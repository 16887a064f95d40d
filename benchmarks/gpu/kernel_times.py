"""Stage ``kernels``: every door at Qwen2-7B shapes, one layer, its floor beside it, L2 cold.

Times are the device's, by events, with the host far enough ahead; what a step derives once for
all layers is derived before. The wall-clock row of ``first call`` holds that too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu.bench import Bench, Section, refusals
from benchmarks.gpu.ceilings import ceilings_of
from benchmarks.gpu.floors import (
    Ceilings,
    Cost,
    decode_cost,
    evict_cost,
    gate_cost,
    norm_cost,
    rope_cost,
    window_cost,
)
from benchmarks.gpu.machine import Timing
from benchmarks.gpu.pools import Problem, Sequence, decode_sequences, make_problem, rotation
from benchmarks.gpu.sizes import Readers
from memoserve_kernels import ops

BF16 = torch.bfloat16


def report(
    bench: Bench, op: str, shape: str, timing: Timing, cost: Cost, ceilings: Ceilings
) -> None:
    """Time, floor, the floor's share of the time, and the rate reached."""
    floor, bound = cost.floor_s(ceilings), cost.bound(ceilings)
    bench.add_time(op, shape, timing, "L2 cold")
    counted = f"{cost.num_bytes:.4g} bytes, {cost.flops:.4g} operations"
    bench.rows.add(op, shape, floor * 1e3, "ms floor", f"{bound}; {counted}")
    bench.rows.add(op, shape, 100 * floor / timing.median, "% of the floor's rate", bound)
    if bound == "bandwidth":
        rate = cost.num_bytes / timing.median / 1e9
        bench.rows.add(op, shape, rate, "GB/s", "of the bytes counted")
    else:
        rate = cost.flops / timing.median / 1e12
        bench.rows.add(op, shape, rate, "TFLOP/s", "of the operations counted")


def _timed(
    bench: Bench, op: str, shape: str, cost: Cost, ceilings: Ceilings, call: Callable[[], Any]
) -> Timing:
    timing = bench.machine.time(call)
    report(bench, op, shape, timing, cost, ceilings)
    return timing


def _decode_call(problem: Problem) -> Callable[[], Any]:
    out = torch.empty_like(problem.q)
    return lambda: ops.paged_decode(
        problem.q, problem.kv, problem.layout, problem.scale, memory=problem.memory, out=out
    )


def decode(bench: Bench) -> None:
    """Steps of 1 to 256 readers, of one memory and of separate ones; ratios between them."""
    ceilings, sizes = ceilings_of(bench), bench.sizes
    medians: dict[Readers, float] = {}
    for case in sizes.decode:
        shape = f"{sizes.shape_name} {case.label} window={own_window(bench)}"
        bench.guard("paged_decode", shape, _decode, bench, shape, case, ceilings, medians)
    _ratios(bench, medians)


def own_window(bench: Bench) -> int:
    """Rows of an open window: half full, as it is on average."""
    return bench.sizes.window // 2


def _decode(
    bench: Bench, shape: str, case: Readers, ceilings: Ceilings, medians: dict[Readers, float]
) -> None:
    machine, window = bench.machine, own_window(bench)
    problem = make_problem(machine, bench.sizes, decode_sequences(case, window), bench.seed)
    cost = decode_cost(bench.sizes, case, window)
    timing = _timed(bench, "paged_decode", shape, cost, ceilings, _decode_call(problem))
    medians[case] = timing.median
    first = machine.wall(lambda: _decode_call(problem.fresh())(), 5)
    bench.add_time("paged_decode first call", shape, first, "wall; derives the step too")


def _ratios(bench: Bench, medians: dict[Readers, float]) -> None:
    """Shared against separate memories; and what a longer memory costs the same readers."""
    op = "paged_decode ratio"
    for case, seconds in medians.items():
        apart = medians.get(Readers(case.readers, case.memory, shared=False))
        if case.shared and apart is not None:
            bench.rows.add(op, f"separate / {case.label}", apart / seconds, "x")
    for case, seconds in medians.items():
        base = min(
            (c for c in medians if c.readers == case.readers and c.shared and c.memory),
            key=lambda c: c.memory,
            default=None,
        )
        if base is not None and case.shared and case.memory > base.memory:
            shape = f"{case.label} / memory={base.memory}"
            bench.rows.add(op, shape, seconds / medians[base], "x")


def window(bench: Bench) -> None:
    """A whole window behind a growing memory, at each ratio."""
    ceilings, sizes = ceilings_of(bench), bench.sizes
    for ratio in sizes.ratios:
        rows = sizes.window_rows(ratio)
        for memory in sizes.memory_steps:
            shape = f"{sizes.shape_name} rows={rows} (ratio {ratio}) memory={memory}"
            bench.guard("window_attention", shape, _window, bench, shape, rows, memory, ceilings)


def _window(
    bench: Bench,
    shape: str,
    rows: int,
    memory: int,
    ceilings: Ceilings,
    memory_type: torch.dtype | None = None,
) -> None:
    sizes, sequences = bench.sizes, [Sequence(rows, memory, rows, 0)]
    p = make_problem(bench.machine, sizes, sequences, bench.seed, memory_type=memory_type)
    out = torch.empty_like(p.q)

    def call() -> Any:
        return ops.window_attention(p.q, p.kv, p.layout, p.scale, memory=p.memory, out=out)

    cost = window_cost(sizes, rows, memory, eight_bit=memory_type is not None)
    with refusals():
        _timed(bench, "window_attention", shape, cost, ceilings, call)


def eight_bit(bench: Bench) -> None:
    """Memory pages in 8 bits: a decode and a window of the lists, again."""
    ceilings, sizes = ceilings_of(bench), bench.sizes
    memory = sorted(sizes.memory_steps)[-2]
    rows = sizes.window_rows(sizes.ratios[0])
    for dtype in (torch.int8, torch.float8_e4m3fn):
        name = str(dtype).removeprefix("torch.")
        for case in (Readers(1, memory), Readers(max(sizes.readers), memory)):
            shape = f"{sizes.shape_name} {case.label} window={own_window(bench)} {name}"
            bench.guard("paged_decode", shape, _decode_8, bench, shape, case, ceilings, dtype)
        shape = f"{sizes.shape_name} rows={rows} memory={memory} {name}"
        bench.guard("window_attention", shape, _window, bench, shape, rows, memory, ceilings, dtype)


def _decode_8(
    bench: Bench, shape: str, case: Readers, ceilings: Ceilings, dtype: torch.dtype
) -> None:
    window = own_window(bench)
    sequences = decode_sequences(case, window)
    problem = make_problem(bench.machine, bench.sizes, sequences, bench.seed, memory_type=dtype)
    cost = decode_cost(bench.sizes, case, window, eight_bit=True)
    with refusals():
        _timed(bench, "paged_decode", shape, cost, ceilings, _decode_call(problem))


def rows_in_and_out(bench: Bench) -> None:
    """``rope_and_append`` of steps of 1, 64 and a window's rows; ``evict_window`` of whole ones."""
    ceilings, sizes = ceilings_of(bench), bench.sizes
    for rows in sizes.rows:
        shape = f"{sizes.shape_name} rows={rows}"
        bench.guard("rope_and_append", shape, _rope, bench, shape, rows, ceilings)
    for ratio in sizes.ratios:
        shape = f"{sizes.shape_name} moves={sizes.window // ratio} layers={sizes.layers}"
        bench.guard("evict_window", shape, _evict, bench, shape, ratio, ceilings)


def _rope(bench: Bench, shape: str, rows: int, ceilings: Ceilings) -> None:
    sizes, generator = bench.sizes, bench.machine.generator(bench.seed)

    def draw(*shape: int) -> Tensor:
        return bench.machine.normal(*shape, dtype=BF16, generator=generator)

    heads, dim, size = sizes.kv_heads, sizes.head_dim, sizes.page_size
    pages = -(-rows // size) + 1
    q, k, v = (draw(rows, count, dim) for count in (sizes.heads, heads, heads))
    kv = draw(2, pages, heads, size, dim)
    order = torch.randperm(pages * size, generator=torch.Generator().manual_seed(rows))
    slots = order[:rows].to(bench.machine.device)
    angles = rotation(bench.machine, torch.arange(rows) + 100_000, dim)

    def call() -> Any:
        return ops.rope_and_append(q, k, v, angles, kv, slots)

    _timed(bench, "rope_and_append", shape, rope_cost(sizes, rows), ceilings, call)


def _evict(bench: Bench, shape: str, ratio: int, ceilings: Ceilings) -> None:
    sizes, machine = bench.sizes, bench.machine
    moves, size = sizes.window // ratio, sizes.page_size
    old, new = -(-sizes.window_rows(ratio) // size), -(-moves // size)
    shape_kv = (sizes.layers, 2, old + new, sizes.kv_heads, size, sizes.head_dim)
    kv = machine.normal(*shape_kv, dtype=BF16, generator=machine.generator(bench.seed))
    sources = (torch.arange(moves) * (ratio + 1) + ratio).to(machine.device)
    targets = (torch.arange(moves) + old * size).to(machine.device)
    turn = rotation(machine, torch.arange(moves) * -ratio, sizes.head_dim)

    def call() -> Any:
        return ops.evict_window(kv, sources, targets, turn)

    _timed(bench, "evict_window", shape, evict_cost(sizes, moves), ceilings, call)


def element_wise(bench: Bench) -> None:
    """Norm with residual and the gate."""
    ceilings, sizes = ceilings_of(bench), bench.sizes
    for rows in sizes.rows:
        norm, gate = (f"rows={rows} width={w}" for w in (sizes.hidden, sizes.intermediate))
        bench.guard("add_rms_norm", norm, _norm, bench, norm, rows, ceilings)
        bench.guard("silu_mul", gate, _gate, bench, gate, rows, ceilings)


def _norm(bench: Bench, shape: str, rows: int, ceilings: Ceilings) -> None:
    machine, width = bench.machine, bench.sizes.hidden
    generator = machine.generator(bench.seed)
    x, residual = (machine.normal(rows, width, dtype=BF16, generator=generator) for _ in range(2))
    weight = machine.normal(width, dtype=BF16, generator=generator)

    def call() -> Any:
        return ops.add_rms_norm(x, residual, weight, 1e-6)

    _timed(bench, "add_rms_norm", shape, norm_cost(bench.sizes, rows), ceilings, call)


def _gate(bench: Bench, shape: str, rows: int, ceilings: Ceilings) -> None:
    machine, width = bench.machine, bench.sizes.intermediate
    generator = machine.generator(bench.seed)
    gate, up = (machine.normal(rows, width, dtype=BF16, generator=generator) for _ in range(2))
    cost = gate_cost(bench.sizes, rows)
    _timed(bench, "silu_mul", shape, cost, ceilings, lambda: ops.silu_mul(gate, up))


SECTIONS: dict[str, Section] = {
    "decode": decode,
    "window": window,
    "rows": rows_in_and_out,
    "elements": element_wise,
    "eight bits": eight_bit,
}
