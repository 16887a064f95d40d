"""What the tests of the GPU suite share: a bench of the dry run."""

from __future__ import annotations

import time
from pathlib import Path

from benchmarks.gpu.bench import Bench
from benchmarks.gpu.machine import Machine
from benchmarks.gpu.rows import DRY_DEVICE, Place, Rows, read_rows
from benchmarks.gpu.sizes import DRY

ROOT = Path(__file__).parents[1]
PLACE = Place(DRY_DEVICE, "torch x", "abc", "2026-01-01")


def make_bench(out: Path, seconds: float = 100.0) -> Bench:
    """Rows of it go to ``test.csv`` in ``out``."""
    out.mkdir(exist_ok=True)
    rows = Rows(out / "test.csv", PLACE)
    return Bench(Machine(dry=True), rows, DRY, out, seed=1, deadline=time.monotonic() + seconds)


def told(bench: Bench) -> list[dict[str, str]]:
    """Its rows so far."""
    return read_rows(bench.rows.path)
