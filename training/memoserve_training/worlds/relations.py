"""The kinds of facts a world is made of, and the ways to say and ask them as data."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from memoserve_training.worlds.values import Kind, Split


class Sort(enum.Enum):
    """What a fact can be about, or have as its value."""

    PERSON = "person"
    PLACE = "place"
    THING = "thing"
    CODE = "code"
    YEAR = "year"
    WORD = "word"  # one of the relation's own words


NAMED_ORDER = (Sort.PERSON, Sort.PLACE, Sort.THING)  # those that bear a name


@dataclass(frozen=True)
class Wordings:
    """Ways to put one thing into words: ``{s}`` is the subject, ``{v}`` the value."""

    train: tuple[str, ...]
    held_out: tuple[str, ...]

    def of(self, split: Split, first: int | None = None) -> tuple[str, ...]:
        """Return the ways of ``split``, or only the ``first`` of them."""
        ways = self.train if split is Split.TRAIN else self.held_out
        return ways if first is None else ways[:first]


@dataclass(frozen=True, eq=False)
class Relation:
    """A relation that gives each subject one value in a document.

    ``says`` are sentences, ``asks`` questions after the value. ``phrase`` names the value by its
    subject (``the town where {s} lives``): what a question of two hops puts in the place of a name;
    only relations whose value has a name have it. ``point`` is the predicate for key points.
    ``terse`` is the verb of the shortest form. ``words`` are the values of a ``Sort.WORD``.
    ``gather`` asks for all subjects of a value, and ``gathered`` says it of them (``live in {v}``).
    ``theme``: an entity stands in only one relation of a theme, whatever its side, so that no
    sentence of one answers a question of another.
    ``talk`` is the kind of question a relation is for whose sentences are lines of a dialogue.
    """

    name: str
    theme: str
    subjects: tuple[Sort, ...]
    value: Sort
    terse: str
    says: Wordings
    asks: Wordings
    point: Wordings
    phrase: Wordings | None = None
    words: tuple[str, ...] = ()
    gather: Wordings | None = None
    gathered: Wordings | None = None
    talk: Kind | None = None


@dataclass(frozen=True)
class Change:
    """A state of things and the one that took its place; two relations of one theme."""

    name: str
    first: Relation
    then: Relation
