"""How many pages a device has room for: bytes in, pages out.

    pages = floor((free - reserve - headroom) / page bytes)

``free``: bytes of the device that nothing holds once the weights are loaded. ``reserve``: what the
largest step allocates beside the pool, see ``step_reserve``. ``headroom``: a fixed part of
``free``, for what nobody can count: libraries' workspaces, kernels' code, an allocator's gaps.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from memoserve.errors import ResourceExhausted
from memoserve.models.config import ModelConfig

HEADROOM_PART: Final = 20
"""Headroom is one part in so many of what is free."""
WIDE_BYTES: Final = 8
"""Bytes of a float64, which tokens are drawn in, and of an index."""
WIDE_COPIES: Final = 8
"""Logits, penalised, cut, weights, waiting times, sorted, their order, their sums."""
PARTIAL_BYTES: Final = 4
"""Bytes of a float32: parts of an attention that is split over the machine."""


@dataclass(frozen=True)
class StepSizes:
    """The largest step that the reserve provides for.

    ``rows`` of the forward, beacon rows included; ``logits_rows`` of them go through the head, of
    which ``wide_rows`` at a time are widened to draw from. ``split_rows`` rows of decode steps have
    ``splits`` partial results each. ``copy_bytes`` of a memory are under way at a time.
    """

    rows: int
    logits_rows: int
    wide_rows: int
    split_rows: int
    splits: int
    copy_bytes: int


def step_reserve(config: ModelConfig, sizes: StepSizes, itemsize: int) -> int:
    """Bytes that the largest step takes beside weights and pool; ``itemsize`` of an activation.

    A sum over the phases of a step, though their peaks do not coincide: what one phase frees is
    kept by the allocator in blocks that may not fit the next.
    """
    hidden, heads = config.hidden_size, config.num_heads
    q_width, kv_width = heads * config.head_dim, config.num_kv_heads * config.head_dim
    # The stream, its norm, their sum and the output; q raw, beacon, merged, rotated and attended;
    # k and v raw, beacon, merged.
    attention = sizes.rows * itemsize * (4 * hidden + 5 * q_width + 6 * kv_width)
    # Gate, up, their product; the norm and the output.
    mlp = sizes.rows * itemsize * (3 * config.intermediate_size + 2 * hidden)
    logits = sizes.logits_rows * config.vocab_size * 2 * itemsize
    drawing = sizes.wide_rows * config.vocab_size * WIDE_BYTES * WIDE_COPIES
    # Beside its output each part keeps two sums.
    partials = sizes.split_rows * sizes.splits * heads * (config.head_dim + 2) * PARTIAL_BYTES
    # A slice gathered, and its twin on the way.
    return attention + mlp + logits + drawing + partials + 2 * sizes.copy_bytes


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
