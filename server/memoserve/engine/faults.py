"""What one request is told when it failed alone: for lack of memory, or for a bug."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import torch
from torch import Tensor

from memoserve.errors import MemoserveError, ResourceExhausted
from memoserve.memory.memory import HostState
from memoserve.memory.transfer import Leaving

# Libraries below torch report it in words alone: the CPU's allocator, cuBLAS, the CUDA driver.
_WORDS: Final = ("out of memory", "can't allocate memory", "alloc_failed")
# After these every call on the device fails, whoever makes it.
_LOST: Final = (
    "illegal memory access",
    "illegal instruction",
    "misaligned address",
    "device-side assert",
    "launch failure",
    "launch timed out",
    "uncorrectable",
    "hardware stack error",
)


class SequenceFault(MemoserveError):
    """The model failed on this sequence alone; a bug, told without its text."""

    status = "INTERNAL"
    default_reason = "SEQUENCE_FAULT"


def is_shortage(error: BaseException) -> bool:
    """An allocation failed, on the device or on the host; nothing else is wrong."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(word in str(error).lower() for word in _WORDS)


def is_device_lost(error: BaseException) -> bool:
    """The device runs nothing any more in this process: no matter of one sequence."""
    return isinstance(error, RuntimeError) and any(word in str(error) for word in _LOST)


def shortage(doing: str) -> ResourceExhausted:
    """The error of the one request for which memory was lacking while ``doing`` something."""
    return ResourceExhausted(
        f"there was not enough memory for {doing}; other requests go on", reason="OUT_OF_MEMORY"
    )


def finite_rows(leaving: Leaving) -> HostState:
    """Rows that have left their pages; SequenceFault where not all are finite."""
    if not leaving.all_finite():
        raise SequenceFault("the model gave no usable memory")
    return leaving.host


def finite_part(host: HostState, first_row: int) -> HostState:
    """Rows that lay on the host, from ``first_row`` on; SequenceFault as ``finite_rows``."""
    memory, passed = list[Tensor](), 0
    for block in host.memory_blocks:
        memory.append(block[max(first_row - passed, 0) :])
        passed += block.shape[0]
    part = replace(host, first_row=first_row, memory_blocks=tuple(memory))
    if not all(bool(block.isfinite().all()) for block in (*memory, *host.window_blocks)):
        raise SequenceFault("the model gave no usable memory")
    return part
