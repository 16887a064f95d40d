"""When an answer is right, a sentence quoted, a piece of evidence found."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from memoserve_training.worlds import Span

_NUMBER = re.compile(r"\d+")


@dataclass(frozen=True)
class Place:
    """Characters ``start`` to ``end`` of the text with the questions, ``end`` not included."""

    start: int
    end: int


def says_code(answer: str, code: str) -> bool:
    """Whether the one number in an answer is the code, digit by digit."""
    return _NUMBER.findall(answer) == [code]


def plain(line: str) -> str:
    """A line without what does not count: case, spaces around and between words, a full stop."""
    return " ".join(line.casefold().split()).rstrip(".").rstrip()


def same(answer: str, gold: str) -> bool:
    """Whether an answer is the gold one, word for word."""
    return plain(answer) == plain(gold)


def quoted(gold: Sequence[str], clues: Iterable[str]) -> list[bool]:
    """For each gold sentence, whether a clue is that sentence, word for word."""
    said = {plain(clue) for clue in clues}
    return [plain(sentence) in said for sentence in gold]


def found(gold: Sequence[Span], passages: Sequence[Place]) -> list[bool]:
    """For each gold sentence, whether one passage holds all of it."""
    return [
        any(place.start <= span.start and span.end <= place.end for place in passages)
        for span in gold
    ]
