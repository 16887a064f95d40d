"""Measure a memory model through a running server: ``python -m benchmarks.quality``."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

from benchmarks.gpu.rows import find_place
from benchmarks.quality.bench import Bench
from benchmarks.quality.clues import clue_texts, groups_of, measure_clues
from benchmarks.quality.memories import measure_density
from benchmarks.quality.needle import measure_needles, needle_cells
from benchmarks.quality.picture import draw
from benchmarks.quality.plan import Plan, add_options, plan_of
from benchmarks.quality.progress import CLUE_TOKENS, NEEDLE_TOKENS, Progress
from benchmarks.quality.report import report
from benchmarks.quality.server import Asker, running
from benchmarks.quality.sheet import EMPTIED, Sheet, write_csv, write_json

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results" / "quality.csv"
PICTURE = ROOT / "docs" / "quality-needle.svg"


@dataclass(frozen=True)
class Output:
    """Where figures go: rows, the same with the plan as JSON, the curve; None keeps none."""

    rows: Path | None
    picture: Path | None

    def write(self, sheet: Sheet, about: Mapping[str, str], more: Mapping[str, Any]) -> None:
        """Write what is known so far."""
        rows = sheet.rows()
        if self.rows is not None:
            write_csv(self.rows, rows, about)
            write_json(self.rows.with_suffix(".json"), rows, {**about, **more})
        if self.picture is not None:
            self.picture.write_text(draw(rows), encoding="utf-8")


def measure(asker: Asker, plan: Plan, output: Output, about: Mapping[str, str]) -> Sheet:
    """Measure everything; what is known is written after each part."""
    began = time.monotonic()
    sheet = Sheet(plan.seed)
    density = measure_density(asker, plan.seed)
    with Progress(work_of(plan, asker)) as bar:
        bench = Bench(asker, plan, density, sheet, bar)

        def write() -> None:
            more = {"plan": asdict(plan), "seconds": round(time.monotonic() - began, 1)}
            output.write(sheet, about, more)

        if plan.clue_documents:
            bar.at("clues")
            measure_clues(bench, clue_texts(plan, density))
            write()
        for length in plan.lengths:
            measure_needles(bench, length)
            write()
    return sheet


def work_of(plan: Plan, asker: Asker) -> int:
    """What the bar counts to: tokens to memorize, and queries in tokens."""
    tokens = 0
    for length, ratio in product(plan.lengths, plan.ratios):
        if asker.holds(length, ratio):
            cells = needle_cells(plan, length, ratio)
            documents = plan.documents_at(length)
            tokens += length * (documents + any(cell.control == EMPTIED for cell in cells))
            tokens += len(cells) * documents * plan.needles * NEEDLE_TOKENS
    if plan.clue_documents:
        memories = plan.clue_documents * len(plan.clue_ratios) + (plan.control_ratio is not None)
        tokens += memories * plan.clue_length
        questions = plan.clue_documents * plan.clue_questions
        tokens += questions * (1 + len(groups_of(plan))) * CLUE_TOKENS
    return tokens


def describe(asker: Asker, plan: Plan) -> dict[str, str]:
    """What all rows have in common: model, seed, versions, commit, date."""
    place = find_place(ROOT, dry=False)
    info = asker.info
    return {
        "model": info.model.name,
        "fingerprint": info.model.fingerprint,
        "seed": str(plan.seed),
        "server": f"{info.version} {info.device} {info.backend} {info.model.dtype}",
        "embedder": info.embedder,
        "versions": place.versions,
        "commit": place.commit,
        "date": place.date,
    }


def parse(words: Sequence[str] | None = None) -> tuple[Plan, argparse.Namespace]:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="benchmarks.quality", description=__doc__)
    parser.add_argument("--model", help="directory or Hub name (default: the server's own)")
    parser.add_argument("--quick", action="store_true", help="seconds: that it runs, no figures")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads of the server, 0 all")
    parser.add_argument("--out", type=Path, help=f"rows (default {RESULTS.relative_to(ROOT)})")
    parser.add_argument("--picture", type=Path, help=f"(default {PICTURE.relative_to(ROOT)})")
    add_options(parser)
    arguments = parser.parse_args(words)
    try:
        return plan_of(arguments), arguments
    except ValueError as error:
        parser.error(str(error))


def run(plan: Plan, options: Sequence[str], output: Output) -> Sheet:
    """Measure on a new server with these options of its own. Raises OSError, also TimeoutError."""
    for path in (output.rows, output.picture):
        if path is not None:  # a folder that cannot be made is told now, not after minutes of work
            path.parent.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory(prefix="memoserve-quality-") as directory,
        running(Path(directory), options, plan.in_flight) as asker,
    ):
        about = describe(asker, plan)
        print(f"{about['model']} ({about['fingerprint'][:12]}): {plan}", flush=True)
        return measure(asker, plan, output, about)


def main() -> int:
    """Start a server, measure, print the figures."""
    plan, arguments = parse()
    options = ["--threads", str(arguments.threads)]
    options += ["--model", arguments.model] if arguments.model else []
    # A quick run leaves the committed figures alone.
    output = Output(
        arguments.out or (None if arguments.quick else RESULTS),
        arguments.picture or (None if arguments.quick or arguments.out else PICTURE),
    )
    try:
        sheet = run(plan, options, output)
    except OSError as error:
        print(f"benchmarks.quality: {error}", file=sys.stderr)
        return 1
    print(report(sheet.rows()))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
