"""Outcomes by cell, and the rows they become."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from benchmarks.quality.intervals import bootstrap

MEASURED, NOT_HELD = "measured", "not held"
NO_CONTROL, EMPTIED, OTHER = "", "emptied", "other document"


@dataclass(frozen=True)
class Cell:
    """What a share is of; ``length`` and ``ratio`` are those asked for."""

    measure: str
    kind: str
    ratio: int
    length: int
    control: str = NO_CONTROL


@dataclass(frozen=True)
class Row:
    """A cell with its figures, empty where none could be had; ``tokens`` of a memory on average."""

    measure: str
    kind: str
    ratio: int
    length: int
    control: str
    tokens: int | None
    share: float | None
    low: float | None
    high: float | None
    count: int
    documents: int
    state: str


class Sheet:
    """All outcomes so far; a row for each cell in the order in which cells came."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._outcomes: dict[Cell, dict[int, list[float]]] = {}
        self._tokens: dict[tuple[int, int], list[int]] = {}
        self._rows: dict[Cell, Row] = {}

    def add(self, cell: Cell, document: int, outcomes: Iterable[float]) -> None:
        """Outcomes from 0 to 1 (differences from -1) about one document."""
        self._outcomes.setdefault(cell, {}).setdefault(document, []).extend(map(float, outcomes))
        self._rows.pop(cell, None)

    def held(self, ratio: int, length: int, tokens: int) -> None:
        """A memory of the cells of this ratio and length has so many raw tokens."""
        self._tokens.setdefault((ratio, length), []).append(tokens)

    def not_held(self, cell: Cell) -> None:
        """The server takes no memory of this length at this ratio."""
        self._outcomes.setdefault(cell, {})

    def rows(self) -> list[Row]:
        """A row a cell."""
        for cell in self._outcomes:
            if cell not in self._rows:
                self._rows[cell] = self._row(cell)
        return [self._rows[cell] for cell in self._outcomes]

    def _row(self, cell: Cell) -> Row:
        tokens = self._tokens.get((cell.ratio, cell.length))
        mean = round(sum(tokens) / len(tokens)) if tokens else None
        share = bootstrap(list(self._outcomes[cell].values()), self._seed)
        if share is None:
            return Row(**vars(cell), tokens=mean, **_NOTHING)
        return Row(**vars(cell), tokens=mean, **vars(share), state=MEASURED)


_NOTHING: Mapping[str, Any] = {
    **dict.fromkeys(("share", "low", "high")),
    **dict.fromkeys(("count", "documents"), 0),
    "state": NOT_HELD,
}


def write_csv(path: Path, rows: Sequence[Row], about: Mapping[str, str]) -> None:
    """Rows with what all of them have in common; shares to four digits."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([*(field.name for field in fields(Row)), *about])
        for row in rows:
            writer.writerow([*map(_shown, asdict(row).values()), *about.values()])


def _shown(value: str | float | None) -> str:
    if value is None:
        return ""
    return f"{value:.4f}" if isinstance(value, float) else str(value)


def write_json(path: Path, rows: Sequence[Row], about: Mapping[str, Any]) -> None:
    """What the rows have in common, and the rows."""
    summary = {**about, "rows": [asdict(row) for row in rows]}
    path.write_text(json.dumps(summary, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def read_csv(path: Path) -> list[Row]:
    """Rows of ``write_csv``. Raises KeyError where a column is missing."""
    with path.open(newline="", encoding="utf-8") as file:
        return list(_read(csv.DictReader(file)))


def _read(lines: Iterable[dict[str, str]]) -> Iterator[Row]:
    for line in lines:
        yield Row(
            measure=line["measure"],
            kind=line["kind"],
            ratio=int(line["ratio"]),
            length=int(line["length"]),
            control=line["control"],
            tokens=int(line["tokens"]) if line["tokens"] else None,
            share=_share(line["share"]),
            low=_share(line["low"]),
            high=_share(line["high"]),
            count=int(line["count"]),
            documents=int(line["documents"]),
            state=line["state"],
        )


def _share(text: str) -> float | None:
    return float(text) if text else None
