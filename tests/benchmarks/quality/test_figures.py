"""Shares, intervals, rows and the picture, on outcomes made by hand."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from benchmarks.quality.intervals import bootstrap
from benchmarks.quality.picture import draw
from benchmarks.quality.report import report
from benchmarks.quality.scores import Place, found, quoted, same, says_code
from benchmarks.quality.sheet import (
    EMPTIED,
    MEASURED,
    NOT_HELD,
    Cell,
    Sheet,
    read_csv,
    write_csv,
    write_json,
)
from memoserve_training.worlds import Span

SVG = "{http://www.w3.org/2000/svg}"


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        ("4821", True),
        (" It is 4821.", True),
        ("04821", False),
        ("482", False),
        ("4821 or 4822", False),
        ("4 8 2 1", False),
        ("", False),
    ],
    ids=str,
)
def test_a_code_is_right_digit_by_digit(answer: str, right: bool) -> None:
    assert says_code(answer, "4821") is right


def test_an_answer_is_right_word_for_word() -> None:
    assert same(" the  Guard.\n", "the guard")
    assert not same("guard", "the guard")
    assert not same("", "guard")


def test_a_gold_sentence_must_be_a_whole_clue() -> None:
    clues = ["Vela is a guard.", "tam lives in Kor", "Something else."]
    gold = ["Vela is a guard.", "Tam lives in Kor.", "Something"]
    assert quoted(gold, clues) == [True, True, False]


def test_evidence_is_found_where_one_passage_holds_all_of_it() -> None:
    passages = [Place(0, 50), Place(50, 90)]
    gold = [Span(0, 50), Span(10, 20), Span(40, 60), Span(80, 91), Span(50, 90)]
    assert found(gold, passages) == [True, True, False, False, True]
    assert found(gold, []) == [False] * 5


def test_the_share_is_over_outcomes_and_the_interval_over_documents() -> None:
    share = bootstrap([[1.0] * 8, [0.0, 0.0], []], seed=1)
    assert share is not None
    assert (share.share, share.count, share.documents) == (0.8, 10, 2)
    assert (share.low, share.high) == (0.0, 1.0)


def test_an_interval_is_about_as_wide_as_theory_says() -> None:
    rng = np.random.default_rng(3)
    outcomes = [[float(right)] for right in rng.random(400) < 0.7]
    share = bootstrap(outcomes, seed=1)
    assert share is not None and share.low is not None and share.high is not None
    error = (share.share * (1 - share.share) / 400) ** 0.5
    assert share.low == pytest.approx(share.share - 1.96 * error, abs=0.01)
    assert share.high == pytest.approx(share.share + 1.96 * error, abs=0.01)
    assert share == bootstrap(outcomes, seed=1)


def test_questions_about_one_document_are_not_independent() -> None:
    rng = np.random.default_rng(4)
    together = [[float(right)] * 10 for right in rng.random(40) < 0.5]
    apart = [[outcome] for document in together for outcome in document]
    wide, narrow = bootstrap(together, seed=1), bootstrap(apart, seed=1)
    assert wide is not None and wide.low is not None and wide.high is not None
    assert narrow is not None and narrow.low is not None and narrow.high is not None
    assert wide.high - wide.low > 2 * (narrow.high - narrow.low)


def test_a_document_counts_by_its_outcomes() -> None:
    share = bootstrap([[1.0] * 9, [0.0]] * 20, seed=1)
    assert share is not None and share.low is not None and share.high is not None
    assert 0.8 < share.low < share.share == 0.9 < share.high < 0.96


def test_of_one_document_no_spread_is_claimed() -> None:
    share = bootstrap([[1.0, 0.0]], seed=1)
    assert share is not None
    assert (share.share, share.low, share.high) == (0.5, None, None)
    assert bootstrap([[], []], seed=1) is None


def needle(ratio: int, length: int, control: str = "") -> Cell:
    return Cell("needle", "code", ratio, length, control)


def sheet() -> Sheet:
    made = Sheet(seed=1)
    for length in (256, 1024, 32768):
        for ratio, right in ((0, 1.0), (4, 0.5)):
            for document in range(3):
                made.add(needle(ratio, length), document, [right, 1.0])
            made.held(ratio, length, length - 6)
            made.held(ratio, length, length + 6)
        made.add(needle(4, length, EMPTIED), 0, [0.0, 0.0])
    made.not_held(needle(0, 65536))
    return made


def test_a_cell_that_is_not_held_is_a_row(tmp_path: Path) -> None:
    rows = sheet().rows()
    assert [row.state for row in rows] == [MEASURED] * 9 + [NOT_HELD]
    assert (rows[-1].length, rows[-1].share, rows[-1].count) == (65536, None, 0)
    assert (rows[0].tokens, rows[0].share, rows[0].count, rows[0].documents) == (256, 1.0, 6, 3)
    assert "not held" in report(rows) and "75.0 (75 to 75)" in report(rows)
    path = tmp_path / "rows.csv"
    write_csv(path, rows, {"seed": "1", "model": "tiny, untrained"})
    assert read_csv(path) == rows
    write_json(tmp_path / "rows.json", rows, {"seed": "1"})
    assert '"state": "not held"' in (tmp_path / "rows.json").read_text(encoding="utf-8")


def test_outcomes_that_come_later_count() -> None:
    made = sheet()
    assert made.rows()[0].share == 1.0
    made.add(needle(0, 256), 3, [0.0, 0.0])
    assert (made.rows()[0].share, made.rows()[0].documents) == (0.75, 4)


def test_the_picture_has_a_curve_a_ratio_and_the_control() -> None:
    text = draw(sheet().rows())
    root = ET.fromstring(text)
    curves = [line.get("points", "").split() for line in root.iter(f"{SVG}polyline")]
    assert [len(points) for points in curves] == [3, 3, 3]
    assert len(list(root.iter(f"{SVG}circle"))) == 6
    heights = [[float(point.split(",")[1]) for point in points] for points in curves]
    full, half, control = (set(curve) for curve in heights)
    assert max(full) < min(half) < min(control)  # the top of a picture is at 0
    across = [float(point.split(",")[0]) for point in curves[0]]
    steps = [after - before for before, after in pairwise(across)]
    assert steps[1] / steps[0] == pytest.approx(5 / 2, abs=0.02)  # logarithmic
    said = {element.text for element in root.iter(f"{SVG}text")}
    assert {"no compression", "ratio 4", "memory emptied", "0.25K", "32K"} <= said
    assert text == draw(sheet().rows())


def test_the_picture_of_nothing_is_a_picture() -> None:
    assert not list(ET.fromstring(draw([])).iter(f"{SVG}circle"))
