"""One process of a stage: its sections in turn, on the device."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.gpu.bench import Bench, DeviceLost, Section
from benchmarks.gpu.machine import Machine
from benchmarks.gpu.rows import NOT_AVAILABLE, Rows
from benchmarks.gpu.sizes import DRY, FULL

if TYPE_CHECKING:
    from benchmarks.gpu.driver import Run

# Modules with the sections of each stage, in order.
MODULES = {
    "correctness": ("check_attention", "check_rows", "check_golden"),
    "ceilings": ("ceilings",),
    "kernels": ("kernel_times",),
    "engine": ("engine_times", "engine_tiers"),
    "peers": ("peers", "full_kv"),
    "sanitizer": ("sanitizer",),
    "small kernels": ("small_kernels",),  # no stage of its own: what the sanitizer runs
}


def sections_of(stage: str) -> dict[str, Section]:
    """Sections of a stage by name; imports no other stage's code."""
    found: dict[str, Section] = {}
    for name in MODULES[stage]:
        found |= importlib.import_module(f"benchmarks.gpu.{name}").SECTIONS
    return found


def run_sections(
    run: Run, stage: str, deadline: float, wanted: list[str] | None, progress: Path
) -> int:
    """Run the named sections, or all, until ``deadline`` on the monotonic clock.

    ``progress`` always names the running section and those after it.
    """
    rows = Rows(run.out / f"{stage}.csv", run.place)
    missing = "" if run.place.dry else Machine.missing()
    if missing:
        rows.add(stage, "all", NOT_AVAILABLE, "", missing)
        return 0
    sections = sections_of(stage)
    names = wanted or list(sections)
    sizes = DRY if run.place.dry else FULL
    bench = Bench(Machine(run.place.dry), rows, sizes, run.out, run.seed, deadline)
    for number, name in enumerate(names):
        progress.write_text("\n".join(names[number:]))
        try:
            bench.guard(name, "section", sections[name], bench)
        except DeviceLost as error:
            print(f"the device's context is lost: {error}", flush=True)
            return 3
        bench.machine.tidy()
    return 0
