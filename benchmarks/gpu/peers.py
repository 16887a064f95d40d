"""Stage ``peers``: the same attention by others, in the same process, in turns, with ratios.

A peer that knows no pages gets its keys gathered before the clock starts: one contiguous run a
reader, a memory that readers share copied for each. Each peer's output is compared with ours.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu.bench import Bench, NotAvailable, Section
from benchmarks.gpu.checks import LIMITS
from benchmarks.gpu.pools import Problem, Sequence, decode_sequences, make_problem
from benchmarks.gpu.rows import FAILED
from memoserve_kernels import ops, reference


@dataclass(frozen=True)
class Gathered:
    """The problem as peers take it: ``q [B, H, R, D]``, ``k, v [B, K, keys, D]``.

    The last query row sees all keys, the one before all but the last, and so on.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    paged: Problem

    @property
    def rows(self) -> int:
        """Query rows of one sequence."""
        return self.q.shape[2]


Call = Callable[[], Any]
"""Gives ``[B, H, R, D]``."""


def gather(problem: Problem) -> Gathered:
    """All keys of each sequence in one run; sequences are of one size."""
    parts = [reference.sequence_keys(problem.kv, s) for s in problem.layout.sequences]
    k, v = (torch.stack([pair[kind] for pair in parts]) for kind in (0, 1))
    q = problem.q.unflatten(0, (len(parts), -1)).transpose(1, 2).contiguous()
    return Gathered(q, k, v, problem)


def _module(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except Exception as error:  # a broken binary raises anything
        raise NotAvailable(f"{name} cannot be imported: {error}") from error


def sdpa(g: Gathered) -> Call:
    """PyTorch's own, which picks its kernel."""
    bias = _module("torch.nn.attention.bias")
    mask = bias.causal_lower_right(g.rows, g.k.shape[2]) if g.rows > 1 else None
    attend = torch.nn.functional.scaled_dot_product_attention
    return partial(attend, g.q, g.k, g.v, mask, scale=g.paged.scale, enable_gqa=True)


def flex(g: Gathered) -> Call:
    """FlexAttention, compiled."""
    module = _module("torch.nn.attention.flex_attention")
    past = g.k.shape[2] - g.rows

    def visible(_batch: Tensor, _head: Tensor, row: Tensor, key: Tensor) -> Tensor:
        return row + past >= key

    where = g.q.device
    mask = module.create_block_mask(visible, None, None, g.rows, g.k.shape[2], device=where)
    attend = module.flex_attention
    if where.type == "cuda":
        attend = torch.compile(attend, dynamic=False)
    return partial(attend, g.q, g.k, g.v, None, mask, g.paged.scale, enable_gqa=True)


def flash_attn(g: Gathered) -> Call:
    """flash-attn; causal is aligned to the last key."""
    attend = _module("flash_attn").flash_attn_func
    q, k, v = (part.transpose(1, 2).contiguous() for part in (g.q, g.k, g.v))
    return lambda: attend(q, k, v, softmax_scale=g.paged.scale, causal=True).transpose(1, 2)


def flashinfer(g: Gathered) -> Call:
    """FlashInfer: decode on our own pages as they lie, a window gathered."""
    module, scale = _module("flashinfer"), g.paged.scale
    if g.rows > 1:
        q, k, v = (part[0].transpose(0, 1).contiguous() for part in (g.q, g.k, g.v))
        attend = module.single_prefill_with_kv_cache
        return lambda: attend(q, k, v, causal=True, sm_scale=scale).transpose(0, 1)[None]
    kv, sequences = g.paged.kv, g.paged.layout.sequences
    _, _, kv_heads, size, dim = kv.shape
    if any(s.memory_rows % size for s in sequences):
        raise NotAvailable("its page table has one partly filled page only")
    tables = [[*s.memory_pages, *s.window_pages] for s in sequences]
    ends = torch.tensor([0, *(len(table) for table in tables)]).cumsum(0)
    last = torch.tensor([(s.window_rows - 1) % size + 1 for s in sequences])
    pages = torch.tensor([page for table in tables for page in table])
    integers = (part.to(kv.device, torch.int32) for part in (ends, pages, last))
    space = torch.empty(128 << 20, dtype=torch.uint8, device=kv.device)
    wrapper = module.BatchDecodeWithPagedKVCacheWrapper(space, "HND", use_tensor_cores=True)
    heads = g.q.shape[1]
    kinds = {"q_data_type": kv.dtype, "kv_data_type": kv.dtype}
    wrapper.plan(*integers, heads, kv_heads, dim, size, sm_scale=scale, **kinds)
    q = g.q[:, :, 0].contiguous()
    return lambda: wrapper.run(q, (kv[0], kv[1]))[:, :, None]


PEERS = {"sdpa": sdpa, "flash-attn": flash_attn, "flashinfer": flashinfer}
SLOW_PEERS = {"flex attention": flex}
"""Compiled anew for each shape: they come last, or nothing else would be reached."""


def _ours(op: str, problem: Problem) -> Call:
    door, out = getattr(ops, op), torch.empty_like(problem.q)
    return lambda: door(problem.q, problem.kv, problem.layout, problem.scale, out=out)


Peers = Mapping[str, Callable[[Gathered], Call]]


def compare(bench: Bench, op: str, shape: str, sequences: list[Sequence], named: Peers) -> None:
    """Ours and the named peers on one problem."""
    problem = make_problem(bench.machine, bench.sizes, sequences, bench.seed)
    ours = _ours(op, problem)
    timing = bench.machine.time(ours)
    bench.add_time(op, f"{shape} ours", timing, "L2 cold")
    gathered = gather(problem)
    wanted = ours().unflatten(0, (len(sequences), -1)).transpose(1, 2)
    for name, make in named.items():
        label = f"{shape} {name}"
        bench.guard(op, label, _peer, bench, op, label, make, gathered, wanted, timing.median)


def _peer(
    bench: Bench,
    op: str,
    shape: str,
    make: Callable[[Gathered], Call],
    gathered: Gathered,
    wanted: Tensor,
    ours_s: float,
) -> None:
    call = make(gathered)
    found = call().double()
    ratio = float((found - wanted.double()).norm() / wanted.double().norm())
    limit = 2 * LIMITS[gathered.q.dtype].norm
    if not ratio <= limit:
        why = f"its output differs from ours by a norm ratio of {ratio:.2g}, limit {limit:g}"
        bench.rows.add(op, shape, FAILED, "", why)
        return
    timing = bench.machine.time(call)
    bench.add_time(op, shape, timing, f"L2 cold; norm ratio to ours {ratio:.2g}")
    bench.rows.add(op, f"{shape} / ours", timing.median / ours_s, "x time")


def decode(bench: Bench, named: Peers) -> None:
    """Steps of one row a reader."""
    sizes, op = bench.sizes, "paged_decode"
    own = sizes.window // 2
    for case in sizes.peer_decode:
        shape = f"{sizes.shape_name} {case.label} window={own}"
        bench.guard(op, shape, compare, bench, op, shape, decode_sequences(case, own), named)
        bench.machine.tidy()


def window(bench: Bench, named: Peers) -> None:
    """A whole window behind a memory."""
    sizes, op = bench.sizes, "window_attention"
    rows = sizes.window_rows(sizes.ratios[0])
    for memory in sizes.peer_memory:
        shape = f"{sizes.shape_name} rows={rows} memory={memory}"
        sequences = [Sequence(rows, memory, rows, 0)]
        bench.guard(op, shape, compare, bench, op, shape, sequences, named)
        bench.machine.tidy()


def quick(bench: Bench) -> None:
    """Peers that are ready at once."""
    window(bench, PEERS)
    decode(bench, PEERS)


def slow(bench: Bench) -> None:
    """Peers that compile each shape."""
    window(bench, SLOW_PEERS)
    decode(bench, SLOW_PEERS)


SECTIONS: dict[str, Section] = {"attention peers": quick}
SLOW_SECTIONS: dict[str, Section] = {"compiled peers": slow}
