"""How many pages a device has room for: bytes in, pages out.

    pages = floor((free - reserve - graphs - headroom) / page bytes)

``free``: bytes of the device that nothing holds once the weights are loaded. ``reserve``: what the
largest step allocates beside the pool, see ``step_reserve``. ``graphs``: what captured steps keep,
see ``graph_memory.graph_bytes``; nothing where they are off. ``headroom``: a fixed part of
``free``, for what nobody can count: libraries' workspaces, kernels' code, an allocator's gaps.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from memoserve.errors import ResourceExhausted
from memoserve.memory.kv_cache import KVShape
from memoserve.models.config import ModelConfig

HEADROOM_PART: Final = 20
"""Headroom is one part in so many of what is free."""
WIDE_BYTES: Final = 8
"""Bytes of a float64, which tokens are drawn in, and of an index."""
WIDE_COPIES: Final = 8
"""Logits, penalised, cut, weights, waiting times, sorted, their order, their sums."""
PARTIAL_BYTES: Final = 4
"""Bytes of a float32: parts of an attention that is split over the machine."""
FINITE_FLAGS: Final = 3
"""Bytes a number of a slice that is looked at: itself equal, not infinite, and both."""
QUANTISE_BYTES: Final = 13
"""Bytes a number that is brought to 8 bits: in float32, scaled, rounded; then its 8 bits."""
SCALE_BYTES: Final = 16
"""Bytes a row and head of the same: its largest value, mantissa, exponent and scale."""
SLOT_BYTES: Final = 32
"""Bytes a row of a slice: its slot, page and place in that, and what is made of them."""


@dataclass(frozen=True)
class StepSizes:
    """The largest step that the reserve provides for.

    ``rows`` of the forward, beacon rows included; ``logits_rows`` of them go through the head, of
    which ``wide_rows`` at a time are widened to draw from. ``split_rows`` rows of decode steps have
    ``splits`` partial results each. Memories move in slices of ``slice_bytes``, one out and one in
    at a time.
    """

    rows: int
    logits_rows: int
    wide_rows: int
    split_rows: int
    splits: int
    slice_bytes: int


def step_reserve(config: ModelConfig, sizes: StepSizes, shape: KVShape) -> int:
    """Bytes that the largest step takes beside weights and pool.

    A sum over the phases of a step, though their peaks do not coincide: what one phase frees is
    kept by the allocator in blocks that may not fit the next.
    """
    heads, itemsize = config.num_heads, shape.dtype.itemsize
    logits = sizes.logits_rows * config.vocab_size * 2 * itemsize
    drawing = sizes.wide_rows * config.vocab_size * WIDE_BYTES * WIDE_COPIES
    # Beside its output each part keeps two sums.
    partials = sizes.split_rows * sizes.splits * heads * (config.head_dim + 2) * PARTIAL_BYTES
    forward = forward_bytes(config, sizes.rows, itemsize)
    return forward + logits + drawing + partials + moving_bytes(shape, sizes.slice_bytes)


def forward_bytes(config: ModelConfig, rows: int, itemsize: int) -> int:
    """Bytes that ``rows`` rows make on their way through the layers, the head left out.

    ``itemsize`` is that of an activation.
    """
    hidden, heads = config.hidden_size, config.num_heads
    q_width, kv_width = heads * config.head_dim, config.num_kv_heads * config.head_dim
    # The stream, its norm, their sum and the output; q raw, beacon, merged, rotated and attended;
    # k and v raw, beacon, merged.
    attention = rows * itemsize * (4 * hidden + 5 * q_width + 6 * kv_width)
    # Gate, up, their product; the norm and the output.
    return attention + rows * itemsize * (3 * config.intermediate_size + 2 * hidden)


def moving_bytes(shape: KVShape, slice_bytes: int) -> int:
    """Bytes of two slices of memories on the device, one that leaves and one that comes.

    However many are under way: they follow one another on a stream, and use its memory in turns.
    A slice that leaves is gathered and looked at for numbers that are not finite, which takes its
    magnitudes and some flags. One that comes is there as it came and in the cache's type, and where
    memories lie in 8 bits as ``quantise`` makes them of it.
    """
    numbers, rows = slice_bytes // shape.dtype.itemsize, -(-slice_bytes // shape.row_bytes)
    leaving = 2 * slice_bytes + FINITE_FLAGS * numbers + SLOT_BYTES * rows
    coming = 2 * slice_bytes + SLOT_BYTES * rows
    if shape.memory_dtype is not None:
        coming += QUANTISE_BYTES * numbers + SCALE_BYTES * (numbers // shape.head_dim)
    return leaving + coming


def pages_that_fit(free: int, reserve: int, page_bytes: int) -> int:
    """Pages of the rule above; 0 where there is no room for one."""
    return max(free - reserve - free // HEADROOM_PART, 0) // page_bytes


def check_pages_fit(num_pages: int, free: int, reserve: int, page_bytes: int) -> None:
    """Refuse a pool of a stated size that leaves no room for a step; headroom is not asked for."""
    needed = num_pages * page_bytes + reserve
    if needed > free:
        raise ResourceExhausted(
            f"a pool of {num_pages} pages takes {num_pages * page_bytes} bytes and a step "
            f"{reserve}; the device has {free} free beside the weights",
            reason="DEVICE_TOO_SMALL",
            bytes_needed=needed,
            bytes_free=free,
            page_bytes=page_bytes,
        )
