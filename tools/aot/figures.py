"""What the machine code of one kernel needs and does, read from its PTX and its disassembly.

Limits are those of the table of compute capabilities in the CUDA C++ Programming Guide.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

ARCHES: Final = (80, 90, 100)
# Shared memory in bytes: what one block may take, and what a multiprocessor has for all blocks,
# of which each block costs RESERVED_SHARED beside its own.
BLOCK_SHARED: Final = {80: 166_912, 90: 232_448, 100: 232_448}
TOTAL_SHARED: Final = {80: 167_936, 90: 233_472, 100: 233_472}
RESERVED_SHARED: Final = 1024
# A multiprocessor has four parts of 16,384 registers; a warp takes them 256 at a time.
PARTS: Final = 4
PART_REGISTERS: Final = 16_384
REGISTER_UNIT: Final = 256
WARP: Final = 32
MOST_THREADS: Final = 2048
MOST_BLOCKS: Final = 32
# A thread cannot name more registers than these; ptxas spills the rest.
MOST_REGISTERS: Final = 255
# Columns of tensor memory that all blocks of a multiprocessor share (compute capability 10.0).
TENSOR_COLUMNS: Final = 512

# Words for what is seen in the disassembly. `narrow_loads` is no good sign: a global load of one
# or two bytes is a number, where a page's rows allow sixteen bytes.
_SEEN: Final = {
    "wgmma": re.compile(r"\b[HQI]GMMA\."),
    "mma": re.compile(r"\b[HQI]MMA\."),
    "tcgen05": re.compile(r"\bUTC[HQIO]MMA\b"),
    "tma": re.compile(r"\bUTMALDG\b"),
    "async_copy": re.compile(r"\bLDGSTS\b"),
    "wide_loads": re.compile(r"\bUTMALDG\b|\bLDG(?:STS)?\.[\w.]*\b(?:128|256)\b"),
    "narrow_loads": re.compile(r"\bLDG\.[\w.]*\b[US](8|16)\b"),
}
UNWANTED: Final = frozenset({"narrow_loads"})
WORDS: Final = frozenset(_SEEN)
_SPILL: Final = re.compile(r"\b(?:STL|LDL)\b")
_USAGE: Final = re.compile(r"\bREG:(\d+)\b")
_THREADS: Final = re.compile(r"^\.reqntid\s+(\d+)", re.MULTILINE)


@dataclass(frozen=True)
class Figures:
    """One compiled kernel: registers a thread, spill instructions, bytes and threads a block.

    ``tensor_columns`` is tensor memory a block, 0 before compute capability 10.0. ``seen`` are
    words of ``WORDS``.
    """

    registers: int
    spills: int
    shared: int
    threads: int
    tensor_columns: int
    seen: frozenset[str]

    @classmethod
    def read(cls, ptx: str, sass: str, usage: str, shared: int, tensor_columns: int) -> Figures:
        """From PTX, ``cuobjdump -sass`` and ``-res-usage``; raises ValueError for other text."""
        registers, threads = _USAGE.findall(usage), _THREADS.findall(ptx)
        if len(registers) != 1 or len(threads) != 1 or "EXIT" not in sass:
            raise ValueError("not the text of one kernel, or another compiler's")
        seen = frozenset(word for word, pattern in _SEEN.items() if pattern.search(sass))
        spills = len(_SPILL.findall(sass))
        return cls(int(registers[0]), spills, shared, int(threads[0]), tensor_columns, seen)

    def blocks(self, arch: int) -> int:
        """Blocks that one multiprocessor holds at once; 0: the kernel cannot be launched."""
        if self.shared > BLOCK_SHARED[arch]:
            return 0
        warps = -(-self.threads // WARP)
        unit = -(-self.registers * WARP // REGISTER_UNIT) * REGISTER_UNIT
        most = [
            PART_REGISTERS // unit * PARTS // warps,
            TOTAL_SHARED[arch] // (self.shared + RESERVED_SHARED),
            MOST_THREADS // (warps * WARP),
            MOST_BLOCKS,
        ]
        if self.tensor_columns:
            most.append(TENSOR_COLUMNS // self.tensor_columns)
        return min(most)


def broken_limits(
    figures: Figures, arch: int, expects: tuple[str, ...], *, may_spill: bool = False
) -> list[str]:
    """What is wrong with a compiled kernel whatever the table says; empty if nothing is."""
    found = []
    if figures.spills and not may_spill:
        found.append(f"{figures.spills} spill instructions (STL, LDL)")
    if figures.registers > MOST_REGISTERS:
        found.append(f"{figures.registers} registers a thread, {MOST_REGISTERS} exist")
    if figures.shared > BLOCK_SHARED[arch]:
        found.append(f"{figures.shared} bytes of shared memory, {BLOCK_SHARED[arch]} exist")
    elif figures.blocks(arch) == 0:
        found.append(
            f"no multiprocessor holds a block: {figures.threads} threads of {figures.registers}"
            f" registers, {figures.tensor_columns} columns of tensor memory"
        )
    for word in expects:
        if word not in WORDS:
            found.append(f"expects {word!r}, which is none of {', '.join(sorted(WORDS))}")
        elif word not in figures.seen:
            found.append(f"expects {word}, and has none")
    return found
