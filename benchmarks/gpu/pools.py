"""Attention problems of any size in paged pools: pages in random order, every key random."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import accumulate

import torch
from torch import Tensor

from benchmarks.gpu.machine import Machine
from benchmarks.gpu.sizes import Readers, Sizes
from memoserve_kernels import eight_bits
from memoserve_kernels.layout import AttentionLayout, MemoryPages, Rotation, SequenceLayout


@dataclass(frozen=True)
class Problem:
    """Arguments of ``window_attention`` and ``paged_decode``."""

    q: Tensor
    kv: Tensor
    layout: AttentionLayout
    scale: float
    memory: MemoryPages | None = None

    def fresh(self) -> Problem:
        """The same step with nothing derived yet."""
        return replace(self, layout=replace(self.layout, _derived={}))


@dataclass(frozen=True)
class Sequence:
    """Query rows, memory rows and window rows (the query rows included) of one sequence.

    Sequences of equal ``memory_of`` read the same memory pages, the first ``memory`` rows of them.
    """

    queries: int
    memory: int
    window: int
    memory_of: int


def decode_sequences(case: Readers, window: int) -> list[Sequence]:
    """One row a reader."""
    return [
        Sequence(1, case.memory, window, 0 if case.shared else reader)
        for reader in range(case.readers)
    ]


def _pages(rows: int, page_size: int) -> int:
    return -(-rows // page_size)


def make_problem(
    machine: Machine,
    sizes: Sizes,
    sequences: list[Sequence],
    seed: int,
    *,
    dtype: torch.dtype = torch.bfloat16,
    memory_type: torch.dtype | None = None,
) -> Problem:
    """A pool just large enough, filled with random rows, and the step over it.

    With ``memory_type`` the memory rows lie in 8 bits in a pool of their own.
    """
    generator, size = machine.generator(seed), sizes.page_size
    # The bytes of a page hold more rows of a byte a number.
    memory_size = size if memory_type is None else size * dtype.itemsize
    memories: dict[int, int] = {}
    for s in sequences:
        memories[s.memory_of] = max(memories.get(s.memory_of, 0), _pages(s.memory, memory_size))
    need = [*memories.values(), *(_pages(s.window, size) for s in sequences)]
    apart = memory_type is not None
    pool = sum(need[len(memories) :]) if apart else sum(need)
    host = torch.Generator().manual_seed(seed)
    order = torch.randperm(pool, generator=host).tolist()
    if apart:
        order = torch.randperm(sum(memories.values()), generator=host).tolist() + order
    runs = [order[last - n : last] for n, last in zip(need, accumulate(need), strict=True)]
    tables = dict(zip(memories, map(tuple, runs), strict=False))
    windows = [tuple(run) for run in runs[len(memories) :]]
    shape = (sizes.kv_heads, size, sizes.head_dim)
    kv = machine.normal(2, max(pool, 1), *shape, dtype=dtype, generator=generator)
    firsts = list(accumulate((s.queries for s in sequences), initial=0))
    layouts = tuple(
        SequenceLayout(
            first_row=first,
            last_row=first + s.queries,
            memory_pages=tables[s.memory_of][: _pages(s.memory, memory_size)],
            memory_rows=s.memory,
            window_pages=own,
            window_rows=s.window,
            causal=True,
        )
        for s, first, own in zip(sequences, firsts, windows, strict=False)
    )
    columns = torch.cat([torch.arange(s.window - s.queries, s.window) for s in sequences])
    columns = columns.to(machine.device)
    layout = AttentionLayout(layouts, columns, torch.zeros_like(columns), torch.zeros_like(columns))
    q = machine.normal(firsts[-1], sizes.heads, sizes.head_dim, dtype=dtype, generator=generator)
    memory = None
    if memory_type is not None:
        pages = max(sum(memories.values()), 1)
        rows = (2, pages, sizes.kv_heads, memory_size, sizes.head_dim)
        memory = eight_bit(machine, rows, memory_type, generator)
    return Problem(q, kv, layout, sizes.head_dim**-0.5, memory)


def eight_bit(
    machine: Machine, shape: tuple[int, ...], dtype: torch.dtype, generator: torch.Generator
) -> MemoryPages:
    """Random rows rounded to 8 bits, in parts: a large pool has no room for float32."""
    data = torch.empty(shape, dtype=dtype, device=machine.device)
    scales = torch.empty(shape[:-1], dtype=torch.float32, device=machine.device)
    step = 4096
    for kind in range(2):
        for first in range(0, shape[1], step):
            part = slice(first, first + step)
            count = data[kind, part].shape[0]
            rows = machine.normal(count, *shape[2:], dtype=torch.float32, generator=generator)
            data[kind, part], scales[kind, part] = eight_bits.quantise(rows, dtype)
    return MemoryPages(data, scales)


def poisoned(problem: Problem) -> Problem:
    """The same with NaN in every slot that no sequence owns: whoever reads one shows it."""
    tables = [
        [(s.memory_pages, s.memory_rows), (s.window_pages, s.window_rows)]
        for s in problem.layout.sequences
    ]
    memory, kept = problem.memory, [0, 1] if problem.memory is None else [1]
    _spoil(problem.kv, [t[kind] for t in tables for kind in kept])
    if memory is not None:
        _spoil(memory.scales[..., None], [t[0] for t in tables])
    return problem


def _spoil(part: Tensor, tables: list[tuple[tuple[int, ...], int]]) -> None:
    """NaN in ``part [2, P, K, S, *]`` but for the first rows of the tables."""
    _, pages, _, size, _ = part.shape
    owned = torch.zeros(pages, size, dtype=torch.bool)
    for table, rows in tables:
        full, rest = divmod(rows, size)
        owned[list(table[:full])] = True
        if rest:
            owned[table[full], :rest] = True
    part.masked_fill_(~owned.to(part.device)[None, :, None, :, None], float("nan"))


def rotation(machine: Machine, positions: Tensor, head_dim: int, base: float = 1e6) -> Rotation:
    """Angles at integer ``positions``."""
    inv_freq = base ** (-torch.arange(0, head_dim, 2, dtype=torch.float64) / head_dim)
    return Rotation(positions.to(machine.device), inv_freq.float().to(machine.device))
