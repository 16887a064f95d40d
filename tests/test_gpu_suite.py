"""The GPU suite: every stage's code on a CPU in tiny shapes, and its checks, which can fail.

Nothing here is a measurement; the rows of a dry run say so.
"""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.gpu.driver import SHARES, Run
from benchmarks.gpu.process import run_sections, sections_of
from benchmarks.gpu.rows import COLUMNS, DRY_DEVICE, DRY_UNIT, FAILED, read_rows
from memoserve_kernels import ops
from tests.gpu_bench import PLACE, ROOT, make_bench, told

SCRIPT = ROOT / "benchmarks" / "gpu_suite.sh"
# What each stage must have told about, whatever else.
WANTED = {
    "correctness": {
        "window_attention",
        "window_attention lse",
        "paged_decode",
        "rope_and_append q",
        "rope_and_append kv",
        "append",
        "rotate",
        "evict_window",
        "rms_norm",
        "add_rms_norm",
        "silu_mul",
        "golden case",
    },
    "ceilings": {"copy", "product bf16"},
    "kernels": {
        "window_attention",
        "paged_decode",
        "paged_decode ratio",
        "paged_decode first call",
        "rope_and_append",
        "evict_window",
        "add_rms_norm",
        "silu_mul",
    },
    "engine": {
        "memorize",
        "append",
        "first token",
        "between tokens",
        "decode",
        "decode ratio",
        "restore from host",
        "restore from disk",
        "copy to host",
        "snapshot to disk",
        "resident memories",
        "same tokens",
    },
    "peers": {"paged_decode", "window_attention", "read a text", "first token", "between tokens"},
    "sanitizer": {"memcheck", "racecheck"},
}


# -- every stage ---------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:flex_attention called without")
@pytest.mark.parametrize("stage", SHARES)
def test_every_stage_runs(stage: str, tmp_path: Path) -> None:
    run = Run(ROOT, tmp_path, PLACE, seed=2)
    assert run_sections(run, stage, time.monotonic() + 100.0, None, tmp_path / "progress") == 0
    rows = read_rows(tmp_path / f"{stage}.csv")
    bad = [row for row in rows if row["value"] == FAILED or row["note"].startswith("FAIL")]
    assert not bad
    assert {row["op"] for row in rows} >= WANTED[stage]
    for row in rows:
        assert tuple(row) == COLUMNS
        assert row["device"] == DRY_DEVICE and row["unit"].endswith(DRY_UNIT)
        assert row["versions"] and row["commit"] and row["date"] and row["shape"] and row["value"]


def test_the_script(tmp_path: Path) -> None:
    """The very command, in another directory, with another ``benchmarks`` package on the path."""
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "benchmarks" / "__init__.py").write_text("raise ImportError('not ours')")
    out = tmp_path / "out"
    environment = os.environ | {"PYTHON": sys.executable, "PYTHONPATH": str(tmp_path)}
    command = [str(SCRIPT), str(out), "ceilings", "--dry", "--seed", "5", "--seconds", "60"]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "seed 5" in done.stdout and "nothing failed" in done.stdout
    assert [path.name for path in out.iterdir()] == ["ceilings.csv"]
    assert {row["op"] for row in read_rows(out / "ceilings.csv")} == WANTED["ceilings"]


def test_without_a_gpu_a_row_says_so(tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    run = Run(ROOT, tmp_path, replace(PLACE, device="no GPU"), seed=0)
    assert run_sections(run, "kernels", 0.0, None, tmp_path / "progress") == 0
    assert [row["value"] for row in read_rows(tmp_path / "kernels.csv")] == ["not available"]


BLOCKER = """
import importlib, importlib.abc, pathlib, sys
class Blocker(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in BLOCKED:
            raise ImportError(f"{name} is not on a bare GPU machine")
BLOCKED = set(sys.argv[2].split(","))
sys.meta_path.insert(0, Blocker())
root = pathlib.Path(sys.argv[1])
for folder, package in (("benchmarks/gpu", "benchmarks.gpu"), ("server/memoserve/engine",
        "memoserve.engine"), ("kernels/memoserve_kernels", "memoserve_kernels")):
    for file in sorted((root / folder).glob("*.py")):
        if not file.stem.startswith("__"):
            importlib.import_module(f"{package}.{file.stem}")
for module in list(sys.modules.values()):
    file = getattr(module, "__file__", None) or ""
    if file.startswith(str(root)) and ".venv" not in file:
        print(file)
"""
# What the server's other rooms and the tests stand on, beyond what a GPU machine has.
NOT_THERE = (
    "grpc,grpc_status,grpc_health,grpc_reflection,grpc_channelz,google,faiss,pytest,_pytest,"
    "hypothesis,sentence_transformers,py3langid,memoserve_proto,memoserve_client"
)
THERE = {
    "benchmarks",
    "memoserve",
    "memoserve_kernels",
    "numpy",
    "prometheus_client",
    "safetensors",
    "tests",
    "torch",
    "transformers",
    "triton",
}
# Come with transformers, for fetching a model and for its tokenizer; and a back end by choice.
ALSO = {"huggingface_hub", "tokenizers", "flash_attn"}


def test_nothing_else_is_imported() -> None:
    """Every module of the suite, the engine and the kernels, with all else refused."""
    roots = [str(ROOT / part) for part in ("server", "kernels", "protos", ".")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(roots)}
    command = [sys.executable, "-c", BLOCKER, str(ROOT), NOT_THERE]
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    files = [Path(line) for line in done.stdout.splitlines()]
    assert {file.parent.name for file in files} >= {"gpu", "engine", "memory", "models", "server"}
    asked = {name for file in files for name in imported(file)}
    assert asked - set(sys.stdlib_module_names) <= THERE | ALSO


def imported(file: Path) -> set[str]:
    """Top names of every import statement of a file, wherever it stands."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module.split(".")[0])
    return names


# -- the checks can fail ---------------------------------------------------------------------------


def bad_ops(section: str, out: Path) -> set[str]:
    bench = make_bench(out)
    sections_of("correctness")[section](bench)
    return {row["op"] for row in told(bench) if row["note"].startswith("FAIL")}


@pytest.mark.parametrize(
    ("door", "section"),
    [
        ("window_attention", "window_attention"),
        ("paged_decode", "paged_decode"),
        ("paged_decode", "shared readers"),
        ("paged_decode", "memory in 8 bits"),
    ],
)
@pytest.mark.parametrize("what", ["scale", "lse", "a row left out"])
def test_a_wrong_attention_is_seen(
    door: str, section: str, what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = getattr(ops, door)

    def wrong(
        q: Any, kv: Any, layout: Any, scale: float, *, out: Any, lse: Any, **more: Any
    ) -> Any:
        right(q, kv, layout, scale * (1.001 if what == "scale" else 1), out=out, lse=lse, **more)
        if what == "lse":
            lse += 1e-3
        if what == "a row left out":
            out[-1] = float("nan")
        return out

    monkeypatch.setattr(ops, door, wrong)
    seen = bad_ops(section, tmp_path)
    assert (f"{door} lse" if what == "lse" else door) in seen


def test_wrong_rows_are_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A row written past its slots, an eviction beside its target, a norm without its weight."""
    append, evict, norm = ops.rope_and_append, ops.evict_window, ops.rms_norm

    def spilling(q: Any, k: Any, v: Any, angles: Any, kv: Any, slots: Any) -> Any:
        kv[:, -1, :, -1] = 1.0
        return append(q, k, v, angles, kv, slots.clamp_min(0))

    def beside(kv: Any, sources: Any, targets: Any, turn: Any, **more: Any) -> None:
        evict(kv, sources, targets.roll(1), turn, **more)

    monkeypatch.setattr(ops, "rope_and_append", spilling)
    monkeypatch.setattr(ops, "evict_window", beside)
    monkeypatch.setattr(ops, "rms_norm", lambda x, w, eps: norm(x, w.abs(), eps))
    assert {"untouched slots", "append"} <= bad_ops("rope", tmp_path / "a")
    assert "evict_window" in bad_ops("evict", tmp_path / "b")
    assert "evict_window values" in bad_ops("evict to 8 bits", tmp_path / "c")
    assert bad_ops("norms", tmp_path / "d") == {"rms_norm"}


def test_a_golden_case_can_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = ops.silu_mul
    monkeypatch.setattr(ops, "silu_mul", lambda gate, up: right(gate, up) * 1.01)
    assert bad_ops("golden cases", tmp_path) == {"golden case"}
