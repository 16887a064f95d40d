"""One row a figure, flushed as it comes; where a figure cannot be had, a row says so."""

from __future__ import annotations

import csv
import datetime
import importlib.metadata
import os
import platform
import subprocess
from dataclasses import dataclass
from pathlib import Path

COLUMNS = ("device", "versions", "commit", "date", "op", "shape", "value", "unit", "note")
DRY_DEVICE = "cpu, dry run"
DRY_UNIT = "(dry run, not a measurement)"
# Values that are no number.
NOT_AVAILABLE, NOT_REACHED, FAILED = "not available", "not reached", "failed"


@dataclass(frozen=True)
class Place:
    """Where and with what the rows were taken."""

    device: str
    versions: str
    commit: str
    date: str

    @property
    def dry(self) -> bool:
        """The code paths ran on a CPU; no figure means anything."""
        return self.device == DRY_DEVICE


def _said(*command: str) -> str:
    """First line a command prints, empty where it cannot run."""
    try:
        asked = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30)
    except (OSError, subprocess.SubprocessError):
        return ""
    return next(iter(asked.stdout.splitlines()), "").strip()


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "none"


def find_place(root: Path, dry: bool) -> Place:
    """The place of this process, without touching a CUDA context.

    ``MEMOSERVE_COMMIT`` names the commit of a copy that is no git checkout.
    """
    name, _, driver = _said(
        "nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"
    ).partition(", ")
    versions = {p: _version(p) for p in ("torch", "triton", "transformers", "numpy")}
    versions |= {"driver": driver or "none", "python": platform.python_version()}
    versions["backend"] = os.environ.get("MEMOSERVE_BACKEND") or "by device"
    git = ("git", "-C", str(root))
    commit = _said(*git, "rev-parse", "--short", "HEAD")
    if commit and _said(*git, "status", "--porcelain", "--untracked-files=no"):
        commit += "+changes"
    return Place(
        device=DRY_DEVICE if dry else name or "no GPU",
        versions="; ".join(f"{name} {version}" for name, version in versions.items()),
        commit=os.environ.get("MEMOSERVE_COMMIT") or commit or "unknown",
        date=datetime.datetime.now(datetime.UTC).date().isoformat(),
    )


class Rows:
    """Appends to one CSV file; made with its header where it is missing."""

    def __init__(self, path: Path, place: Place) -> None:
        self.path = path
        self.place = place
        if not path.exists():
            self._append(COLUMNS)

    def add(self, op: str, shape: str, value: float | str, unit: str, note: str = "") -> None:
        """A figure, to four significant digits."""
        number = value if isinstance(value, str) else f"{value:.4g}"
        if self.place.dry:
            unit = f"{unit} {DRY_UNIT}".strip()
        place = self.place
        note = " ".join(note.split())[:400]
        row = (place.device, place.versions, place.commit, place.date)
        self._append((*row, op, shape, number, unit, note))
        print(f"{self.path.stem:11} {op:28} {shape:58} {number:>12} {unit} {note}", flush=True)

    def _append(self, row: tuple[str, ...]) -> None:
        with self.path.open("a", newline="", encoding="utf-8") as file:
            csv.writer(file).writerow(row)


def read_rows(path: Path) -> list[dict[str, str]]:
    """Rows of a file, none where there is no file."""
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))
