"""What is compiled ahead of time, without a GPU: one case a configuration of a kernel."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class AotCase:
    """One compilation of one kernel.

    ``signature`` names every argument with Triton's type (``*bf16``, ``i32``, ``fp32``,
    ``constexpr``, ``tensordesc<...>``); ``aligned`` are the arguments that the launcher guarantees
    to be divisible by 16, as the just-in-time compiler would find out. ``expects`` are properties
    that the compiled code must have: ``wgmma``, ``mma``, ``tma``, ``wide_loads`` (16 bytes at
    once) or ``async_copy``.
    """

    name: str
    kernel: Any
    signature: Mapping[str, str]
    constexprs: Mapping[str, Any]
    aligned: tuple[str, ...] = ()
    num_warps: int = 4
    num_stages: int = 3
    expects: tuple[str, ...] = ()
    # Right, but larger than the registers, and not worth a kernel of its own; the table shows it.
    may_spill: bool = False
    # dtype, head_dim and so on: what the table sorts by and what the quick test picks.
    labels: Mapping[str, str] = field(default_factory=dict)
