"""The recipe of the model in the box: shape, vocabulary, and what is learned in which order.

The order carries it (docs/training-log.md): facts with no memory in the way, then through a window
with beacons in it, then through memory, shortest words first; only then sentences, greater ratios,
other wordings, chains, and the windows that are served.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
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

_FOUR: Final = ("code", "lives", "works", "keeps")
_FACTS = WorldSettings(
    kinds={Kind.ONE_HOP: 1.0},
    relations=_FOUR,
    wordings=1,
    filler=0.0,
    distractors=0.0,
    questions=32,
)
# Of every relation: what beacons bring is learned for every sort of word.
_TERSE = replace(_FACTS, relations=None, terse=True, code_digits=1)
_SAID = replace(_FACTS, relations=None)
_CODES = replace(_FACTS, relations=("code", "lives"))
_TWO_WORDINGS = replace(_SAID, wordings=2)
_RELATIONS = replace(_SAID, wordings=None, filler=0.1, distractors=0.2)
_NEEDLES = replace(_RELATIONS, relations=("code",), filler=0.6)

_QUOTE: Final = {Task.SPAN: 1.0}
_BOTH: Final = {Task.ANSWER: 1.0, Task.SPAN: 1.0}

_LOW: Final = {2: 1.0, 4: 1.0}
_LOW_OR_NONE: Final = {0: 0.5, 2: 1.0, 4: 1.0}
_MIDDLE: Final = {2: 1.0, 4: 1.0, 8: 1.5}
_ALL: Final = {0: 0.5, 2: 1.0, 4: 1.0, 8: 1.5, 16: 1.0}


def _chains(world: WorldSettings) -> WorldSettings:
    return replace(world, kinds={Kind.TWO_HOP: 1.0})


def _long(world: WorldSettings, tasks: Mapping[Task, float]) -> Lesson:
    return Lesson(world, 768, 12, longest=128, tasks=tasks)


STAGES: Final = (
    Stage(
        "facts",
        (Lesson(_FACTS, 128, 8, tasks=_BOTH),),
        64,
        {0: 1.0},
        0.7,
        at_most=2_000_000,
        stop_if_missed=True,
    ),
    Stage(
        "one window with beacons",
        (Lesson(_FACTS, 128, 8, tasks=_BOTH),),
        256,
        _LOW,
        0.7,
        at_most=1_000_000,
    ),
    Stage(
        "through memory",
        (Lesson(_TERSE, 128, 12, tasks=_BOTH),),
        64,
        _LOW_OR_NONE,
        0.65,
        at_most=4_000_000,
    ),
    Stage(
        "sentences",
        (Lesson(_FACTS, 128, 8, tasks=_BOTH), Lesson(_SAID, 128, 8, tasks=_BOTH)),
        64,
        _LOW_OR_NONE,
        0.6,
        at_most=4_000_000,
    ),
    Stage(
        "ratio 8, wider windows",
        (Lesson(_CODES, 256, 16, tasks=_BOTH), Lesson(_SAID, 256, 16, tasks=_BOTH)),
        128,
        _MIDDLE,
        0.6,
        at_most=2_000_000,
        rate=0.8,
    ),
    Stage(
        "wordings",
        (
            Lesson(_TWO_WORDINGS, 256, 12, tasks=_BOTH),
            Lesson(_RELATIONS, 256, 12, tasks=_BOTH),
            Lesson(_NEEDLES, 256, 12, tasks=_BOTH),
            Lesson(_chains(_TWO_WORDINGS), 256, 8, longest=128, tasks=_QUOTE),
        ),
        128,
        _ALL,
        0.8,
        at_most=6_000_000,
        rate=0.8,
    ),
    Stage(
        "windows as served",
        (
            Lesson(_TWO_WORDINGS, 512, 12, tasks=_BOTH),
            Lesson(_RELATIONS, 512, 12, tasks=_BOTH),
            Lesson(_NEEDLES, 512, 12, tasks=_BOTH),
            Lesson(_NEEDLES, 768, 12, tasks=_BOTH),
            Lesson(_chains(_TWO_WORDINGS), 512, 8, longest=128, tasks=_QUOTE),
        ),
        256,
        _ALL,
        2.0,
        batch_tokens=6144,
        rate=0.8,
        decay=0.6,
        at_most=4_000_000,
    ),
)

# What a finished run is measured by, in the held-out world.
MEASURED: Final = {
    "needles": _long(_NEEDLES, _BOTH),
    "every relation": _long(_RELATIONS, _BOTH),
    "two hops": _long(_chains(_RELATIONS), _QUOTE),
}


def vocabulary_texts(seed: int) -> Iterator[str]:
    """Documents and questions of every kind, for the tokenizer to learn its words from."""
    rng = Random(seed)
    for _ in range(VOCABULARY_DOCUMENTS):
        document = make_document(rng, WorldSettings(words=300))
        yield document.text
        yield "quote: split: answer: list ok"
        for question in document.questions:
            yield "\n".join([question.text, f" {question.answer}", *question.surrogates])
