"""The recipe of the model in the box: shape, vocabulary, and what is learned in which order.

The order carries it (docs/training-log.md): match a name with no memory in the way, then through
one window with beacons in it, then through memory; only then sentences, digits, the chat, many
wordings, many relations, chains, and length.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from random import Random
from typing import Final

from memoserve_training.chat import Task
from memoserve_training.curriculum import Stage
from memoserve_training.examples import Lesson
from memoserve_training.shape import Shape
from memoserve_training.worlds import Kind, WorldSettings, make_document

SHAPE: Final = Shape()
VOCAB_SIZE: Final = 2048
VOCABULARY_DOCUMENTS: Final = 600

_ONE = {Kind.ONE_HOP: 1.0}
_TERSE = WorldSettings(
    kinds=_ONE,
    relations=("code",),
    terse=True,
    short_names=True,
    names=32,
    code_digits=1,
    filler=0.0,
    distractors=0.0,
    questions=32,
)
_ALL_NAMES = replace(_TERSE, names=None, short_names=False)
_SENTENCE = replace(_ALL_NAMES, terse=False, wordings=1)
_DIGITS = replace(_SENTENCE, code_digits=4)
_RELATIONS = replace(_DIGITS, relations=("code", "lives", "works", "keeps"))
_WORDED = replace(_RELATIONS, wordings=None, filler=0.1, distractors=0.1)
_ONE_HOP = replace(_WORDED, relations=None)
_CHAINS = replace(
    _ONE_HOP,
    kinds={kind: 2.0 if kind in (Kind.ONE_HOP, Kind.TWO_HOP) else 1.0 for kind in Kind},
    filler=0.2,
    distractors=0.2,
)

_QUOTE = {Task.ANSWER: 1.0, Task.SPAN: 1.0}
_EVERY_TASK = {Task.ANSWER: 1.0, Task.SPAN: 2.0, Task.SURROGATE: 1.0}

_LOW = {2: 1.0, 4: 1.0}
_MIDDLE = {2: 1.0, 4: 1.0, 8: 2.0}
_ALL = {0: 0.5, 2: 1.0, 4: 1.0, 8: 1.5, 16: 1.0}


STAGES: Final = (
    # Among few facts the right one is found by chance often enough to be learned from.
    Stage("a few names", Lesson(_TERSE, 30, 6), 64, {0: 1.0}, at_most=2_000_000),
    Stage("names without memory", Lesson(_TERSE, 128, 16), 64, {0: 1.0}, at_most=2_000_000),
    Stage("one window with beacons", Lesson(_TERSE, 128, 16), 256, _LOW, at_most=1_500_000),
    Stage("through memory", Lesson(_TERSE, 128, 16), 64, _LOW, at_most=3_000_000),
    Stage("all names", Lesson(_ALL_NAMES, 128, 16, tasks=_QUOTE), 64, _LOW, at_most=2_000_000),
    Stage("sentences", Lesson(_SENTENCE, 128, 16, tasks=_QUOTE), 64, _LOW, at_most=2_000_000),
    Stage("four digits", Lesson(_DIGITS, 128, 8, tasks=_QUOTE), 64, _LOW, 0.7, at_most=4_000_000),
    Stage("wider windows", Lesson(_DIGITS, 256, 16, tasks=_QUOTE), 128, _LOW, at_most=2_000_000),
    Stage(
        "four relations", Lesson(_RELATIONS, 256, 12, tasks=_QUOTE), 128, _LOW, at_most=3_000_000
    ),
    Stage("many wordings", Lesson(_WORDED, 256, 12, tasks=_QUOTE), 128, _MIDDLE, at_most=4_000_000),
    Stage(
        "every relation", Lesson(_ONE_HOP, 384, 12, tasks=_QUOTE), 128, _MIDDLE, at_most=4_000_000
    ),
    Stage(
        "chains",
        Lesson(_CHAINS, 384, 12, longest=128, tasks=_EVERY_TASK),
        128,
        _ALL,
        threshold=2.0,
        mixed=0.25,
        span=4096,
        lent=2,
        at_most=6_000_000,
    ),
    Stage(
        "long",
        Lesson(_CHAINS, 768, 16, longest=128, tasks=_EVERY_TASK),
        256,
        _ALL,
        threshold=2.0,
        mixed=0.25,
        span=16384,
        lent=4,
        batch_tokens=8192,
        decay=0.6,
        at_most=8_000_000,
    ),
)


def vocabulary_texts(seed: int) -> Iterator[str]:
    """Documents and questions of every kind, for the tokenizer to learn its words from."""
    rng = Random(seed)
    for _ in range(VOCABULARY_DOCUMENTS):
        document = make_document(rng, WorldSettings(words=300))
        yield document.text
        yield "quote: split: answer: list ok"
        for question in document.questions:
            yield "\n".join([question.text, f" {question.answer}", *question.surrogates])
