"""The committed table of what the kernels compile to, and what counts as a step back from it."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

from tools.aot.figures import UNWANTED, Figures

COLUMNS: Final = (
    "case",
    "arch",
    "registers",
    "spills",
    "shared_bytes",
    "threads",
    "blocks_per_multiprocessor",
    "seen",
    "triton",
)
# A change elsewhere in a kernel may move its registers a little without costing a block.
REGISTER_SLACK: Final = 8
Key: TypeAlias = tuple[str, int]


@dataclass(frozen=True)
class Row:
    """One case on one architecture; ``seen`` as in Figures, ``triton`` the compiler's version."""

    case: str
    arch: int
    registers: int
    spills: int
    shared: int
    threads: int
    blocks: int
    seen: frozenset[str]
    triton: str

    @classmethod
    def of(cls, case: str, arch: int, figures: Figures, triton: str) -> Row:
        """The row of a fresh compilation."""
        return cls(
            case,
            arch,
            figures.registers,
            figures.spills,
            figures.shared,
            figures.threads,
            figures.blocks(arch),
            figures.seen,
            triton,
        )

    @property
    def key(self) -> Key:
        """What the row is about."""
        return self.case, self.arch

    def cells(self) -> list[str]:
        """The row as text, in the order of COLUMNS."""
        numbers = (self.registers, self.spills, self.shared, self.threads, self.blocks)
        seen = " ".join(sorted(self.seen))
        return [self.case, f"sm_{self.arch}", *map(str, numbers), seen, self.triton]

    @classmethod
    def parse(cls, cells: Sequence[str]) -> Row:
        """The inverse of ``cells``; ValueError for anything else."""
        case, arch, *numbers, seen, triton = cells
        registers, spills, shared, threads, blocks = map(int, numbers)
        number = int(arch.removeprefix("sm_"))
        words = frozenset(seen.split())
        return cls(case, number, registers, spills, shared, threads, blocks, words, triton)


def read(path: Path) -> list[Row]:
    """Rows of the table; none where there is no file, ValueError where it is another file."""
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        lines = list(csv.reader(file))
    if not lines or lines[0] != list(COLUMNS):
        raise ValueError(f"{path} does not begin with {','.join(COLUMNS)}")
    return [Row.parse(line) for line in lines[1:]]


def write(path: Path, rows: Iterable[Row]) -> None:
    """All rows, sorted so that a change of one kernel changes its lines alone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        lines = csv.writer(file, lineterminator="\n")
        lines.writerow(COLUMNS)
        lines.writerows(row.cells() for row in sorted(rows, key=_order))


def _order(row: Row) -> list[tuple[int, str]]:
    """By name with numbers as numbers (d64 before d128), then by architecture."""
    parts = re.findall(r"\d+|\D+", f"{row.case} {row.arch}")
    return [(int(part), "") if part.isdigit() else (-1, part) for part in parts]


def merge(table: Iterable[Row], fresh: Sequence[Row], gone: Iterable[Key]) -> list[Row]:
    """The table with fresh rows in the place of old ones, and without the rows that are gone."""
    dropped = {row.key for row in fresh} | set(gone)
    return [row for row in table if row.key not in dropped] + list(fresh)


def steps_back(table: Iterable[Row], fresh: Iterable[Row], gone: Iterable[Key]) -> list[str]:
    """In words, where fresh rows are worse than the table's; rows missing on either side too.

    ``gone`` are rows of the table without a case. Figures of another Triton are not compared.
    """
    old = {row.key: row for row in table}
    found = [f"{case} sm_{arch}: in the table, and no kernel's case" for case, arch in gone]
    for row in fresh:
        before = old.get(row.key)
        if before is None:
            found.append(f"{row.case} sm_{row.arch}: not in the table")
        elif before.triton == row.triton:
            found += [f"{row.case} sm_{row.arch}: {what}" for what in _worse(before, row)]
    return found


def _worse(before: Row, now: Row) -> list[str]:
    found = []
    if now.registers > before.registers + REGISTER_SLACK:
        found.append(f"{now.registers} registers, were {before.registers}")
    if now.spills > before.spills:
        found.append(f"{now.spills} spills, were {before.spills}")
    if now.blocks < before.blocks:
        found.append(f"{now.blocks} blocks a multiprocessor, were {before.blocks}")
    found += [f"lost {word}" for word in sorted(before.seen - now.seen - UNWANTED)]
    found += [f"gained {word}" for word in sorted((now.seen - before.seen) & UNWANTED)]
    return found
