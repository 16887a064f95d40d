"""The whole benchmark in small, on a server of its own."""

from __future__ import annotations

import json
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from benchmarks.quality.sheet import MEASURED, NOT_HELD, read_csv
from tests.e2e.serving import ROOT, environment


@pytest.mark.timeout(240)
def test_the_benchmark_runs_from_end_to_end(tmp_path: Path) -> None:
    rows, picture = tmp_path / "quality.csv", tmp_path / "needle.svg"
    told = environment()
    told["PYTHONPATH"] = f"{told['PYTHONPATH']}:{ROOT / 'training'}"
    command = [sys.executable, "-m", "benchmarks.quality", "--quick", "--threads", "1"]
    done = subprocess.run(
        [*command, "--out", str(rows), "--picture", str(picture)],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=220,
        env=told,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    made = read_csv(rows)
    needles = {(row.ratio, row.length, row.control): row for row in made if row.measure == "needle"}
    assert len(needles) == 2 * (1 + 2) + 2
    for (_, length, _), row in needles.items():
        assert row.state == (MEASURED if length == 256 else NOT_HELD)
        assert length != 256 or (row.count == 4 and row.share is not None)
    clued = {(row.measure, row.control) for row in made if row.kind == "all"}
    assert len(clued) == 12 + 2 * 4
    assert all(row.state == MEASURED for row in made if row.kind == "all")
    summary = json.loads(rows.with_suffix(".json").read_text(encoding="utf-8"))
    assert len(summary["rows"]) == len(made) and len(summary["fingerprint"]) == 64
    assert summary["plan"]["lengths"] == [256, 512 * 1024]
    assert ET.parse(picture).getroot().tag.endswith("svg")
    assert "needle, %" in done.stdout and "not held" in done.stdout
