"""Entry of ``benchmarks/gpu_suite.sh``: ``python3 benchmarks/gpu OUT [stage ...]``."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parents[2]


def _own(name: str) -> None:
    """Make ``name`` mean the folder of this checkout.

    Several published packages install a top-level ``tests`` or ``benchmarks`` by mistake, and a
    regular package anywhere on the path wins over a folder without ``__init__.py``.
    """
    module = ModuleType(name)
    module.__path__ = [str(ROOT / name)]
    sys.modules[name] = module


if __name__ == "__main__":
    # Python puts this folder first, where a module of ours could hide another's.
    here = Path(__file__).resolve().parent
    sys.path = [entry for entry in sys.path if Path(entry or ".").resolve() != here]
    for name in ("benchmarks", "tests"):
        _own(name)
    from benchmarks.gpu.driver import main

    sys.exit(main(sys.argv[1:], ROOT))
