"""Stage ``sanitizer``: memcheck and racecheck of compute-sanitizer over small shapes."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

from benchmarks.gpu.bench import Bench, NotAvailable, Section
from benchmarks.gpu.rows import FAILED, read_rows
from benchmarks.gpu.small_kernels import MARK

TOOL = "compute-sanitizer"
# PyTorch asks the driver for things it may lack; what a kernel does wrong raises there too.
# Of the time left: the first tool leaves some for the second.
SHARES = {"memcheck": 0.5}
OPTIONS = {"memcheck": ("--report-api-errors", "no")}
# One line of its report opens each finding.
_FINDING = re.compile(
    r"^=+ +(Invalid |Misaligned |Error: |Warning: |WARN|ERROR: |Program hit |Race reported|"
    r"Uninitialized |Barrier error|Malloc|Out-of-range)"
)
_SUMMARY = re.compile(r"^=+ +(ERROR|RACECHECK) SUMMARY: (\d+)")


def findings(report: str) -> dict[str, list[str]]:
    """Findings of a report by the mark before them."""
    found: dict[str, list[str]] = {}
    current = "start"
    for line in report.splitlines():
        if line.startswith(MARK):
            current = line.removeprefix(MARK).strip()
            found.setdefault(current, [])
        elif _FINDING.match(line) and not _SUMMARY.match(line):
            found.setdefault(current, []).append(line.lstrip("= "))
    return found


def summary(report: str) -> int | None:
    """How many findings the tool counted; None where it did not come to its end."""
    counts = [int(m.group(2)) for m in map(_SUMMARY.match, report.splitlines()) if m]
    return counts[-1] if counts else None


def run_tool(bench: Bench, tool: str) -> None:
    """Rows of one tool: findings by kernel, and what it counted in all."""
    bench.guard(tool, "small shapes", _run_tool, bench, tool)


def _run_tool(bench: Bench, tool: str) -> None:
    path = shutil.which(TOOL)
    if path is None:
        raise NotAvailable(f"{TOOL} is not on the PATH")
    root = Path(__file__).resolve().parents[2]
    with tempfile.TemporaryDirectory() as scratch:
        command = [path, "--tool", tool, "--print-limit", "100", *OPTIONS.get(tool, ())]
        command += [sys.executable]
        command += [str(root / "benchmarks" / "gpu"), scratch, "--process", "small kernels"]
        command += ["--progress", f"{scratch}/progress", "--seed", str(bench.seed)]
        command += ["--deadline", str(bench.deadline)]
        command += ["--dry"] if bench.machine.dry else []
        report, code = _said(command, max(bench.seconds_left * SHARES.get(tool, 1.0), 1.0))
        bad = [r for r in read_rows(Path(scratch) / "small kernels.csv") if _is_bad(r)]
    by_kernel, counted = findings(report), summary(report)
    for kernel, lines in by_kernel.items():
        if kernel != "end":
            verdict = f"FAIL; {lines[0]}" if lines else "pass"
            bench.rows.add(tool, kernel, len(lines), "findings", verdict)
    if counted is None:
        tail = " | ".join(report.splitlines()[-4:])
        bench.rows.add(tool, "all", FAILED, "", f"no summary; code {code}; {tail}")
        return
    whole = "end" in by_kernel
    verdict = "pass" if whole and counted == 0 and not bad else "FAIL"
    said = f"{verdict}; {len(bad)} wrong results; {'ran to the end' if whole else 'cut short'}"
    bench.rows.add(tool, "all", counted, "findings", said)


def _is_bad(row: dict[str, str]) -> bool:
    return row["value"] == FAILED or row["note"].startswith("FAIL")


def _said(command: list[str], seconds: float) -> tuple[str, int]:
    # Every tensor its own allocation, or what lies beside one in a cached block hides a bad access.
    environment = os.environ | {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    with tempfile.TemporaryFile("w+", errors="replace") as said:
        try:
            code = subprocess.run(
                command,
                env=environment,
                stdout=said,
                stderr=subprocess.STDOUT,
                timeout=seconds,
                check=False,
            ).returncode
        except subprocess.TimeoutExpired:
            code = -1
        said.seek(0)
        return said.read(), code


SECTIONS: dict[str, Section] = {
    "memcheck": partial(run_tool, tool="memcheck"),
    "racecheck": partial(run_tool, tool="racecheck"),
}
