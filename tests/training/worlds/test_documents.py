from __future__ import annotations

import random
import re
from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memoserve_training.worlds import (
    Document,
    Kind,
    Question,
    Split,
    WorldSettings,
    make_document,
    names_of,
)
from memoserve_training.worlds.layout import paragraphs
from memoserve_training.worlds.world import listed
from tests.training.worlds.reader import NAME, Read, answers, read, understand

BOTH = pytest.mark.parametrize("split", Split, ids=lambda split: split.value)


def draw(seed: int = 1, **values: object) -> Document:
    return make_document(random.Random(seed), WorldSettings(**values))  # type: ignore[arg-type]


def words_of(text: str) -> int:
    return len(text.split())


def gaps(document: Document) -> list[str]:
    """What stands between the sentences, before the first and behind the last."""
    ends = [0, *(span.end for span in document.sentences)]
    starts = [*(span.start for span in document.sentences), len(document.text)]
    return [document.text[end:start] for end, start in zip(ends, starts, strict=True)]


def check_spans(document: Document) -> None:
    between = gaps(document)
    assert between[0] == between[-1] == ""
    assert set(between[1:-1]) <= {" ", "\n", "\n\n"}
    for span in document.sentences:
        assert re.fullmatch(r"[A-Z][^.?!\n]*\.", document.text[span.start : span.end])
    for question in document.questions:
        assert set(question.evidence) <= set(document.sentences)
        assert len(set(question.evidence)) == len(question.evidence) == len(question.surrogates)


def check_answered(question: Question, facts: list[Read], split: Split) -> None:
    """The text gives this question one answer, by these sentences, and each surrogate its own."""
    (asking,) = understand(question.text, split)
    assert answers(asking, facts) == [(question.answer, question.evidence)]
    assert question.relation == "+".join(relation.name for relation in asking.relations)
    for surrogate, span in zip(question.surrogates, question.evidence, strict=True):
        (step,) = understand(surrogate, split)
        assert [spans for _, spans in answers(step, facts)] == [(span,)]


@BOTH
@pytest.mark.parametrize("kind", Kind, ids=lambda kind: kind.value)
def test_the_text_gives_each_question_one_answer(kind: Kind, split: Split) -> None:
    for seed in range(8):
        document = draw(seed, split=split, kinds={kind: 1.0}, words=250)
        check_spans(document)
        facts = read(document, split)
        assert {question.kind for question in document.questions} == {kind}
        for question in document.questions:
            check_answered(question, facts, split)


@BOTH
def test_a_sentence_says_one_thing_of_one_subject_and_theme(split: Split) -> None:
    changed = {"moved_from", "passed_from", "trade_before", "code_before"}
    document = draw(split=split, words=4000, questions=200, filler=0.3)
    facts = read(document, split)
    assert len({fact.span for fact in facts}) == len(facts)  # no sentence reads in two ways
    current = [fact for fact in facts if fact.relation.name not in changed]
    said = {(fact.subject, fact.relation.theme) for fact in current}
    assert len(said) == len(current)
    silent = {*document.sentences} - {fact.span for fact in facts}
    assert silent
    for span in silent:  # filler names nobody but the one who speaks
        line = document.text[span.start : span.end]
        assert not re.search(NAME, re.sub(rf"^{NAME}: ", "", line))


HOPS = {Kind.ONE_HOP: 1, Kind.TWO_HOP: 2, Kind.THREE_HOP: 3}


@pytest.mark.parametrize("kind", HOPS, ids=lambda kind: kind.value)
def test_each_hop_names_what_the_next_is_about(kind: Kind) -> None:
    document = draw(kinds={kind: 1.0}, words=600, questions=30)
    for question in document.questions:
        quotes = document.quotes(question)
        assert len(quotes) == HOPS[kind]
        assert question.answer in quotes[-1] or question.answer.capitalize() in quotes[-1]
        (start,) = re.findall(NAME, question.text)
        assert start in quotes[0]
        for one, after in pairwise(quotes):
            (bridge,) = {*re.findall(NAME, one)} & {*re.findall(NAME, after)}
            assert bridge not in question.text
            assert bridge in question.surrogates[quotes.index(after)]


@BOTH
def test_an_aggregation_gathers_two_to_four_names_in_the_order_of_the_text(split: Split) -> None:
    sizes = set()
    document = draw(split=split, kinds={Kind.AGGREGATION: 1.0}, words=900, questions=12)
    for question in document.questions:
        assert list(question.evidence) == sorted(question.evidence)
        names = [re.findall(NAME, answer) for answer in re.split(", | and ", question.answer)]
        for (name,), quote in zip(names, document.quotes(question), strict=True):
            assert name in quote
        sizes.add(len(names))
    assert sizes == {2, 3, 4}


@pytest.mark.parametrize("relation", ["works", "famed", "material"])
def test_an_aggregation_also_gathers_who_was_spoken_of_before(relation: str) -> None:
    kinds = {Kind.ONE_HOP: 9.0, Kind.AGGREGATION: 1.0}
    document = draw(kinds=kinds, relations=(relation,), words=1500, questions=100)
    facts = read(document, Split.TRAIN)
    assert {question.kind for question in document.questions} == set(kinds)
    for question in document.questions:
        check_answered(question, facts, Split.TRAIN)
        assert len(question.evidence) in ((1,) if question.kind is Kind.ONE_HOP else (2, 3, 4))


def test_half_of_the_words_stay_for_facts_that_nobody_gathers() -> None:
    kinds = {Kind.AGGREGATION: 1.0}
    document = draw(kinds=kinds, relations=("guild",), words=2000, questions=40)
    assert len(document.questions) == 6  # of twelve guilds
    facts = read(document, Split.TRAIN)
    for question in document.questions:
        check_answered(question, facts, Split.TRAIN)


def test_what_changes_becomes_something_else() -> None:
    for seed in range(5):
        kinds = {Kind.UPDATE: 1.0}
        document = draw(seed, kinds=kinds, relations=("recoded", "retrained"), code_digits=1)
        facts = {
            (fact.relation.name, fact.subject): fact.value for fact in read(document, Split.TRAIN)
        }
        for (name, subject), value in facts.items():
            now = {"code_before": "code_now", "trade_before": "trade_now"}.get(name, "")
            assert facts.get((now, subject)) != value


def test_what_was_so_is_told_before_what_is_so_now() -> None:
    pairs = 0
    for seed in range(10):
        document = draw(seed, kinds={Kind.UPDATE: 1.0})
        facts = {(fact.relation.name, fact.subject): fact for fact in read(document, Split.TRAIN)}
        for (name, subject), fact in facts.items():
            then = {"moved_from": "moved_to", "code_before": "code_now"}.get(name, "")
            if (later := facts.get((then, subject))) is not None:
                assert fact.span < later.span
                assert fact.value != later.value
                pairs += 1
    assert pairs > 20


def test_listed_names() -> None:
    assert listed(["A"]) == "A"
    assert listed(["A", "B"]) == "A and B"
    assert listed(["A", "B", "C"]) == "A, B and C"


def test_dialogues_stand_line_by_line_and_facts_in_paragraphs() -> None:
    document = draw(words=1500, questions=60)
    blocks = document.text.split("\n\n")
    talks = [block.split("\n") for block in blocks if "\n" in block]
    assert len(talks) > 3
    for lines in talks:
        assert all(re.match(rf"{NAME}: ", line) for line in lines)
    sizes = [len(re.findall(r"\.(?: |$)", block)) for block in blocks if ":" not in block]
    assert set(sizes) <= set(range(3, 9))
    assert len(set(sizes)) > 3


@pytest.mark.parametrize("count", [1, 2, 3, 8, 9, 10, 11, 50])
def test_paragraphs_have_three_to_eight_sentences_unless_there_are_fewer(count: int) -> None:
    lines = [str(line) for line in range(count)]
    for seed in range(30):
        blocks = [block.lines for block in paragraphs(random.Random(seed), lines)]
        assert [line for block in blocks for line in block] == lines
        assert all(min(count, 3) <= len(block) <= 8 for block in blocks)


def test_distractors_share_relation_and_a_block_of_the_name() -> None:
    kinds = {Kind.ONE_HOP: 1.0}
    document = draw(
        kinds=kinds, relations=("lives",), questions=1, words=150, filler=0.0, distractors=0.9
    )
    (question,) = document.questions
    (name,) = re.findall(NAME, question.text)
    facts = read(document, Split.TRAIN)
    assert len(facts) > 8
    assert {fact.relation.name for fact in facts} == {question.relation}
    for fact in facts:
        for like, other in ((name, fact.subject), (question.answer, fact.value)):
            assert like[:3] == other[:3] or like[3:] == other[3:]


def test_key_points_say_what_comes_back() -> None:
    document = draw(3, kinds={Kind.AGGREGATION: 1.0, Kind.ONE_HOP: 1.0}, words=300)
    assert 1 <= len(document.key_points) <= 6
    for point in document.key_points:
        assert re.fullmatch(r"[A-Z].*\.", point)
        for name in re.findall(NAME, point):
            assert name in document.text
    groups = [q.answer for q in document.questions if q.kind is Kind.AGGREGATION]
    for group, point in zip(groups, document.key_points, strict=False):
        assert {*re.findall(NAME, group)} <= {*re.findall(NAME, point)}


def test_key_points_begin_with_who_comes_back_most_and_name_nobody_twice() -> None:
    different = False
    for seed in range(12):
        document = draw(seed, kinds={Kind.ONE_HOP: 1.0}, words=500, questions=30)
        about = [re.findall(NAME, point)[0] for point in document.key_points]
        assert len(set(about)) == len(about)
        subjects = Counter(re.findall(NAME, f.subject)[0] for f in read(document, Split.TRAIN))
        counts = [subjects[name] for name in about]
        assert counts == sorted(counts, reverse=True)
        assert counts[0] == max(subjects.values())
        different |= counts[0] > counts[-1] > 1
    assert different


def test_key_points_say_what_is_so_now() -> None:
    document = draw(kinds={Kind.UPDATE: 1.0}, relations=("moved", "recoded"), words=300)
    points = " ".join(document.key_points)
    facts = read(document, Split.TRAIN)
    assert [fact for fact in facts if fact.relation.name in ("moved_to", "code_now")]
    for fact in facts:
        changed = {"moved_from": "moved_to", "code_before": "code_now"}.get(fact.relation.name)
        if any((f.relation.name, f.subject) == (changed, fact.subject) for f in facts):
            assert fact.value not in points


@st.composite
def worlds(draw: st.DrawFn) -> WorldSettings:
    kinds = draw(st.dictionaries(st.sampled_from(list(Kind)), st.floats(0.1, 1.0), min_size=1))
    return WorldSettings(
        split=draw(st.sampled_from(list(Split))),
        words=draw(st.integers(1, 400)),
        kinds=kinds,
        questions=draw(st.integers(1, 20)),
        names=draw(st.none() | st.integers(12, 300)),
        code_digits=draw(st.integers(1, 6)),
        wordings=draw(st.none() | st.integers(1, 4)),
        filler=draw(st.floats(0, 0.9)),
        distractors=draw(st.floats(0, 0.9)),
        shuffled=draw(st.booleans()),
        facts_first=draw(st.booleans()),
    )


@settings(max_examples=60)
@given(worlds(), st.integers(0, 2**32))
def test_any_settings_make_a_document_that_answers_its_questions(
    world: WorldSettings, seed: int
) -> None:
    document = make_document(random.Random(seed), world)
    assert document == make_document(random.Random(seed), world)
    check_spans(document)
    assert 1 <= len(document.questions) <= world.questions
    assert {question.kind for question in document.questions} <= set(world.kinds)
    assert {*re.findall(NAME, document.text)} <= {*names_of(world.split, world.names)}
    facts = read(document, world.split)
    for question in document.questions:
        check_answered(question, facts, world.split)
