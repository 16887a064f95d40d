"""The Triton kernels behind the doors, one name an op, signatures as in ``reference``."""

from __future__ import annotations

from memoserve_kernels.triton_decode import paged_decode
from memoserve_kernels.triton_evict import evict_window
from memoserve_kernels.triton_norm import add_rms_norm, rms_norm, silu_mul
from memoserve_kernels.triton_rope import append, rope_and_append, rotate
from memoserve_kernels.triton_window import window_attention

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
