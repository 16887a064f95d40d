"""Held-out texts of about so many tokens, drawn from a seed."""

from __future__ import annotations

import random
from dataclasses import dataclass

from memoserve_training.worlds import Document, Kind, Split, WorldSettings, make_document
from memoserve_training.worlds.filler import filler_for

PARAGRAPH = 6  # sentences of a paragraph of filler
CODE_WORDS = 9  # of a sentence that tells a code, about
# Facts of a needle text that nobody asks for, for each three that are asked for: codes as well, of
# names like those asked for.
DISTRACTORS = 1 / 4
MIXED_FILLER = 0.25
KINDS = {kind: 2.0 if kind is Kind.TWO_HOP else 1.0 for kind in Kind}


@dataclass(frozen=True)
class Density:
    """Tokens of the chat around a text; tokens a word of filler, of sentences that tell codes, and
    of mixed documents.
    """

    around: float
    filler: float
    codes: float
    mixed: float


def rng_of(seed: int, *what: object) -> random.Random:
    """Draws for one purpose, the same whatever else is drawn."""
    return random.Random("/".join(map(str, (seed, *what))))


def filler_text(rng: random.Random, words: int) -> str:
    """Paragraphs about nothing that is asked, of so many words or a few more."""
    lines = filler_for(rng, Split.HELD_OUT, words)
    starts = range(0, len(lines), PARAGRAPH)
    return "\n\n".join(" ".join(lines[at : at + PARAGRAPH]) for at in starts)


def codes(rng: random.Random, words: int, questions: int) -> Document:
    """A text in which codes stand at random places among filler, and a question for each.

    A question is that of ``make_needle``; there are several, for a memory costs more than a
    question. A text too short for all of them has no filler and fewer questions.
    """
    told = questions * CODE_WORDS / (1 - DISTRACTORS)
    settings = WorldSettings(
        split=Split.HELD_OUT,
        words=words,
        kinds={Kind.ONE_HOP: 1.0},
        questions=questions,
        relations=("code",),
        filler=max(0.0, 1 - told / words),
        distractors=DISTRACTORS,
    )
    return make_document(rng, settings)


def mixed(rng: random.Random, words: int, questions: int) -> Document:
    """A document with every kind of question; of two hops twice as many as of any other."""
    settings = WorldSettings(
        split=Split.HELD_OUT, words=words, kinds=KINDS, questions=questions, filler=MIXED_FILLER
    )
    return make_document(rng, settings)


def body_tokens(length: int, density: Density) -> float:
    """Tokens that the text itself aims at where the memory is to have ``length``.

    Short of it by what a guess may be wrong, so that the window in which it ends closes there.
    """
    return length - min(0.1 * length, 0.04 * length + 16) - density.around


def filler_words(length: int, density: Density) -> int:
    """Words of filler for a memory of ``length`` tokens, at least one."""
    return max(1, round(body_tokens(length, density) / density.filler))


def mixed_words(length: int, density: Density) -> int:
    """Words of a document of every kind for a memory of ``length`` tokens, at least one."""
    return max(1, round(body_tokens(length, density) / density.mixed))


def code_words(length: int, questions: int, density: Density) -> int:
    """Words of a text of ``codes`` for a memory of ``length`` tokens, at least one."""
    tokens = body_tokens(length, density)
    told = questions * CODE_WORDS / (1 - DISTRACTORS)
    if tokens <= told * density.codes:
        return max(1, round(tokens / density.codes))
    return round(told + (tokens - told * density.codes) / density.filler)
