"""What is read from machine code, and what is a broken limit or a step back from the table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tools.aot.figures import BLOCK_SHARED, Figures, broken_limits
from tools.aot.table import Row, merge, read, steps_back, write

FIGURES = Figures(168, 0, 100_000, 128, 0, frozenset({"wgmma", "wide_loads"}))
PTX = ".visible .entry kernel(\n)\n.reqntid 128\n{"
USAGE = " Function kernel:\n  REG:40 STACK:0 SHARED:0 LOCAL:0 CONSTANT[0]:392"


def _sass(*instructions: str) -> str:
    return "\n".join(f"        /*0000*/    {line} ;" for line in (*instructions, "EXIT"))


@pytest.mark.parametrize(
    ("instruction", "seen"),
    [
        ("LDG.E.128 R4, desc[UR4][R2.64]", {"wide_loads"}),
        ("@P1 LDG.E.ENL2.256 R4, R8, desc[UR4][R2.64]", {"wide_loads"}),
        ("LDG.E.LTC128B.64 R4, desc[UR4][R2.64]", set()),
        ("@!P0 LDG.E.U16 R4, [R2.64]", {"narrow_loads"}),
        ("LDG.E.U8.CONSTANT R4, [R2.64]", {"narrow_loads"}),
        ("LDGSTS.E.BYPASS.LTC128B.128 [R7], [R2.64]", {"async_copy", "wide_loads"}),
        ("LDGSTS.E [R7], [R2.64]", {"async_copy"}),
        ("UTMALDG.2D [UR8], [UR4], desc[UR6]", {"tma", "wide_loads"}),
        ("HGMMA.64x64x16.F32.BF16 R24, gdesc[UR4], RZ", {"wgmma"}),
        ("HMMA.16816.F32.BF16 R4, R8, R12, R4", {"mma"}),
        ("UTCHMMA gdesc[UR4], gdesc[UR8], tmem[UR12]", {"tcgen05"}),
        ("STG.E.U16 desc[UR4][R2.64], R4", set()),
        ("LDS.128 R4, [R2]", set()),
    ],
)
def test_instructions_are_told_apart(instruction: str, seen: set[str]) -> None:
    figures = Figures.read(PTX, _sass(instruction), USAGE, shared=7, tensor_columns=0)
    assert figures == Figures(40, 0, 7, 128, 0, frozenset(seen))


def test_every_spill_is_counted() -> None:
    sass = _sass("STL.64 [R1+0x8], R4", "@P0 LDL.LU R4, [R1]", "LDL R5, [R1+0x8]", "LDS R1, [R2]")
    assert Figures.read(PTX, sass, USAGE, 0, 0).spills == 3


@pytest.mark.parametrize(("ptx", "sass", "usage"), [("", "EXIT", USAGE), (PTX, "", USAGE)])
def test_text_of_something_else_is_no_kernel_without_spills(
    ptx: str, sass: str, usage: str
) -> None:
    with pytest.raises(ValueError, match="not the text of one kernel"):
        Figures.read(ptx, sass, usage, 0, 0)


@pytest.mark.parametrize(
    ("figures", "arch", "blocks"),
    [
        # 65,536 registers: 168 * 128 threads three times, 255 * 256 once (256 a thread).
        (Figures(168, 0, 0, 128, 0, frozenset()), 90, 3),
        (Figures(255, 0, 0, 256, 0, frozenset()), 90, 1),
        (Figures(128, 0, 0, 512, 0, frozenset()), 80, 1),
        (Figures(129, 0, 0, 512, 0, frozenset()), 80, 0),
        # Shared memory and its reserved KiB a block: 2 * (82,944 + 1,024) = 164 KiB.
        (Figures(32, 0, 82_944, 128, 0, frozenset()), 80, 2),
        (Figures(32, 0, 82_945, 128, 0, frozenset()), 80, 1),
        (Figures(32, 0, 82_945, 128, 0, frozenset()), 90, 2),
        (Figures(16, 0, 0, 32, 0, frozenset()), 90, 32),
        (Figures(16, 0, 0, 256, 0, frozenset()), 90, 8),
        (Figures(32, 0, 0, 128, 256, frozenset()), 100, 2),
    ],
)
def test_blocks_a_multiprocessor_holds(figures: Figures, arch: int, blocks: int) -> None:
    assert figures.blocks(arch) == blocks


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"spills": 2}, "2 spill instructions"),
        ({"registers": 256}, "256 registers"),
        ({"shared": BLOCK_SHARED[90] + 1}, "232449 bytes"),
        ({"threads": 512}, "no multiprocessor holds a block"),
        ({"tensor_columns": 513}, "no multiprocessor holds a block"),
        ({"seen": frozenset({"mma"})}, "expects wgmma, and has none"),
    ],
)
def test_a_broken_limit_is_told(change: Mapping[str, Any], said: str) -> None:
    assert broken_limits(FIGURES, 90, ("wgmma",)) == []
    assert broken_limits(replace(FIGURES, spills=9), 90, ("wgmma",), may_spill=True) == []
    (found,) = broken_limits(replace(FIGURES, **change), 90, ("wgmma",))
    assert said in found


def test_a_misspelt_expectation_is_told() -> None:
    (found,) = broken_limits(FIGURES, 90, ("wgma",))
    assert "'wgma'" in found


ROW = Row.of("window-bf16-d128", 90, FIGURES, "3.6.0")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"registers": 177}, "177 registers, were 168"),
        ({"spills": 1}, "1 spills, were 0"),
        ({"blocks": 1}, "1 blocks a multiprocessor, were 2"),
        ({"seen": frozenset({"wide_loads"})}, "lost wgmma"),
        ({"seen": ROW.seen | {"narrow_loads"}}, "gained narrow_loads"),
    ],
)
def test_a_step_back_from_the_table_is_told(change: Mapping[str, Any], said: str) -> None:
    worse = replace(ROW, **change)
    assert steps_back([ROW], [worse], []) == [f"window-bf16-d128 sm_90: {said}"]
    assert steps_back([worse], [ROW], []) == []
    assert steps_back([replace(ROW, triton="3.7.1")], [worse], []) == []


def test_a_few_registers_more_are_none() -> None:
    assert steps_back([ROW], [replace(ROW, registers=176)], []) == []


def test_table_and_cases_are_the_same_set() -> None:
    other = replace(ROW, arch=80)
    assert steps_back([other], [ROW], [other.key]) == [
        "window-bf16-d128 sm_80: in the table, and no kernel's case",
        "window-bf16-d128 sm_90: not in the table",
    ]
    fresh = replace(ROW, registers=1)
    kept = replace(ROW, case="rope-bf16-d64")
    assert merge([ROW, other, kept], [fresh], [other.key]) == [kept, fresh]


def test_table_is_read_as_it_was_written_and_sorted(tmp_path: Path) -> None:
    names = ["a-d128", "a-d64", "b-d8"]
    rows = [replace(ROW, case=name, arch=arch) for name in names for arch in (100, 80)]
    write(tmp_path / "table.csv", rows)
    found = read(tmp_path / "table.csv")
    assert set(found) == set(rows)
    keys = [("a-d64", 80), ("a-d64", 100), ("a-d128", 80), ("a-d128", 100), ("b-d8", 80)]
    assert [row.key for row in found] == [*keys, ("b-d8", 100)]
