"""Which lines of a recall are clues, and which language a text is in."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memoserve.pipeline.clues import ClueLines, ClueRules, LineSplitter
from memoserve.pipeline.language import SAMPLE_CHARS, detect, is_spaceless
from memoserve.pipeline.values import Language

LONG = "the bridge was built of iron"


@pytest.mark.parametrize(
    "mark",
    [
        "",
        "- ",
        "* ",
        "• ",
        "1. ",
        "1.",
        "1) ",
        "(2) ",
        "12: ",
        "3、",
        "①",
        "  4.  ",
        "- 1. ",
        "123. ",
    ],
)
def test_list_marks_are_taken_off(mark: str) -> None:
    assert ClueLines(ClueRules()).judge(mark + LONG) == (LONG, "")


@pytest.mark.parametrize(
    "text",
    [
        "1984 was a long year",
        "3 men in a boat",
        "-5 degrees were it",
        "1.5 percent of the men",
        "12:30 was the hour named",
    ],
)
def test_numbers_that_begin_a_sentence_stay(text: str) -> None:
    assert ClueLines(ClueRules()).judge(text) == (text, "")


@pytest.mark.parametrize("line", ["", "   ", "- ", "1.", "\t", "* 2. "])
def test_nothing_is_empty(line: str) -> None:
    assert ClueLines(ClueRules()).judge(line) == ("", "empty")


def test_a_line_said_twice_is_a_duplicate_whatever_its_mark_case_and_spaces() -> None:
    lines = ClueLines(ClueRules())
    assert lines.judge(LONG)[1] == ""
    assert lines.judge("2.  The  BRIDGE was built of iron")[1] == "duplicate"
    assert lines.judge(LONG + " too")[1] == ""


def test_short_lines_and_the_acknowledgement_are_dropped() -> None:
    lines = ClueLines(ClueRules(acknowledgements=("I have read it all.",)))
    assert lines.judge("only three words")[1] == "too short"
    assert lines.judge("now there are four")[1] == ""
    assert lines.judge("i have READ it  all.")[1] == "acknowledgement"


def test_scripts_without_spaces_are_counted_in_characters() -> None:
    lines = ClueLines(ClueRules(min_chars=6))
    assert lines.judge("1、铁桥建于春天")[1] == ""
    assert lines.judge("铁桥很长啊")[1] == "too short"
    assert lines.judge("鉄の橋は春にできた")[1] == ""


@given(st.lists(st.text("ab \n\r", max_size=6), max_size=8))
def test_lines_are_those_of_the_whole_text(pieces: list[str]) -> None:
    splitter = LineSplitter()
    lines = [line for piece in pieces for line in splitter.feed(piece)]
    lines += splitter.finish()
    whole = "".join(pieces).split("\n")
    assert lines == (whole if whole[-1] else whole[:-1])


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("", Language.EN),
        ("12 34 !?", Language.EN),
        ("A bridge of iron", Language.EN),
        ("铁桥建于春天。", Language.ZH),
        ("Das Wort 桥 heißt Brücke", Language.EN),
        ("铁桥 bridge", Language.EN),  # 2 of 8 letters
        ("铁铁桥 bridge", Language.ZH),  # 3 of 9
        ("ひらがなとカタカナ", Language.EN),
    ],
)
def test_language_by_script(text: str, language: Language) -> None:
    assert detect(text) is language


def test_only_the_beginning_decides() -> None:
    assert detect("x" * SAMPLE_CHARS + "桥" * 10_000) is Language.EN
    assert detect("桥" * SAMPLE_CHARS + "x" * 100_000) is Language.ZH


def test_spaceless_scripts() -> None:
    assert is_spaceless("鉄の橋は")
    assert not is_spaceless("쇠다리 iron")  # 3 of 7 letters
    assert not is_spaceless("Brücke")
    assert not is_spaceless("123")
