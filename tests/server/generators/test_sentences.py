from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memoserve.generators.sentences import sentence_spans


def split(text: str) -> list[str]:
    return [text[start:end] for start, end in sentence_spans(text)]


@pytest.mark.parametrize(
    "sentences",
    [
        ["It rained.", "Nobody came!", "Why?", "Who knows…", "The end"],
        ["Dr. J. R. Quarrie met Mrs. Holm at St. Brannoc.", "They spoke."],
        ["It cost 3.5 crowns.", "Or 1,250.75.", "See No. 7 and vol. 2.", "He said no.", "Good."],
        ["“Stop!” she said.", "“Who is it?” asked the pilot.", "“I.” He left."],
        ["(He was late.)", "Rope, e.g. hemp, i.e. fibre, approx. two yards.", "Fine."],
        ["他走了。", "真的吗？", "“好！”", "下雨了……", "价格是3.5元；", "完"],
        ["Wrapped\nby hand\nhere.", "Then more\ntext."],
        ["A heading", "Its text.", "More"],
        ["Mixed 中文。", "English again.", "尾"],
        ["Wait... what?", "Wait...", "What?!", "No"],
    ],
    ids=lambda sentences: sentences[0][:12],
)
def test_sentences_are_found(sentences: list[str]) -> None:
    joiner = "\n \n" if sentences[0] == "A heading" else " "
    assert split(joiner.join(sentences)) == [
        part for part in sentences if part != "“I.” He left."
    ] + (["“I.”", "He left."] if "“I.” He left." in sentences else [])


def test_chinese_needs_no_space_between() -> None:
    assert split("他走了。她来了！“好。”然后……完") == [
        "他走了。",
        "她来了！",
        "“好。”",
        "然后……",
        "完",
    ]


@given(st.text("aB1.。！?…”’)\n \t中é😀“,", max_size=200))
def test_spans_cover_everything_but_whitespace(text: str) -> None:
    end = 0
    for start, stop in sentence_spans(text):
        assert end <= start < stop <= len(text)
        assert text[end:start].strip() == ""
        assert text[start:stop] == text[start:stop].strip()
        end = stop
    assert text[end:].strip() == ""


@pytest.mark.parametrize("filling", [".", ". ", "\n", " ", "。", ".”", "a.b", "\n \n", "…"])
def test_hostile_repetition_stays_linear(filling: str) -> None:
    started = time.perf_counter()
    sentence_spans(filling * 20_000)
    assert time.perf_counter() - started < 2.0
