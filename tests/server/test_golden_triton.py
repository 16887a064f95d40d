"""Three golden cases through the engine on the Triton kernels, in Triton's interpreter.

All of them, or those of any other directory, run with
``MEMOSERVE_BACKEND=triton TRITON_INTERPRET=1 pytest tests/server/test_golden.py``.
"""

from __future__ import annotations

import importlib
from typing import Any

import pytest

from memoserve.engine.sampler import SamplingParams
from memoserve.engine.sequence import Logits
from tests.server import test_golden as golden
from tests.server.golden import Case

pytest.importorskip("triton")
triton_backend = importlib.import_module("memoserve_kernels.triton_backend")

# Beacons between the rows, beacons at the end that see their own step only, a sink.
PARTS = ("_r4_sink2", "stepexp_prev", "_mistral_interleave")


def three(cases: list[Case]) -> list[Case]:
    """One case a part; another directory's first ones where it has none of that name."""
    named = [case for part in PARTS for case in cases if part in case.path.stem]
    return (named + [case for case in cases if case not in named])[: len(PARTS)]


@pytest.fixture(autouse=True)
def on_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEMOSERVE_BACKEND", "triton")


@golden.by_stem(three(golden.PLAIN))
def test_as_served(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """The memorize, then its first query by two readers at once: they share the memory's pages."""
    used = noting_kernels(monkeypatch)
    driver = case.driver()
    memorized = driver.compress(case.context, None, case.schedule, Logits.NONE)
    memory = case.assert_memorized(driver, memorized)
    query = case.queries[0]
    sampling = SamplingParams(max_tokens=len(query["generated"]))
    readers = [
        driver.submit(query["ids"], memory, sampling=sampling, logits=Logits.LAST, keep=True)[1]
        for _ in range(2)
    ]
    driver.drain()
    for answered in readers:
        case.assert_answered(driver, answered, 0)
    assert used == {"window_attention", "paged_decode", "evict_window", "rope_and_append"}


def noting_kernels(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The names of the large kernels that run from now on."""
    used: set[str] = set()
    for name in ("window_attention", "paged_decode", "evict_window", "rope_and_append"):
        kernel = getattr(triton_backend, name)

        def noted(*arguments: Any, name: str = name, kernel: Any = kernel) -> Any:
            used.add(name)
            return kernel(*arguments)

        monkeypatch.setattr(triton_backend, name, noted)
    return used
