from __future__ import annotations

import random
import re
import sys
from typing import Any

import pytest

from memoserve_training.worlds import (
    Document,
    Kind,
    Split,
    WorldSettings,
    make_document,
    make_needle,
    names_of,
)
from memoserve_training.worlds.__main__ import main
from tests.training.worlds.reader import NAME, answers, read, understand

ONE_HOP = {Kind.ONE_HOP: 1.0}


def draw(seed: int = 1, **values: Any) -> Document:
    return make_document(random.Random(seed), WorldSettings(**values))


def test_the_same_seed_gives_the_same_document_and_another_another() -> None:
    assert draw(1) == draw(1)
    assert draw(1).text != draw(2).text


@pytest.mark.parametrize("words", [60, 200, 3000])
def test_a_document_is_about_as_long_as_asked_for(words: int) -> None:
    for seed in range(5):
        assert words <= len(draw(seed, words=words).text.split()) <= words + 45


def test_as_many_questions_as_asked_for_where_the_words_allow() -> None:
    assert len(draw(words=500, questions=5).questions) == 5
    assert len(draw(words=5, questions=5).questions) == 1


def test_terse_facts_and_questions_of_few_names() -> None:
    document = draw(
        terse=True, kinds=ONE_HOP, relations=("code",), names=32, code_digits=1, words=48,
        questions=16, filler=0.0, distractors=0.0,
    )  # fmt: skip
    who = rf"(?:the {NAME} \w+|{NAME})"
    assert re.fullmatch(rf"(?:{who} is \d\. )+{who} is \d\.", document.text)
    assert len(document.questions) > 10
    for question in document.questions:
        assert document.quotes(question) == (f"{question.text[:-1]} is {question.answer}.",)
        name = question.text[:-1].removeprefix("the ").split()[0]
        assert name in names_of(Split.TRAIN, 32)


def test_short_names_are_one_block() -> None:
    document = draw(
        terse=True, short_names=True, kinds=ONE_HOP, relations=("code",), names=32, code_digits=1,
        words=48, questions=16, filler=0.0, distractors=0.0,
    )  # fmt: skip
    found = re.findall(r"(\w+) is \d\.", document.text)
    assert len(found) == len({*found}) == len(document.questions) == 16
    assert {*found} <= {name[:3] for name in names_of(Split.TRAIN, 32)}


def test_terse_chains_name_their_relations_in_order() -> None:
    document = draw(
        terse=True, kinds={Kind.TWO_HOP: 1.0}, relations=("lives", "code"), words=60, filler=0.0
    )
    for question in document.questions:
        start = question.text.removesuffix(" in is?")
        home, code = document.quotes(question)
        bridge = home.removeprefix(f"{start} in ").removesuffix(".")
        assert code == f"{bridge} is {question.answer}."
        assert question.surrogates == (f"{start} in?", f"{bridge}?")


def test_only_the_first_wordings() -> None:
    document = draw(kinds=ONE_HOP, relations=("lives",), wordings=1, filler=0.0, words=400)
    sentences = [document.text[span.start : span.end] for span in document.sentences]
    assert all(re.fullmatch(rf"{NAME} lives in the town of {NAME}\.", text) for text in sentences)
    assert all(re.fullmatch(rf"Where does {NAME} live\?", q.text) for q in document.questions)


def test_only_the_allowed_relations() -> None:
    document = draw(relations=("lives", "code", "moved"), words=600, questions=30)
    facts = read(document, Split.TRAIN)
    assert {f.relation.name for f in facts} == {"lives", "code", "moved_from", "moved_to"}
    assert {q.kind for q in document.questions} == {
        *(Kind.ONE_HOP, Kind.TWO_HOP, Kind.AGGREGATION, Kind.UPDATE)
    }


def test_weights_say_how_often_a_kind_is_asked() -> None:
    kinds = {Kind.ONE_HOP: 9.0, Kind.TWO_HOP: 1.0, Kind.UPDATE: 0.0}
    asked = [q.kind for q in draw(kinds=kinds, words=9000, questions=300).questions]
    assert 0.8 < asked.count(Kind.ONE_HOP) / len(asked) < 0.98
    assert Kind.UPDATE not in asked


def test_filler_takes_its_share_of_the_words() -> None:
    document = draw(words=4000, filler=0.5, questions=200)
    facts = {fact.span for fact in read(document, Split.TRAIN)}
    told = sum(len(document.text[s.start : s.end].split()) for s in facts)
    assert 0.4 < 1 - told / 4000 < 0.55
    bare = draw(words=1000, filler=0.0)
    assert len(read(bare, Split.TRAIN)) == len(bare.sentences)


def test_facts_first_puts_filler_behind_them() -> None:
    kinds = {Kind.ONE_HOP: 1.0, Kind.PREFERENCE: 1.0}
    document = draw(words=600, filler=0.5, facts_first=True, kinds=kinds)
    facts = {fact.span for fact in read(document, Split.TRAIN)}
    silent = {*document.sentences} - facts
    filler = {span for span in silent if ": " not in document.text[span.start : span.end]}
    assert len(filler) > 10 < len(facts)
    assert max(facts) < min(filler)
    assert document.text[min(filler).start - 2 : min(filler).start] == "\n\n"


def test_terse_facts_first_too() -> None:
    document = draw(words=100, filler=0.5, facts_first=True, terse=True, kinds=ONE_HOP)
    terse = [
        bool(re.match(rf"(the )?{NAME} \w+", document.text[span.start : span.end]))
        for span in document.sentences
    ]
    assert terse == sorted(terse, reverse=True)
    assert {*terse} == {True, False}
    assert "\n" not in document.text


def test_unshuffled_questions_follow_the_text() -> None:
    document = draw(words=600, shuffled=False, kinds=ONE_HOP)
    places = [question.evidence[0] for question in document.questions]
    assert places == sorted(places)
    mixed = draw(words=600, kinds=ONE_HOP)
    places = [question.evidence[0] for question in mixed.questions]
    assert places != sorted(places)


def test_where_the_names_run_out_filler_goes_on() -> None:
    document = draw(names=20, words=1000, questions=50)
    assert {*re.findall(NAME, document.text)} == {*names_of(Split.TRAIN, 20)}
    assert len(document.text.split()) >= 1000
    bare = draw(names=20, words=1000, filler=0.0)
    assert len(read(bare, Split.TRAIN)) == len(bare.sentences) < 50
    with pytest.raises(ValueError, match="names is 1: too few"):
        draw(names=1, kinds={Kind.TWO_HOP: 1.0})


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"words": 0}, "words is 0"),
        ({"questions": 0}, "questions is 0"),
        ({"names": 0}, "names is 0"),
        ({"code_digits": 0}, "code_digits is 0"),
        ({"wordings": 0}, "wordings is 0"),
        ({"filler": 1.0}, "filler is 1.0"),
        ({"distractors": -0.1}, "distractors is -0.1"),
        ({"kinds": {}}, "kinds needs weights"),
        ({"kinds": {Kind.UPDATE: 0.0}}, "kinds needs weights"),
        ({"kinds": {Kind.UPDATE: -1.0, Kind.ONE_HOP: 1.0}}, "kinds needs weights"),
        ({"short_names": True, "split": Split.HELD_OUT}, "short_names is for training"),
        ({"relations": ("nothing",)}, "no 'nothing'"),
        ({"relations": ("code",), "kinds": {Kind.UPDATE: 1.0}}, "none of the kinds"),
    ],
)
def test_settings_that_cannot_be_are_refused_by_name(values: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        draw(**values)


@pytest.mark.parametrize("split", Split, ids=lambda split: split.value)
@pytest.mark.parametrize("depth", [0.0, 0.25, 0.5, 1.0])
def test_a_needle_lies_at_its_depth_in_filler(split: Split, depth: float) -> None:
    settings = WorldSettings(split=split, words=3000)
    document = make_needle(random.Random(7), settings, depth, distractors=4)
    (question,) = document.questions
    (asking,) = understand(question.text, split)
    facts = read(document, split)
    assert len(facts) == 5
    assert {fact.relation.name for fact in facts} == {"code"} == {question.relation}
    assert answers(asking, facts) == [(question.answer, question.evidence)]
    (span,) = question.evidence
    assert abs(span.start / (len(document.text) - span.end + span.start) - depth) < 0.02
    assert 3000 <= len(document.text.split()) < 3015


def test_a_needle_of_another_relation_and_without_others() -> None:
    settings = WorldSettings(words=300, relations=("drink",))
    document = make_needle(random.Random(0), settings, 0.5, distractors=0)
    assert len(read(document, Split.TRAIN)) == 1
    assert document.questions[0].kind is Kind.PREFERENCE
    with pytest.raises(ValueError, match=r"depth is 1\.5"):
        make_needle(random.Random(0), settings, 1.5)


@pytest.mark.parametrize("more", [[], ["--needle", "0.5"], ["--terse"]], ids=str)
def test_the_command_prints_a_document_with_its_questions(
    more: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["worlds", "--seed", "3", "--words", "80", "--split", "held_out", *more]
    monkeypatch.setattr(sys, "argv", arguments)
    main()
    shown = capsys.readouterr().out
    assert "    answer: " in shown
    assert {*re.findall(NAME, shown)} <= {*names_of(Split.HELD_OUT)}
