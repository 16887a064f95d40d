"""What is compiled ahead of time is what is launched: each compilation, and none besides."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest


def test_launches_and_cases_are_the_same_set() -> None:
    """Types, constants, alignment, warps and stages, as Triton finds them out of a launch."""
    pytest.importorskip("triton")
    root = Path(__file__).parents[2]
    env = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    env |= {"PYTHONPATH": os.pathsep.join([str(root), str(root / "kernels")])}
    env.pop("MEMOSERVE_BACKEND", None)
    command = [sys.executable, "-m", "tests.kernels.aot_launches"]
    run = subprocess.run(command, env=env, cwd=root, capture_output=True, text=True, check=False)
    assert (run.returncode, run.stdout) == (0, "same\n"), run.stdout + run.stderr
