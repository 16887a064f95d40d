"""The measures on memories that are perfect: which memory is asked what, and what is counted."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest

from benchmarks.quality.bench import Bench
from benchmarks.quality.clues import clue_texts, measure_clues
from benchmarks.quality.memories import measure_density, memorize
from benchmarks.quality.needle import measure_needles, needle_texts
from benchmarks.quality.plan import Plan
from benchmarks.quality.progress import Progress
from benchmarks.quality.server import HELD_BACK
from benchmarks.quality.sheet import EMPTIED, MEASURED, NOT_HELD, OTHER, Cell, Sheet
from memoserve_training.worlds import Document
from tests.benchmarks.quality.perfect import AROUND, WINDOW, PerfectAsker

PLAN = Plan(
    lengths=(512,),
    ratios=(0, 4),
    documents=3,
    least=2,
    control_tokens=512,
    clue_length=1024,
    clue_ratios=(0, 4),
    clue_documents=3,
    clue_questions=12,
)


@contextmanager
def bench(plan: Plan, asker: PerfectAsker) -> Iterator[Bench]:
    with Progress(1) as bar:
        density = measure_density(asker, plan.seed)
        yield Bench(asker, plan, density, Sheet(plan.seed), bar)


def shares(made: Bench) -> dict[Cell, float | None]:
    return {
        Cell(row.measure, row.kind, row.ratio, row.length, row.control): row.share
        for row in made.sheet.rows()
    }


def needles(asker: PerfectAsker) -> list[Document]:
    density = measure_density(asker, PLAN.seed)
    return list(needle_texts(PLAN, PLAN.lengths[0], density).documents)


def test_density_is_what_the_server_counts() -> None:
    density = measure_density(PerfectAsker([]), 1)
    assert density.around == pytest.approx(AROUND)
    assert (density.filler, density.codes, density.mixed) == (2.0, 2.0, 2.0)


def test_the_window_in_which_a_text_ends_is_closed() -> None:
    asker = PerfectAsker([])
    density = measure_density(asker, 1)
    for words in (20, 28, 30, 31, 60):
        text = " ".join(["word"] * words)
        before = AROUND + 2 * words
        stats = memorize(asker, "m", text, 4, density, index=False)
        assert stats.windows_closed * WINDOW >= before + HELD_BACK
        assert stats.raw_tokens < before + 2 * WINDOW + 40
        assert asker.texts["m"].startswith(text)


def test_needles_of_a_perfect_memory_are_found_and_of_the_controls_not() -> None:
    asker = PerfectAsker([])
    asker.documents = needles(asker)
    with bench(PLAN, asker) as made:
        measure_needles(made, 512)
    found = shares(made)
    for ratio in PLAN.ratios:
        assert found[Cell("needle", "code", ratio, 512)] == 1.0
        assert found[Cell("needle_draft", "code", ratio, 512)] == 1.0
        assert found[Cell("needle", "code", ratio, 512, EMPTIED)] == 0.0
        assert found[Cell("needle", "code", ratio, 512, OTHER)] == 0.0
    assert len(asker.drafts) == 2 * 3 * 8 and EMPTIED not in asker.drafts
    assert not asker.texts, "memories are left behind"
    (row, *_) = made.sheet.rows()
    assert (row.count, row.documents, row.state) == (3 * 8, 3, MEASURED)
    assert row.tokens is not None and 450 < row.tokens < 650


def test_a_length_that_is_not_held_is_not_dropped() -> None:
    asker = PerfectAsker([], capacity_tokens=400)
    asker.documents = needles(asker)
    with bench(replace(PLAN, control_tokens=0), asker) as made:
        measure_needles(made, 512)
    states = {(row.measure, row.ratio): row.state for row in made.sheet.rows()}
    assert states == {
        **{("needle", 0): NOT_HELD, ("needle_draft", 0): NOT_HELD},
        **{("needle", 4): MEASURED, ("needle_draft", 4): MEASURED},
    }


def clue_bench(plan: Plan, quotes: int = 9) -> tuple[Bench, PerfectAsker]:
    asker = PerfectAsker([], quotes=quotes)
    asker.documents = clue_texts(plan, measure_density(asker, plan.seed))
    with bench(plan, asker) as made:
        measure_clues(made, asker.documents)
    return made, asker


def test_clues_of_a_perfect_memory_bring_what_the_question_lacks() -> None:
    made, asker = clue_bench(PLAN)
    found = shares(made)

    def share(measure: str, kind: str, control: str = "") -> float | None:
        return found[Cell(measure, kind, 4, 1024, control)]

    for kind in ("all", "one_hop", "two_hop", "two_hop hop 2", "aggregation"):
        assert share("gold_among_clues", kind) == 1.0
        for control in (EMPTIED, OTHER):
            assert share("gold_among_clues", kind, control) == 0.0
    assert share("answer", "all") == 1.0 and share("answer", "all", OTHER) == 0.0
    assert share("evidence@3_query", "two_hop") == 0.5
    assert share("evidence@3_query+clues", "two_hop") == 1.0
    assert share("evidence@3_gain", "two_hop") == 0.5
    assert share("evidence@3_gain", "two_hop hop 1") == 0.0
    assert share("evidence@3_gain", "two_hop hop 2") == 1.0
    assert share("evidence@3_query+gold_clues", "three_hop") == 1.0
    assert share("evidence@3_query+gold_questions", "three_hop") == pytest.approx(1 / 3)
    assert share("evidence_all_query", "two_hop") == 0.5
    assert share("evidence_all_gain", "three_hop hop 3") == 1.0
    assert share("passages_all", "two_hop") == 2.0
    for control in (EMPTIED, OTHER):  # nothing is added to the question
        assert share("evidence@3_query+clues", "two_hop", control) == 0.5
        assert share("evidence@3_gain", "all", control) == 0.0
    assert not asker.texts, "memories are left behind"
    assert {index for name, _, index in asker.written if name.startswith("clues")} == {True}


def test_a_question_of_two_hops_needs_both_sentences_among_the_clues() -> None:
    made, _ = clue_bench(PLAN, quotes=1)
    kinds = ("one_hop", "two_hop", "two_hop hop 1", "two_hop hop 2")
    found = [shares(made)[Cell("gold_among_clues", kind, 4, 1024)] for kind in kinds]
    assert found == [1.0, 0.0, 1.0, 0.0]


def test_only_three_passages_count_among_the_first_three() -> None:
    made, _ = clue_bench(replace(PLAN, clue_documents=6, clue_ratios=(4,)))
    found = shares(made)
    three, every = (
        found[Cell(measure, "aggregation", 4, 1024)]
        for measure in ("evidence@3_query+clues", "evidence_all_query+clues")
    )
    assert three is not None and three < 1.0 and every == 1.0


def test_clues_that_no_ratio_holds_are_named() -> None:
    asker = PerfectAsker([])
    asker.documents = clue_texts(PLAN, measure_density(asker, PLAN.seed))
    asker.capacity_tokens = 350
    with bench(PLAN, asker) as made:
        measure_clues(made, asker.documents)
    states = {row.ratio: row.state for row in made.sheet.rows()}
    assert states == {0: NOT_HELD, 4: MEASURED}
