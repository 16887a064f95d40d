"""What the generator is asked for, and what it gives: settings, documents, questions, spans."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field


class Split(enum.Enum):
    """Two worlds that share no name, no wording and no filler sentence."""

    TRAIN = "train"
    HELD_OUT = "held_out"


class Kind(enum.Enum):
    """What a question takes to be answered."""

    ONE_HOP = "one_hop"  # one sentence says it
    TWO_HOP = "two_hop"  # the first sentence names what the second is about
    THREE_HOP = "three_hop"
    AGGREGATION = "aggregation"  # two to four sentences, a name from each
    UPDATE = "update"  # the state of things now, or before it changed
    PREFERENCE = "preference"  # what somebody likes, said in a dialogue
    CONVERSATION = "conversation"  # what somebody plans, said in a dialogue


@dataclass(frozen=True, order=True)
class Span:
    """One sentence: characters ``start`` to ``end`` of a document's text, ``end`` not included."""

    start: int
    end: int


@dataclass(frozen=True)
class Question:
    """A question with its one answer and the sentences that lead to it.

    ``evidence`` stands in the order in which one reasons, the first hop first. ``surrogates`` are
    one-hop questions, one for each evidence sentence, that name what a longer question leaves
    unnamed. ``relation`` names the relation (of a change, its side asked after); of a chain all of
    them, joined by ``+`` in hop order.
    """

    kind: Kind
    text: str
    answer: str
    evidence: tuple[Span, ...]
    surrogates: tuple[str, ...]
    relation: str


@dataclass(frozen=True)
class Document:
    """A text, its sentences in order, its questions, and one sentence for each recurring theme."""

    text: str
    sentences: tuple[Span, ...]
    questions: tuple[Question, ...]
    key_points: tuple[str, ...]

    def quotes(self, question: Question) -> tuple[str, ...]:
        """Return the evidence sentences of a question, word for word, in its order."""
        return tuple(self.text[span.start : span.end] for span in question.evidence)


def _every_kind() -> dict[Kind, float]:
    return dict.fromkeys(Kind, 1.0)


@dataclass(frozen=True)
class WorldSettings:
    """What a document is like; a value out of range is a ValueError that names it.

    ``words``: length aimed at; the text passes it by the sentences of one question at most. Where
    the names run out before, filler takes the place of facts, if there is to be filler. ``kinds``:
    weights; kinds that ``relations`` cannot make do not occur. ``questions``: at most so many.
    ``names``: only the first N names of the split, their first syllables different as long as there
    are others. ``wordings``: only the first N ways to say and to ask each thing. ``relations``:
    names of those allowed. ``filler``: share of the words that belong to sentences about nothing
    asked. ``distractors``: share of the other words that belong to facts like those asked about,
    with names like theirs. ``terse``: facts read ``NAME is 4.`` and questions ``NAME?``, for the
    first lessons. ``short_names``: names of one block, 80 at most, for the very first; both splits
    have the same blocks, so only training has these. ``shuffled``: sentences in random order (what
    was so before a change still precedes it). ``facts_first``: all facts before all filler.
    """

    split: Split = Split.TRAIN
    words: int = 200
    kinds: Mapping[Kind, float] = field(default_factory=_every_kind)
    questions: int = 8
    names: int | None = None
    code_digits: int = 4
    wordings: int | None = None
    relations: tuple[str, ...] | None = None
    filler: float = 0.2
    distractors: float = 0.25
    terse: bool = False
    short_names: bool = False
    shuffled: bool = True
    facts_first: bool = False

    def __post_init__(self) -> None:
        for name in ("words", "questions", "names", "code_digits", "wordings"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value}, must be at least 1")
        for name in ("filler", "distractors"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, must be in [0, 1)")
        if any(weight < 0 for weight in self.kinds.values()) or not any(self.kinds.values()):
            raise ValueError("kinds needs weights of at least 0, one of them above it")
        if self.short_names and self.split is not Split.TRAIN:
            raise ValueError("short_names is for training: both splits have the same blocks")
