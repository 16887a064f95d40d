"""The texts that are asked about, and the plan of a run."""

from __future__ import annotations

import random

import pytest

from benchmarks.quality.__main__ import parse
from benchmarks.quality.plan import QUICK, Plan, tokens_of
from benchmarks.quality.texts import Density, code_words, codes, filler_text, mixed, rng_of
from memoserve_training.worlds import Kind, Split, names_of

DENSITY = Density(around=4.0, filler=1.25, codes=1.7, mixed=1.4)


@pytest.mark.parametrize("length", [256, 4096])
def test_codes_are_of_about_the_length_and_each_says_its_answer(length: int) -> None:
    words = code_words(length, 8, DENSITY)
    document = codes(rng_of(1, length), words, 8)
    assert len(document.text.split()) == pytest.approx(words, abs=15)
    assert len(document.questions) == 8
    for question in document.questions:
        (quote,) = document.quotes(question)
        assert question.answer in quote and document.text.count(question.answer) == 1
        assert len(question.answer) == 4 and question.relation == "code"


def test_long_texts_have_no_more_codes_than_short_ones() -> None:
    texts = [codes(rng_of(1), code_words(n, 8, DENSITY), 8).text for n in (512, 8192)]
    numbers = [sum(word.strip(".").isdecimal() for word in text.split()) for text in texts]
    assert abs(numbers[0] - numbers[1]) <= 2 and min(numbers) >= 8


def test_needles_stand_anywhere() -> None:
    document = codes(rng_of(5), 2000, 8)
    places = [span.start / len(document.text) for q in document.questions for span in q.evidence]
    assert min(places) < 0.3 and max(places) > 0.7


def test_a_text_too_short_for_all_questions_has_fewer() -> None:
    assert 1 <= len(codes(rng_of(1), 30, 8).questions) < 8


def test_mixed_documents_ask_everything_and_draws_are_those_of_the_seed() -> None:
    document = mixed(rng_of(1, "clues", 0), 1400, 36)
    assert {question.kind for question in document.questions} == set(Kind)
    assert document == mixed(rng_of(1, "clues", 0), 1400, 36)
    assert document.text != mixed(rng_of(2, "clues", 0), 1400, 36).text


def test_filler_names_nobody() -> None:
    text = filler_text(random.Random(1), 600)
    assert 600 <= len(text.split()) <= 620 and text.count("\n\n") > 5
    known = set(names_of(Split.HELD_OUT))
    assert not known & {word.strip(".") for word in text.split()}


def test_names_of_the_training_texts_do_not_occur() -> None:
    texts = (codes(rng_of(1), 500, 8).text, mixed(rng_of(1), 500, 8).text)
    trained = set(names_of(Split.TRAIN))
    for text in texts:
        words = {word.strip(".,:") for word in text.split()}
        assert words & set(names_of(Split.HELD_OUT)) and not words & trained


def test_options_change_the_plan() -> None:
    plan, arguments = parse(
        ["--seed", "7", "--lengths", "0.25K,3000", "--ratios", "0,8", "--model", "runs/tiny"]
    )
    assert plan == Plan(seed=7, lengths=(256, 3000), ratios=(0, 8))
    assert arguments.model == "runs/tiny"
    assert parse(["--quick"])[0] == QUICK
    assert parse(["--clue-documents", "0"])[0].clue_documents == 0


@pytest.mark.parametrize(
    "words",
    [["--lengths", "12"], ["--documents", "0"], ["--ratios", "-2"], ["--lengths", "x"]],
    ids=str,
)
def test_a_plan_that_cannot_be_is_refused(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        parse(words)
    assert words[0].strip("-") in capsys.readouterr().err


def test_lengths_may_be_given_in_thousands() -> None:
    assert [tokens_of(text) for text in ("300", "0.25K", "32k")] == [300, 256, 32768]


def test_long_texts_are_fewer() -> None:
    plan = Plan()
    counts = [plan.documents_at(length) for length in plan.lengths]
    assert counts == sorted(counts, reverse=True)
    assert counts[0] == plan.documents and counts[-1] == plan.least
