"""The GPU suite's driver, its rows, its floors."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.gpu import driver, floors, pools
from benchmarks.gpu.bench import DeviceLost, NotAvailable
from benchmarks.gpu.ceilings import ceilings_of
from benchmarks.gpu.driver import SHARES, Run, run_stage, run_stages, time_box
from benchmarks.gpu.engine_model import between_while_all
from benchmarks.gpu.machine import Machine, Timing
from benchmarks.gpu.rows import FAILED, Rows, read_rows
from benchmarks.gpu.sizes import DRY, FULL, K, Readers
from tests.gpu_bench import PLACE, ROOT, make_bench, told

# -- the driver ------------------------------------------------------------------------------------

FAKE = """
import sys, pathlib, time
progress, rows, *sections = sys.argv[1:]
names = sections or ["good", "crash", "after", "slow", "never"]
for number, name in enumerate(names):
    pathlib.Path(progress).write_text("\\n".join(names[number:]))
    if name == "crash":
        sys.exit(3)
    if name == "slow":
        time.sleep(60)
    with open(rows, "a") as file:
        file.write(f"d,v,c,t,{name},shape,1,ms,\\n")
"""


@dataclass(frozen=True)
class FakeRun(Run):
    """Its stages are the sections of ``FAKE``."""

    sections: tuple[str, ...] = ()

    def command(self, stage: str, ends: float, sections: list[str], progress: Path) -> list[str]:
        rows = str(self.out / f"{stage}.csv")
        asked = [sys.executable, "-c", FAKE, str(progress), rows]
        return [*asked, *(sections or self.sections)]


def test_a_crash_and_a_slow_section_cost_themselves_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(driver, "GRACE_SECONDS", 0.2)
    assert not run_stage(FakeRun(ROOT, tmp_path, PLACE, 0), "kernels", 5.0)
    rows = [(row["op"], row["value"]) for row in read_rows(tmp_path / "kernels.csv")]
    assert rows == [
        ("good", "1"),
        ("crash", "failed"),
        ("after", "1"),
        ("slow", "failed"),
        ("never", "not reached"),
    ]


def test_a_failing_stage_never_stops_the_next(tmp_path: Path) -> None:
    (tmp_path / "ceilings.csv").write_text("of an earlier run")
    run = FakeRun(ROOT, tmp_path, PLACE, 0, sections=("crash",))
    assert run_stages(run, ["ceilings", "peers"], 20.0) == ["ceilings", "peers"]
    for stage in ("ceilings", "peers"):
        (row,) = read_rows(tmp_path / f"{stage}.csv")
        assert row["value"] == FAILED and "code 3" in row["note"]
    sound = FakeRun(ROOT, tmp_path, PLACE, 0, sections=("good",))
    assert run_stages(sound, ["ceilings"], 20.0) == []


def test_a_check_that_fails_fails_its_stage(tmp_path: Path) -> None:
    class Wrong(FakeRun):
        def command(self, stage: str, *_: Any) -> list[str]:
            Rows(self.out / f"{stage}.csv", PLACE).add("op", "shape", 1.0, "", "FAIL; off")
            return [sys.executable, "-c", ""]

    assert run_stages(Wrong(ROOT, tmp_path, PLACE, 0), ["correctness"], 20.0) == ["correctness"]


def test_time_boxes() -> None:
    """One stage a call has all the time; of all, the shares; what one leaves goes to the rest."""
    assert sum(SHARES.values()) == driver.TOTAL_SECONDS == 540
    assert time_box("peers", [], 540.0) == 540.0
    stages = list(SHARES)
    assert time_box(stages[0], stages[1:], 540.0) == SHARES["correctness"]
    assert time_box("peers", ["sanitizer"], 200.0) > SHARES["peers"]


def test_an_unknown_stage_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        driver.main([str(tmp_path), "kernel", "--dry"], ROOT)


# -- rows and errors -------------------------------------------------------------------------------


def test_errors_become_rows(tmp_path: Path) -> None:
    bench = make_bench(tmp_path)

    def raising(error: Exception) -> None:
        raise error

    assert not bench.guard("a", "s", raising, NotAvailable("no such chip"))
    assert not bench.guard("b", "s", raising, ValueError("wrong"))
    assert not bench.guard("c", "s", raising, torch.OutOfMemoryError("full"))
    with pytest.raises(DeviceLost):
        bench.guard("d", "s", raising, RuntimeError("CUDA error: an illegal memory access was"))
    assert bench.guard("e", "s", lambda: None)
    late = make_bench(tmp_path, seconds=0.0)
    assert not late.guard("f", "s", raising, AssertionError("ran"))
    values = [(row["op"], row["value"], row["note"]) for row in told(bench)]
    assert [v[:2] for v in values] == [
        ("a", "not available"),
        ("b", FAILED),
        ("c", FAILED),
        ("d", FAILED),
        ("f", "not reached"),
    ]
    assert values[1][2] == "ValueError: wrong" and "out of device memory" in values[2][2]


# -- timing ----------------------------------------------------------------------------------------


class FakeEvent:
    """A CUDA event on a clock that the test moves."""

    def __init__(self, enable_timing: bool) -> None:
        assert enable_timing

    def record(self) -> None:
        self.at = CLOCK[0]

    def elapsed_time(self, end: FakeEvent) -> float:
        return end.at - self.at


CLOCK = [0.0]


class FakeBuffer:
    def fill_(self, _: int) -> None:
        CLOCK[0] += 100.0


def test_only_the_call_is_timed_and_caches_are_cold(monkeypatch: pytest.MonkeyPatch) -> None:
    """Calls of 7, 1, 2, 3 ... ms: the buffer is written before each, outside of the events."""
    monkeypatch.setattr(torch.cuda, "Event", FakeEvent)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda _: None)
    machine = Machine(dry=False)
    monkeypatch.setitem(vars(machine), "_flush_buffer", FakeBuffer())
    calls: list[float] = []

    def call() -> None:
        calls.append(CLOCK[0])
        CLOCK[0] += 7.0 if len(calls) <= 4 else float(len(calls) - 4)

    timing = machine.time(call, seconds=0.035)  # five calls of 7 ms
    assert len(calls) == 2 + 2 + 5
    assert timing == Timing(median=0.003, low=0.001, high=0.005, rounds=5)
    assert all(later - earlier > 100 for earlier, later in pairwise(calls[2:]))


def test_between_tokens_while_all_decode() -> None:
    """The second reader comes late and slows the first; after the first it is alone."""
    times = [[0.0, 1.0, 2.0, 4.0, 6.0], [2.0, 4.0, 6.0, 7.0, 8.0]]
    assert between_while_all(times) == [2.0, 2.0, 2.0, 2.0]


def test_ceilings_are_those_of_this_run(tmp_path: Path) -> None:
    """Taken from the stage's file where it is of this device and day, else measured."""
    bench = make_bench(tmp_path)
    path = tmp_path / "ceilings.csv"
    for device in ("another", PLACE.device):
        rows = Rows(path, replace(PLACE, device=device))
        rows.add("copy", "1 bytes, random data", 4000.0, "GB/s")
        rows.add("copy", "1 bytes, zeros", 9000.0, "GB/s")
        rows.add("product bf16", "1 cubed, random data", 700.0, "TFLOP/s")
        found = ceilings_of(bench)
        assert (found == floors.Ceilings(4e12, 7e14)) is (device == PLACE.device)
    assert [row["op"] for row in told(bench)] == ["copy", "product bf16"]
    path.unlink()
    assert ceilings_of(bench) == ceilings_of(bench)  # its own rows, the second time too
    assert len(told(bench)) == 2


# -- floors ----------------------------------------------------------------------------------------


def test_floors_by_hand() -> None:
    """Qwen2-7B: 2 KiB a row and layer, so 64 MiB for a memory of 32K beacons."""
    assert floors.row_bytes(FULL) == 2 * 4 * 128 * 2 == 2 * K
    assert floors.row_bytes(FULL, eight_bit=True) == 2 * 4 * (128 + 4)
    one = floors.decode_cost(FULL, Readers(64, 32 * K), 0)
    many = floors.decode_cost(FULL, Readers(64, 32 * K, shared=False), 0)
    queries = 64 * 28 * 128 * 2 * 2
    assert one.num_bytes == 64 * K * K + queries
    assert many.num_bytes == 64 * 64 * K * K + queries
    assert one.flops == many.flops == 4 * 28 * 128 * 64 * 32 * K
    window = floors.window_cost(FULL, 3, 10)
    assert window.flops == 4 * 28 * 128 * (3 * 10 + 1 + 2 + 3)
    ceilings = floors.Ceilings(4e12, 800e12)
    # 448 query rows a key: many readers of one memory are bound by the products.
    assert (one.bound(ceilings), many.bound(ceilings)) == ("matrix rate", "bandwidth")
    assert one.floor_s(ceilings) == one.flops / 800e12
    assert many.floor_s(ceilings) == many.num_bytes / 4e12
    assert window.floor_s(floors.Ceilings(1e30, 2.0)) == window.flops / 2


def test_memorize_floors_of_the_aims() -> None:
    """200,000 tokens at 790 TFLOP/s: 7.2 s at ratio 4 and 5.1 s at ratio 8."""
    by_ratio = {r: floors.memorize_flops(FULL, 200_000, r) / 790e12 for r in (4, 8)}
    assert by_ratio == {4: pytest.approx(7.2, abs=0.05), 8: pytest.approx(5.1, abs=0.05)}


def test_shared_readers_share_pages() -> None:
    case, machine = Readers(3, 9), Machine(dry=True)
    for one in (True, False):
        sequences = pools.decode_sequences(replace(case, shared=one), 5)
        layout = pools.make_problem(machine, DRY, sequences, 0).layout
        memories = [s.memory_pages for s in layout.sequences]
        assert (len(set(memories)) == 1) is one
        pages = [p for table in set(memories) for p in table]
        pages += [p for s in layout.sequences for p in s.window_pages]
        assert len(set(pages)) == len(pages) == 3 * (1 if one else 3) + 3 * 2
