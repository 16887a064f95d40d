"""Runs the stages, each in a process and a time box of its own, whatever becomes of the others.

Imports no torch: a broken installation, too, ends in a row. A stage is a list of sections; where
one takes its process down (an illegal access ends a CUDA context for good) the next one goes on
in a new process.
"""

from __future__ import annotations

import argparse
import secrets
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks.gpu.rows import FAILED, NOT_REACHED, Place, Rows, find_place, read_rows

# Seconds of 9 minutes; what a stage leaves is shared by those after it.
SHARES = {
    "correctness": 150,
    "ceilings": 15,
    "kernels": 110,
    "engine": 150,
    "peers": 65,
    "sanitizer": 50,
}
TOTAL_SECONDS = 540
# A process that was asked to stop by its deadline gets this much longer.
GRACE_SECONDS = 10.0


@dataclass(frozen=True)
class Run:
    """What every stage of a call shares."""

    root: Path
    out: Path
    place: Place
    seed: int

    def command(self, stage: str, ends: float, sections: list[str], progress: Path) -> list[str]:
        """The process of a stage's remaining sections; none named: all of them.

        ``ends`` on the monotonic clock, which is one for all processes: starting up counts too.
        """
        asked = [sys.executable, str(self.root / "benchmarks" / "gpu"), str(self.out)]
        asked += ["--process", stage, "--deadline", str(ends), "--seed", str(self.seed)]
        asked += ["--progress", str(progress), "--sections", *sections]
        return [*asked, "--dry"] if self.place.dry else asked


def time_box(stage: str, waiting: list[str], seconds: float) -> float:
    """Seconds for ``stage`` of what is left for it and all that wait behind it."""
    return seconds * SHARES[stage] / sum(SHARES[name] for name in (stage, *waiting))


def run_stage(run: Run, stage: str, seconds: float) -> bool:
    """Run a stage to its end or to the end of its time. True if nothing failed."""
    rows = Rows(run.out / f"{stage}.csv", run.place)
    ends = time.monotonic() + seconds
    sound = True
    remaining: list[str] = []
    with tempfile.TemporaryDirectory() as scratch:
        progress = Path(scratch) / "progress"
        while (left := ends - time.monotonic()) > 0:
            progress.write_text("")
            command = run.command(stage, ends, remaining, progress)
            ended, why = _run_process(command, run.root, left + GRACE_SECONDS)
            if ended:
                return sound and not _bad_rows(rows.path)
            sound = False
            begun, remaining = _read_progress(progress)
            rows.add(begun or stage, "section", FAILED, "", why)
            if not begun or not remaining:
                return False
    for section in remaining:
        rows.add(section, "section", NOT_REACHED, "", "the stage's time was up")
    return False


def _run_process(command: list[str], root: Path, seconds: float) -> tuple[bool, str]:
    """Whether it ended well, and otherwise how it ended."""
    try:
        code = subprocess.run(command, cwd=root, timeout=seconds, check=False).returncode
    except subprocess.TimeoutExpired:
        return False, f"stopped after {seconds:.0f} s"
    return code == 0, f"the process ended with code {code}"


def _read_progress(path: Path) -> tuple[str, list[str]]:
    """The section that was running, and those after it."""
    lines = path.read_text().splitlines()
    return (lines[0], lines[1:]) if lines else ("", [])


def _bad_rows(path: Path) -> list[dict[str, str]]:
    """Rows that failed, and checks that did not pass."""
    return [
        row for row in read_rows(path) if row["value"] == FAILED or row["note"].startswith("FAIL")
    ]


def run_stages(run: Run, stages: list[str], seconds: float) -> list[str]:
    """Every stage in turn; returns the names of those in which something failed."""
    ends = time.monotonic() + seconds
    failed = []
    for number, stage in enumerate(stages):
        path = run.out / f"{stage}.csv"
        path.unlink(missing_ok=True)
        box = time_box(stage, stages[number + 1 :], max(ends - time.monotonic(), 1.0))
        print(f"== {stage}: at most {box:.0f} s", flush=True)
        began = time.monotonic()
        if not run_stage(run, stage, box):
            failed.append(stage)
        rows, bad = read_rows(path), len(_bad_rows(path))
        print(f"== {stage}: {len(rows)} rows, {bad} bad, {time.monotonic() - began:.0f} s")
    return failed


def main(arguments: list[str], root: Path) -> int:
    """The command line; 0 where nothing failed."""
    parser = argparse.ArgumentParser(prog="benchmarks/gpu_suite.sh", description=__doc__)
    parser.add_argument("out", type=Path, help="directory of the CSV files, one a stage")
    parser.add_argument("stages", nargs="*", metavar="stage", help=", ".join(SHARES))
    parser.add_argument("--seconds", type=float, default=TOTAL_SECONDS, help="for all stages")
    parser.add_argument("--seed", type=int, help="of the random inputs; drawn where not given")
    parser.add_argument("--dry", action="store_true", help="tiny shapes on a CPU, no figures")
    for name in ("--process", "--progress"):
        parser.add_argument(name, help=argparse.SUPPRESS)
    parser.add_argument("--deadline", type=float, help=argparse.SUPPRESS)
    parser.add_argument("--sections", nargs="*", help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    unknown = sorted(set(given.stages) - set(SHARES))
    if unknown:
        parser.error(f"unknown stage {', '.join(unknown)}; known: {', '.join(SHARES)}")
    given.out.mkdir(parents=True, exist_ok=True)
    seed = secrets.randbelow(2**31) if given.seed is None else given.seed
    run = Run(root, given.out.resolve(), find_place(root, given.dry), seed)
    if given.process:
        from benchmarks.gpu.process import run_sections

        progress = Path(given.progress)
        return run_sections(run, given.process, given.deadline, given.sections, progress)
    print(f"{run.place.device}; {run.place.versions}; commit {run.place.commit}; seed {seed}")
    stages = [stage for stage in SHARES if stage in (given.stages or SHARES)]
    failed = run_stages(run, stages, given.seconds)
    print(f"failed: {', '.join(failed)}" if failed else "nothing failed")
    return 1 if failed else 0
