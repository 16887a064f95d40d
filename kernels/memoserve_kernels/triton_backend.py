"""The Triton kernels behind the doors, one name an op, signatures as in ``reference``."""

from __future__ import annotations

from memoserve_kernels.reference import (
    add_rms_norm,
    append,
    evict_window,
    paged_decode,
    rms_norm,
    rope_and_append,
    rotate,
    silu_mul,
    window_attention,
)

__all__ = [
    "add_rms_norm",
    "append",
    "evict_window",
    "paged_decode",
    "rms_norm",
    "rope_and_append",
    "rotate",
    "silu_mul",
    "window_attention",
]
