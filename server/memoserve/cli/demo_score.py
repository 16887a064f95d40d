"""What the first act of the demo asks, and whether what came back is right."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from memoserve_client import Clue, ClueKind, Passage, Quote


@dataclass(frozen=True)
class Gold:
    """A sentence that a question takes: characters ``start`` to ``end`` of the text, half open."""

    text: str
    start: int
    end: int


@dataclass(frozen=True)
class Question:
    """A question with its one answer; the last sentence of its evidence says that answer."""

    kind: str
    text: str
    answer: str
    evidence: tuple[Gold, ...]


@dataclass(frozen=True)
class Outcome:
    """What came back for a question.

    ``alone``: the passages that the question finds by itself; ``as_many``: those it finds where it
    may find as many as ``with_clues``, which question and clues find.
    """

    question: Question
    clues: tuple[Clue, ...]
    alone: tuple[Passage, ...]
    as_many: tuple[Passage, ...]
    with_clues: tuple[Passage, ...]

    @property
    def draft(self) -> str:
        """What the memory answers by itself."""
        return "\n".join(_texts(self.clues, ClueKind.DRAFT_ANSWER))

    @property
    def answer_right(self) -> bool:
        """Whether that is the answer, word for word."""
        return _plain(self.draft) == _plain(self.question.answer)

    @property
    def quoted(self) -> tuple[bool, ...]:
        """For each sentence of the evidence, whether the memory quotes it word for word."""
        said = {_plain(text) for text in _texts(self.clues, ClueKind.SPAN)}
        return tuple(_plain(gold.text) in said for gold in self.question.evidence)

    @property
    def quotes_right(self) -> bool:
        """Whether all of the evidence is quoted."""
        return all(self.quoted)

    @property
    def only_by_clues(self) -> bool:
        """Whether the clues found all evidence, and as many passages without them did not."""
        gold = self.question.evidence
        return all(found(gold, self.with_clues)) and not all(found(gold, self.as_many))


@dataclass(frozen=True)
class Score:
    """Questions of one kind, and of how many what is right; evidence counts where all is found."""

    kind: str
    asked: int
    answers: int
    quotes: int
    alone: int
    as_many: int
    with_clues: int


def read_questions(path: Path) -> tuple[Question, ...]:
    """Questions in the form that benchmarks/corpus/make_world.py writes. Raises OSError."""
    return tuple(
        Question(
            row["kind"],
            row["question"],
            row["answer"],
            tuple(
                Gold(each["text"], each["start_char"], each["end_char"]) for each in row["evidence"]
            ),
        )
        for row in json.loads(path.read_text(encoding="utf-8"))
    )


def found(gold: Sequence[Gold], passages: Sequence[Passage | Quote]) -> tuple[bool, ...]:
    """For each sentence, whether one passage, or one quote of an answer, holds all of it."""
    return tuple(
        any(each.start_char <= one.start and one.end <= each.end_char for each in passages)
        for one in gold
    )


def says(gold: Gold, quotes: Sequence[Quote]) -> bool:
    """Whether an answer quotes the sentence."""
    return all(found((gold,), quotes))


def score(kind: str, outcomes: Sequence[Outcome]) -> Score:
    """Count what is right of a kind."""
    of_kind = [each for each in outcomes if each.question.kind == kind]

    def finding(passages: Iterable[tuple[Passage, ...]]) -> int:
        pairs = zip(of_kind, passages, strict=True)
        return sum(all(found(each.question.evidence, places)) for each, places in pairs)

    return Score(
        kind=kind,
        asked=len(of_kind),
        answers=sum(each.answer_right for each in of_kind),
        quotes=sum(each.quotes_right for each in of_kind),
        alone=finding(each.alone for each in of_kind),
        as_many=finding(each.as_many for each in of_kind),
        with_clues=finding(each.with_clues for each in of_kind),
    )


def to_show(kind: str, outcomes: Sequence[Outcome]) -> tuple[Outcome, str]:
    """The question of a kind to show in full, and why it is this one.

    Of those answered right the first whose evidence only the clues found, else the first; where
    none is right, the first of all.
    """
    of_kind = [each for each in outcomes if each.question.kind == kind]
    right = [each for each in of_kind if each.answer_right]
    helped = [each for each in right if each.only_by_clues]
    if helped:
        return helped[0], "the first answered right whose sentences only the clues find"
    if right:
        return right[0], "the first that the memory answers right"
    return of_kind[0], "the first; the memory answers NONE of them right"


def _texts(clues: Iterable[Clue], kind: ClueKind) -> list[str]:
    return [clue.text for clue in clues if clue.kind is kind and clue.text]


def _plain(line: str) -> str:
    """A line without what does not count: case, spaces around and between words, a full stop."""
    return " ".join(line.casefold().split()).rstrip(".").rstrip()
