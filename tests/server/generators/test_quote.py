from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from memoserve.engine.sampler import SamplingParams
from memoserve.errors import InvalidArgument
from memoserve.generators.base import (
    AnswerItem,
    AnswerRequest,
    Evidence,
    Finished,
    QuotedSentence,
)
from memoserve.generators.quote import QuoteGenerator, QuoteOptions, split_evidence
from memoserve.retrieval.embedder import Embedder

SOURCE = (
    "Préface—nothing here. The Heron carried hull number 4471. Rain fell. "
    "The bell of Orrin weighed 5,552 pounds. Someone laughed. "
    "灯塔在山上。The Heron was painted black. Rain fell."
)


def evidence(*spans: tuple[int, int], memory: int = 0) -> tuple[Evidence, ...]:
    return tuple(
        Evidence(SOURCE[start:end], "book", start, len(SOURCE[:start].encode()), memory)
        for start, end in spans
    )


async def ask(
    embedder: Embedder,
    question: str,
    given: Sequence[Evidence],
    max_tokens: int = 256,
    **options: Any,
) -> tuple[list[QuotedSentence], Finished]:
    generator = QuoteGenerator(embedder, QuoteOptions(**options))
    request = AnswerRequest(question, tuple(given), "", SamplingParams(max_tokens=max_tokens))
    items: list[AnswerItem] = [item async for item in generator.answer(request)]
    *quotes, last = items
    assert isinstance(last, Finished)
    assert all(isinstance(quote, QuotedSentence) for quote in quotes)
    return [quote for quote in quotes if isinstance(quote, QuotedSentence)], last


WHOLE = evidence((0, len(SOURCE)))


async def test_the_best_sentence_is_quoted_with_its_place(embedder: Embedder) -> None:
    start = SOURCE.index("The bell")
    (quote,), last = await ask(embedder, "How heavy is the bell of Orrin?", WHOLE)
    assert quote.text == "The bell of Orrin weighed 5,552 pounds."
    assert (quote.start_char, quote.end_char) == (start, start + len(quote.text))
    encoded = SOURCE.encode()
    assert encoded[quote.start_byte : quote.end_byte].decode() == quote.text
    assert quote.start_byte > quote.start_char  # é and — are longer in bytes
    assert 0.0 < quote.score <= 1.0
    assert last == Finished("evidence")


@pytest.mark.parametrize("spans", [[(0, 90), (90, len(SOURCE))], [(22, 200), (0, 22)]])
async def test_offsets_hold_for_passages_anywhere(
    embedder: Embedder, spans: list[tuple[int, int]]
) -> None:
    quotes, _ = await ask(
        embedder, "Heron bell rain", evidence(*spans), max_sentences=99, relative_threshold=0.0
    )
    assert len(quotes) >= 6
    for quote in quotes:
        assert SOURCE[quote.start_char : quote.end_char] == quote.text
        assert SOURCE.encode()[quote.start_byte : quote.end_byte].decode() == quote.text


async def test_quotes_come_in_the_order_of_the_evidence(embedder: Embedder) -> None:
    late, early = evidence((SOURCE.index("The Heron was"), len(SOURCE)), (0, 60))
    for given in ((late, early), (early, late)):
        quotes, _ = await ask(embedder, "What about the Heron?", given, relative_threshold=0.1)
        places = [[part.start_char for part in given].index(0) for _ in quotes]
        assert places
        found = [quote.text for quote in quotes if "Heron" in quote.text]
        in_evidence = [part.text for part in given]
        assert found == sorted(
            found, key=lambda text: next(i for i, part in enumerate(in_evidence) if text in part)
        )
        assert len(found) == 2


async def test_limits_choose_the_best_not_the_first(embedder: Embedder) -> None:
    question = "Was the Heron painted black?"
    both, _ = await ask(embedder, question, WHOLE, relative_threshold=0.1, max_sentences=2)
    assert [quote.text[:15] for quote in both] == ["The Heron carri", "The Heron was p"]
    one, _ = await ask(embedder, question, WHOLE, relative_threshold=0.1, max_sentences=1)
    strict, _ = await ask(embedder, question, WHOLE, relative_threshold=1.0)
    assert [quote.text for quote in one] == [quote.text for quote in strict] == [both[1].text]


async def test_max_tokens_leaves_out_the_lower_scores(embedder: Embedder) -> None:
    question = "Was the Heron painted black?"
    options: dict[str, Any] = {"relative_threshold": 0.1, "max_sentences": 2}
    quotes, last = await ask(embedder, question, WHOLE, max_tokens=7, **options)
    assert [quote.text for quote in quotes] == ["The Heron was painted black."]
    assert last == Finished("length")
    quotes, last = await ask(embedder, question, WHOLE, max_tokens=6, **options)
    assert (quotes, last) == ([], Finished("length"))


@pytest.mark.parametrize("given", [[], [Evidence(" \n", "s", 0, 0)]], ids=["none", "blank"])
async def test_nothing_to_quote_is_told(embedder: Embedder, given: list[Evidence]) -> None:
    assert await ask(embedder, "anything?", given) == ([], Finished("no_evidence"))


async def test_a_wording_is_quoted_once(embedder: Embedder) -> None:
    twice = [*WHOLE, *evidence((0, len(SOURCE)), memory=1)]
    quotes, _ = await ask(embedder, "Rain fell?", twice, relative_threshold=0.0, max_sentences=99)
    texts = [quote.text for quote in quotes]
    assert len(texts) == len(set(texts)) == 7
    assert {quote.memory for quote in quotes} == {0}


async def test_only_promising_sentences_are_embedded(embedder: Any) -> None:
    quotes, _ = await ask(embedder, "the bell of Orrin", WHOLE, max_candidates=2)
    assert len(embedder.embedded) == 2
    assert quotes[0].text.startswith("The bell of Orrin")


async def test_meaning_and_words_are_mixed_by_the_weight(embedder: Embedder) -> None:
    question = "Rain fell"
    scores = []
    for weight in (0.0, 0.5, 1.0):
        quotes, _ = await ask(embedder, question, WHOLE, lexical_weight=weight, max_sentences=1)
        scores.append(quotes[0].score)
    assert scores == pytest.approx([1.0, 1.0, 1.0])
    question = "Rain fell on Orrin"
    mixed = []
    for weight in (0.0, 0.5, 1.0):
        quotes, _ = await ask(
            embedder, question, WHOLE, lexical_weight=weight, max_sentences=9, relative_threshold=0
        )
        mixed.append(next(quote.score for quote in quotes if quote.text == "Rain fell."))
    assert mixed[0] == pytest.approx(2 / (2**0.5 * 4**0.5), abs=1e-6)
    assert mixed[1] == pytest.approx((mixed[0] + mixed[2]) / 2)


async def test_without_a_question_the_middle_is_quoted(embedder: Embedder) -> None:
    text = "Eels are fish. Eels are long fish. Eels are food. Zeppelins exploded overhead."
    quotes, _ = await ask(embedder, "", [Evidence(text, "s", 0, 0)])
    assert quotes and all(quote.text.startswith("Eels") for quote in quotes)


def test_sentences_start_unscored_in_order() -> None:
    sentences = split_evidence(WHOLE)
    assert [sentence.start_char for sentence in sentences] == sorted(
        sentence.start_char for sentence in sentences
    )
    assert "灯塔在山上。" in [sentence.text for sentence in sentences]
    assert {sentence.score for sentence in sentences} == {0.0}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("max_sentences", 0),
        ("max_candidates", 0),
        ("relative_threshold", 1.1),
        ("lexical_weight", -0.1),
    ],
)
def test_options_are_checked(field: str, value: Any) -> None:
    with pytest.raises(InvalidArgument) as caught:
        QuoteOptions(**{field: value})
    assert caught.value.field == field
