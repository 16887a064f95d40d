"""The least a call can cost: bytes over bandwidth and operations over the matrix rate.

Each input is read once and each output written once; rows of a memory that several readers share
count once. No version of a kernel runs much faster than the larger of the two.
"""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.gpu.sizes import Readers, Sizes

ITEM = 2
"""Bytes of a bfloat16 number."""


@dataclass(frozen=True)
class Ceilings:
    """What this device reached in the same run: bytes/s of a copy, FLOP/s of a product."""

    bytes_per_s: float
    flops_per_s: float


@dataclass(frozen=True)
class Cost:
    """Bytes moved and floating-point operations done, at the least."""

    num_bytes: float
    flops: float = 0.0

    def floor_s(self, ceilings: Ceilings) -> float:
        """Seconds below which no version runs."""
        return max(self.num_bytes / ceilings.bytes_per_s, self.flops / ceilings.flops_per_s)

    def bound(self, ceilings: Ceilings) -> str:
        """Which of the two the floor is."""
        moving = self.num_bytes / ceilings.bytes_per_s
        return "bandwidth" if moving >= self.flops / ceilings.flops_per_s else "matrix rate"


def row_bytes(sizes: Sizes, eight_bit: bool = False) -> int:
    """K and V of one row in one layer; in 8 bits with a float32 scale for each head."""
    head = sizes.head_dim + 4 if eight_bit else sizes.head_dim * ITEM
    return 2 * sizes.kv_heads * head


def query_bytes(sizes: Sizes, rows: int) -> int:
    """Queries in and outputs out."""
    return 2 * rows * sizes.heads * sizes.head_dim * ITEM


def decode_cost(sizes: Sizes, case: Readers, window: int, eight_bit: bool = False) -> Cost:
    """One layer's attention of a decode step; each reader has ``window`` rows of its own.

    QK^T and PV are two operations each a row, head, key and dimension.
    """
    memories = 1 if case.shared else case.readers
    kept = memories * case.memory * row_bytes(sizes, eight_bit)
    own = case.readers * window * row_bytes(sizes)
    keys = case.readers * (case.memory + window)
    flops = 4.0 * sizes.heads * sizes.head_dim * keys
    return Cost(kept + own + query_bytes(sizes, case.readers), flops)


def window_cost(sizes: Sizes, rows: int, memory: int, eight_bit: bool = False) -> Cost:
    """One layer's attention of a whole window: ``rows`` rows, causal, behind ``memory`` rows."""
    keys = rows * memory + rows * (rows + 1) / 2
    moved = memory * row_bytes(sizes, eight_bit) + rows * row_bytes(sizes)
    flops = 4.0 * sizes.heads * sizes.head_dim * keys
    return Cost(moved + query_bytes(sizes, rows), flops)


def rope_cost(sizes: Sizes, rows: int) -> Cost:
    """q, k and v in; q and the cache's rows out."""
    return Cost(query_bytes(sizes, rows) + 2 * rows * row_bytes(sizes))


def evict_cost(sizes: Sizes, moves: int) -> Cost:
    """Surviving rows of all layers, read and written."""
    return Cost(2 * moves * sizes.layers * row_bytes(sizes))


def norm_cost(sizes: Sizes, rows: int) -> Cost:
    """``add_rms_norm``: two in, two out."""
    return Cost(4 * rows * sizes.hidden * ITEM)


def gate_cost(sizes: Sizes, rows: int) -> Cost:
    """``silu_mul``: two in, one out."""
    return Cost(3 * rows * sizes.intermediate * ITEM)


def memorize_flops(sizes: Sizes, tokens: int, ratio: int) -> float:
    """Operations of reading a text: the products of every row, and attention over the past.

    The last layer's q, o and MLP, which nobody reads while memorizing, are left out.
    """
    windows, rest = divmod(tokens, sizes.window)
    kv = 2 * sizes.kv_heads * sizes.head_dim * sizes.hidden
    qo = 2 * sizes.heads * sizes.head_dim * sizes.hidden
    mlp = 3 * sizes.hidden * sizes.intermediate
    total = 0.0
    for number in range(windows + (rest > 0)):
        raw = sizes.window if number < windows else rest
        rows = raw + raw // ratio
        memory = number * (sizes.window // ratio)
        inner = 2.0 * rows * (kv + qo + mlp) + window_cost(sizes, rows, memory).flops
        total += (sizes.layers - 1) * inner + 2.0 * rows * kv
    return total
