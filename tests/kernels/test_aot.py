"""Kernels are compiled without a GPU: each alone, once, and all that are launched."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from memoserve_kernels.aot import AotCase
from tools.aot.__main__ import chosen
from tools.aot.figures import Figures
from tools.aot.pool import Failure, run_each
from tools.aot.table import read, write

ROOT = Path(__file__).parent.parent.parent
KERNELS = ROOT / "kernels/memoserve_kernels"
FIGURES = Figures(168, 0, 100_000, 128, 0, frozenset({"wgmma", "wide_loads"}))


def test_each_task_has_a_process_of_its_own() -> None:
    tasks = ["2 + 2", "1 / 0", "__import__('os')._exit(3)", "3 + 3"]
    found = dict(run_each(eval, tasks, workers=2, timeout=100))
    assert [found[task] for task in tasks] == [
        4,
        Failure("ZeroDivisionError: division by zero"),
        Failure("its process ended with 3 and said nothing"),
        6,
    ]


def test_a_task_that_hangs_is_ended() -> None:
    sleep = "__import__('time').sleep(1000)"
    assert dict(run_each(eval, [sleep], workers=2, timeout=0.5)) == {
        sleep: Failure("took more than 0.5 s")
    }


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ([], True),
        (["bf16", "d128"], True),
        (["window"], True),
        (["memory"], True),
        (["d12"], False),
        (["bf16", "d64"], False),
        (["bf16", "-i8"], True),
        (["bf16", "-memory"], False),
    ],
)
def test_cases_are_chosen_by_whole_words(words: list[str], found: bool) -> None:
    labels = {"head_dim": "128", "kind": "memory"}
    assert chosen(AotCase("window-bf16", None, {}, {}, labels=labels), words) == found


def test_a_result_is_that_of_one_source_and_one_configuration() -> None:
    pytest.importorskip("triton")
    from tools.aot.build import fingerprint

    def kernel(source: str) -> SimpleNamespace:
        return SimpleNamespace(cache_key=source)

    case = AotCase("name", kernel("a"), {"x": "*bf16", "B": "constexpr"}, {"B": 16}, ("x",))
    changes: list[dict[str, Any]] = [
        {"kernel": kernel("b")},
        {"signature": {"x": "*fp16", "B": "constexpr"}},
        {"constexprs": {"B": 32}},
        {"constexprs": {"B": kernel("a")}},
        {"constexprs": {"B": kernel("b")}},
        {"aligned": ()},
        {"num_warps": 8},
        {"num_stages": 2},
    ]
    prints = [fingerprint(replace(case, **change), 90) for change in changes]
    assert len({fingerprint(case, 80), fingerprint(case, 90), *prints}) == len(changes) + 2
    same = replace(case, name="other", kernel=kernel("a"), expects=("wgmma",))
    assert fingerprint(same, 90) == fingerprint(case, 90)


def test_a_result_cut_short_is_compiled_again(tmp_path: Path) -> None:
    pytest.importorskip("triton")
    from tools.aot.build import Cache

    cache = Cache(tmp_path / "new")
    assert cache.get("a") is None
    cache.put("a", FIGURES)
    assert cache.get("a") == FIGURES
    (file,) = cache.folder.iterdir()
    file.write_text(file.read_text()[:-9])
    assert cache.get("a") is None


def _aot(*options: str | Path, toys: str = "") -> subprocess.CompletedProcess[str]:
    """``python -m tools.aot``; the tests' process has chosen the interpreter, this one must not."""
    environment = {**os.environ, "TRITON_INTERPRET": "1", "AOT_TOYS": toys}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(ROOT / "kernels")])
    return subprocess.run(
        [sys.executable, "-m", "tools.aot", *map(str, options)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.timeout(300)
def test_toys_are_judged_by_their_machine_code(tmp_path: Path) -> None:
    pytest.importorskip("triton")
    table = tmp_path / "table.csv"
    options = ["--module", "tests.kernels.aot_toys", "--arch", "90"]
    options += ["--table", str(table), "--cache", str(tmp_path / "cache")]
    done = _aot(*options, "--write", toys="good,spilling,unaligned,refused,product-bf16-d64")
    assert done.returncode == 1, done.stderr
    assert "5 cases, 5 to compile" in done.stdout
    said = {
        line.partition(": ")[0]: line for line in done.stderr.splitlines() if " sm_90: " in line
    }
    assert set(said) == {"spilling sm_90", "unaligned sm_90", "refused sm_90"}
    assert "spill instructions" in said["spilling sm_90"]
    assert "expects wide_loads" in said["unaligned sm_90"]
    assert "does not compile" in said["refused sm_90"]
    assert "range must be a power of 2" in done.stderr
    rows = {row.case: row for row in read(table)}
    assert rows.keys() == {"good", "spilling", "unaligned", "product-bf16-d64"}
    assert rows["product-bf16-d64"].seen >= {"wgmma", "wide_loads"}

    # Another source of the same name would be compiled anew; these two are known.
    write(table, [rows["good"], replace(rows["product-bf16-d64"], blocks=99), rows["spilling"]])
    done = _aot(*options, "--check", toys="good,product-bf16-d64")
    assert done.returncode == 1
    assert "2 cases, 0 to compile" in done.stdout
    said = {
        line.partition(": ")[0]: line for line in done.stderr.splitlines() if " sm_90: " in line
    }
    assert set(said) == {"product-bf16-d64 sm_90", "spilling sm_90"}
    assert said["product-bf16-d64 sm_90"].endswith("were 99")
    assert said["spilling sm_90"].endswith("in the table, and no kernel's case")


@pytest.mark.parametrize(
    ("toys", "said"),
    [
        ("twice", "two cases of sm_90 are named twice"),
        ("forgotten", r"signature and kernel differ in \['count'\]"),
        ("constant", r"constexprs and signature differ in \['count'\]"),
        ("stray", r"aligned names \['BLOCK'\], no run-time arguments"),
    ],
)
def test_a_case_that_fits_no_kernel_is_refused(
    toys: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("triton")
    from tools.aot.build import collect

    monkeypatch.setenv("AOT_TOYS", toys)
    with pytest.raises(ValueError, match=said):
        list(collect(["tests.kernels.aot_toys"], [90]))


def _launched() -> set[str]:
    """Kernels that some module launches: ``name[grid](...)``, where ``name`` is jitted."""
    files = KERNELS.glob("*.py")
    nodes = [node for file in files for node in ast.walk(ast.parse(file.read_text("utf-8")))]
    jitted = {
        node.name
        for node in nodes
        if isinstance(node, ast.FunctionDef)
        and any("triton.jit" in ast.unparse(decorator) for decorator in node.decorator_list)
    }
    calls = (node.func for node in nodes if isinstance(node, ast.Call))
    heads = (func.value for func in calls if isinstance(func, ast.Subscript))
    return jitted & {head.id for head in heads if isinstance(head, ast.Name)}


def test_every_launched_kernel_is_compiled() -> None:
    pytest.importorskip("triton")
    from tools.aot.build import collect, modules_with_cases

    cases = (case for _, case in collect(modules_with_cases(), [90]))
    launched = _launched()
    assert launched
    assert {case.kernel.fn.__name__ for case in cases} == launched


@pytest.mark.timeout(600)  # a minute on two idle cores, nothing where `make aot` has run
def test_bf16_kernels_of_head_dim_128_keep_their_limits_and_the_table() -> None:
    pytest.importorskip("triton")
    done = _aot("--check", "--arch", "80,90", "--only", "bf16,d128,-i8,-fp8e4nv")
    assert done.returncode == 0, done.stderr
    assert "cases within their limits" in done.stdout
