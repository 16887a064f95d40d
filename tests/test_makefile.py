"""The way in: which Python is taken, what is said before a download, which verbs there are."""

from __future__ import annotations

import ast
import os
import platform
import re
import subprocess
import sys
from pathlib import Path

import pytest

import memoserve_client

ROOT = Path(__file__).parent.parent
X86 = platform.machine() == "x86_64"


def _run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    """A command as from a shell: of the make that runs these tests it knows nothing."""
    ours = {"MAKEFLAGS", "MAKELEVEL", "MFLAGS", "MAKEOVERRIDES", "ARGS"}
    return subprocess.run(
        [str(word) for word in command],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        env={name: value for name, value in os.environ.items() if name not in ours},
    )


def _script(path: Path, text: str) -> Path:
    path.write_text(f"#!/bin/sh\n{text}\n", encoding="utf-8")
    path.chmod(0o755)
    return path


@pytest.fixture
def shim(tmp_path: Path) -> Path:
    """A name on PATH whose version is not installed."""
    return _script(tmp_path / "shim", 'echo "shim: command not found" >&2; exit 127')


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A Python that works and is too old."""
    fake = f"{sys.executable} -c \"import sys; sys.version_info = (3, 10, 13); exec('''$2''')\""
    return _script(tmp_path / "old", fake)


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    """A Python without venv, as Debian packages it."""
    fake = f"{sys.executable} -c \"import sys; sys.modules['ensurepip'] = None; exec('''$2''')\""
    return _script(tmp_path / "bare", fake)


def test_first_python_that_works_is_taken(shim: Path, old: Path, bare: Path) -> None:
    done = _run("sh", "tools/find_python.sh", shim, old, bare, "/no/such/python", sys.executable)
    assert (done.returncode, done.stdout.strip()) == (0, sys.executable)


def test_what_is_missing_is_told_for_each_candidate(shim: Path, old: Path, bare: Path) -> None:
    done = _run("sh", "tools/find_python.sh", shim, old, bare, "/no/such/python")
    assert done.returncode == 1
    assert done.stdout == ""
    for said in (
        f"{shim}: shim: command not found",
        f"{old}: is Python 3.10",
        f"{bare}: has no venv module",
        "/no/such/python: not found",
    ):
        assert said in done.stderr


def test_downloads_are_told_with_sizes_and_place() -> None:
    said = _run("sh", "tools/announce_install.sh", sys.executable, "").stdout
    assert str(ROOT / ".venv") in said
    assert "PyTorch" in said
    assert "MiniLM" in said
    assert said.count("MB") >= 3
    assert ("Triton, 190 MB" in said) == (platform.system() == "Linux" and X86)


def test_torch_index_is_told() -> None:
    said = _run(
        "sh", "tools/announce_install.sh", sys.executable, "https://wheels.example/cpu"
    ).stdout
    assert "https://wheels.example/cpu" in said
    assert "CUDA libraries" not in said


@pytest.mark.parametrize(
    ("machine", "found", "installed"),
    [
        ("Linux x86_64", False, True),
        ("Linux x86_64", True, False),
        ("Linux aarch64", False, False),
        ("Darwin arm64", False, False),
    ],
)
def test_triton_is_installed_where_there_is_none(
    machine: str, found: bool, installed: bool, tmp_path: Path
) -> None:
    _script(tmp_path / "uname", f"echo {machine}")
    looks = f'if [ "$*" = "-c import triton" ]; then exit {0 if found else 1}; fi'
    probe = _script(tmp_path / "python", f'{looks}\necho "$@"')
    make = ["make", "-s", "-o", ".venv/.stamp-server", f"DEV_STAMP={tmp_path}/stamp"]
    done = _run(*make, f"PATH={tmp_path}:{os.environ['PATH']}", f"PY={probe}", "install")
    assert done.returncode == 0, done.stderr
    commands = [line for line in done.stdout.splitlines() if "constraints-kernels.txt" in line]
    asked = "-m pip --disable-pip-version-check install --constraint constraints-kernels.txt triton"
    assert commands == ([asked] if installed else [])
    assert (tmp_path / "stamp").exists()


def test_demo_waits_for_no_triton() -> None:
    plan = _run("make", "-n", "-B", "demo").stdout
    assert "constraints.txt" in plan
    assert "constraints-kernels.txt" not in plan


def test_aot_checks_unless_told_otherwise() -> None:
    make = ["make", "-n", "-o", ".venv/.stamp-dev", "PY=python"]
    assert _run(*make, "aot").stdout.strip() == "python -m tools.aot --check"
    assert _run(*make, "aot", "ARGS=--write").stdout.strip() == "python -m tools.aot --write"


def test_ci_compiles_the_kernels() -> None:
    lines = (ROOT / ".ci/run").read_text(encoding="utf-8").splitlines()
    verbs = [line for line in lines if line.startswith("make ") and "--" not in line]
    assert verbs == ["make install", "make lint", "make aot", "make proto", "make test"]


def test_question_reaches_the_demo_unexpanded(tmp_path: Path) -> None:
    # `$5` is a variable to make and to the shell; here it is a question's text.
    question = "who paid $5 for the \"map\" & 'key'; echo?"
    probe = _script(tmp_path / "python", 'printf "%s|" "$@"')
    make = ["make", "-s", "-o", ".venv/.stamp-server", f"PY={probe}", f"Q={question}", "demo"]
    done = _run(*make)
    assert done.stdout == f"-m|memoserve.cli|demo|--question|{question}|"


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md"])
def test_verbs_in_the_docs_exist(page: str) -> None:
    verbs = set(re.findall(r"^\.PHONY: (\S+)$", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"(?:^|`)make ([a-z]+)", (ROOT / page).read_text(), re.MULTILINE))
    assert {"demo", "test"} <= named <= verbs


def test_python_example_uses_what_the_client_has() -> None:
    (example,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    tree = ast.parse(example)
    imported = {
        alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module == "memoserve_client"
        for alias in node.names
    }
    assert imported
    assert imported <= set(memoserve_client.__all__)
    called = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id == "client"
    }
    assert called
    assert called <= set(dir(memoserve_client.Client))
