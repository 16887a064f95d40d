"""Compile every configuration of the Triton kernels for each architecture, without a GPU.

Limits always hold: no spills, registers and shared memory that the chip has, the instructions
that a case expects. --check also compares with the committed table; --write writes it.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tqdm import tqdm

from memoserve_kernels.aot import AotCase
from tools.aot import table
from tools.aot.figures import ARCHES, Figures, broken_limits
from tools.aot.pool import Failure, run_each

if TYPE_CHECKING:
    from tools.aot.build import Job

ROOT: Final = Path(__file__).resolve().parents[2]
# Seconds that one compilation may take; the slowest takes a few.
TIMEOUT: Final = 300.0
HINT: Final = "If that is meant: make aot ARGS=--write, look at the difference, commit it."


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tools.aot", description=__doc__)
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--check", action="store_true", help="compare with the table")
    mode.add_argument("--write", action="store_true", help="write the table")
    parser.add_argument("--arch", type=_arches, default=ARCHES, help="such as 80,90")
    parser.add_argument("--only", type=_words, default=[], help="words of cases: bf16,d128,-i8")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="compilers at a time")
    parser.add_argument("--texts", type=Path, help="leave PTX and SASS in this folder")
    parser.add_argument("--table", type=Path, default=ROOT / "benchmarks/results/aot.csv")
    parser.add_argument("--cache", type=Path, default=ROOT / ".venv/.cache/aot")
    parser.add_argument("--module", action="append", help="take cases from here instead")
    return parser.parse_args()


def _arches(text: str) -> tuple[int, ...]:
    found = tuple(int(word) for word in text.split(","))
    if not set(found) <= set(ARCHES):
        raise argparse.ArgumentTypeError(f"known: {', '.join(map(str, ARCHES))}")
    return found


def _words(text: str) -> list[str]:
    return [word for word in text.split(",") if word]


def chosen(case: AotCase, words: Sequence[str]) -> bool:
    """Each word is a part of the case's name or the value of a label; none after a minus is."""
    parts = {*re.split(r"[^0-9a-z]+", case.name), *case.labels.values()}
    if "head_dim" in case.labels:
        parts.add(f"d{case.labels['head_dim']}")
    unwanted = {word[1:] for word in words if word.startswith("-")}
    wanted = {word for word in words if not word.startswith("-")}
    return wanted <= parts and not unwanted & parts


def compile_all(
    cases: dict[Job, AotCase], options: argparse.Namespace
) -> dict[Job, Figures | Failure]:
    """Figures of every case, from the cache where nothing they depend on has changed."""
    from tools.aot.build import Cache, build, fingerprint

    cache = Cache(options.cache)
    results: dict[Job, Figures | Failure] = {}
    if options.texts is None:
        hits = ((job, cache.get(fingerprint(case, job.arch))) for job, case in cases.items())
        results.update((job, hit) for job, hit in hits if hit is not None)
    else:
        options.texts.mkdir(parents=True, exist_ok=True)
    missing = [job for job in cases if job not in results]
    print(f"{len(cases)} cases, {len(missing)} to compile", flush=True)
    with tempfile.TemporaryDirectory() as scratch:
        work = partial(build, scratch=Path(scratch), texts=options.texts)
        # Imported once, by the server that the compiling processes are forked from.
        preload = [build.__module__, *sorted({job.module for job in missing})]
        done = run_each(work, missing, options.workers, TIMEOUT, preload)
        for job, result in tqdm(done, total=len(missing), unit="case", disable=None):
            if isinstance(result, Failure):
                results[job] = result
            else:
                cache.put(*result)
                results[job] = result[1]
    return {job: results[job] for job in cases}


def judge(
    cases: dict[Job, AotCase], results: dict[Job, Figures | Failure], version: str
) -> tuple[list[table.Row], list[str]]:
    """Rows of what compiled, and in words what broke a limit or did not compile."""
    rows, problems = [], []
    for job, result in results.items():
        where = f"{job.name} sm_{job.arch}"
        if isinstance(result, Failure):
            problems.append(f"{where}: does not compile\n{result.message}")
            continue
        rows.append(table.Row.of(job.name, job.arch, result, version))
        case = cases[job]
        broken = broken_limits(result, job.arch, case.expects, may_spill=case.may_spill)
        problems += [f"{where}: {what}" for what in broken]
    return rows, problems


def main() -> None:
    """Exit 1 with a line a problem, if there is any."""
    options = arguments()
    # Read when a kernel is decorated: a process either interprets or compiles.
    os.environ.pop("TRITON_INTERPRET", None)
    try:
        from tools.aot.build import TRITON_VERSION, collect, modules_with_cases
    except ModuleNotFoundError as error:
        if error.name != "triton":
            raise
        sys.exit("Triton is not installed here: there is one for Linux alone.")
    modules = options.module or modules_with_cases()
    every = dict(collect(modules, options.arch))
    cases = {job: case for job, case in every.items() if chosen(case, options.only)}
    if not cases:
        sys.exit("no case of any kernel is chosen")
    rows, problems = judge(cases, compile_all(cases, options), TRITON_VERSION)
    committed = table.read(options.table)
    keys = {(job.name, job.arch) for job in every}
    gone = [row.key for row in committed if row.arch in options.arch and row.key not in keys]
    if options.write:
        table.write(options.table, table.merge(committed, rows, gone))
    elif options.check:
        back = table.steps_back(committed, rows, gone)
        problems += [*back, HINT] if back else []
        report_versions(committed, TRITON_VERSION)
    else:
        print("\n".join("  ".join(row.cells()) for row in rows))
    if problems:
        sys.exit("\n".join(problems))
    print(f"{len(rows)} cases within their limits, Triton {TRITON_VERSION}")


def report_versions(committed: Sequence[table.Row], version: str) -> None:
    """Say which rows were not compared."""
    others = sorted({row.triton for row in committed} - {version})
    if others:
        print(f"rows of Triton {', '.join(others)} are not compared with Triton {version}")


if __name__ == "__main__":
    main()
