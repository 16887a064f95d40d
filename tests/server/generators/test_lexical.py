from __future__ import annotations

import math

import pytest

from memoserve.generators.lexical import overlaps, terms


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The Ship's boats, hull QK-4471!", {"the", "ship", "boat", "hull", "qk-4471"}),
        ("it cost 3.5 crowns.", {"it", "cost", "3.5", "crown"}),
        ("gas glass is", {"gas", "glass", "is"}),
        ("ÜBER Straße", {"über", "strasse"}),
        ("灯塔在哪里", {"灯塔", "塔在", "在哪", "哪里"}),
        ("灯 a灯塔", {"灯", "a", "灯塔"}),
        ("… — !", set()),
    ],
)
def test_terms(text: str, expected: set[str]) -> None:
    assert terms(text) == expected


def test_rare_words_weigh_more() -> None:
    sentences = ["the ship sank", "the bell rang", "the bell of the ship Heron"]
    the, ship, heron = math.log(1 + 3 / 3), math.log(1 + 3 / 2), math.log(1 + 3 / 1)
    total = the + ship + heron
    assert overlaps("Where is the ship Heron, pray?", sentences) == pytest.approx(
        [(the + ship) / total, the / total, 1.0]
    )


def test_no_common_word_is_zero_for_all() -> None:
    assert overlaps("quite other", ["a b", "c"]) == [0.0, 0.0]
    assert overlaps("anything", []) == []
