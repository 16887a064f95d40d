"""One document's world while it grows: who and what is in it, and what is said of them."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from memoserve_training.worlds.filler import words_in
from memoserve_training.worlds.names import NameBag, NoRoom
from memoserve_training.worlds.relations import NAMED_ORDER, Relation, Sort, Wordings
from memoserve_training.worlds.values import WorldSettings

NOUNS = (
    *("lamp", "chest", "clock", "ring", "sword", "bell", "mirror", "map", "book", "crown"),
    *("cup", "drum", "key", "coat", "table", "wheel", "boat", "flute", "stone", "chain"),
)
T = TypeVar("T")

REUSE = 0.35  # how often a fact is about somebody or something the document already knows


@dataclass(frozen=True)
class Entity:
    """Something with a name; ``shown`` is how sentences name it (``the Kuzmora lamp``)."""

    sort: Sort
    name: str
    shown: str


@dataclass(frozen=True, eq=False)
class Fact:
    """A sentence of the document and what it says. ``target`` is the value, where it is named."""

    relation: Relation
    subject: Entity
    value: str
    target: Entity | None
    text: str
    spoken: bool  # a line of a dialogue


class World:
    """Facts about entities; whatever is drawn comes from ``rng`` alone."""

    def __init__(self, rng: random.Random, settings: WorldSettings) -> None:
        self.rng = rng
        self.settings = settings
        self.facts: list[Fact] = []
        self.words = 0  # of all facts
        self.later: list[tuple[Fact, Fact]] = []  # a state and the one that took its place
        self._names = NameBag(rng, settings.split, settings.names, settings.short_names)
        self._entities: dict[Sort, list[Entity]] = defaultdict(list)
        self._busy: set[tuple[str, str]] = set()  # (name, theme)
        self._holders: dict[tuple[str, str], list[Fact]] = defaultdict(list)  # (theme, value)
        self._closed: dict[str, list[str]] = defaultdict(list)  # theme -> values

    def fresh(self, sort: Sort, near: Entity | None = None) -> Entity:
        """Add an entity nobody has spoken of, its name like that of ``near``."""
        name = self._names.draw() if near is None else self._names.draw_near(near.name)
        plain = sort is not Sort.THING or self.settings.short_names
        shown = name if plain else f"the {name} {self.pick(NOUNS)}"
        entity = Entity(sort, name, shown)
        self._entities[sort].append(entity)
        return entity

    def subject(self, relation: Relation) -> Entity:
        """Find somebody or something for a fact of ``relation``, known already or new."""
        sort = self.pick(relation.subjects)
        known = self._entities[sort]
        if known and self.rng.random() < REUSE:
            entity = self.pick(known)
            if (entity.name, relation.theme) not in self._busy:
                return entity
        return self.fresh(sort)

    def state(
        self, relation: Relation, subject: Entity, near: Entity | None = None, other: str = ""
    ) -> Fact:
        """Say a new fact of ``subject``, its value named like ``near`` and not ``other``."""
        if relation.value in NAMED_ORDER:
            return self.say(relation, subject, self.fresh(relation.value, near))
        return self.say(relation, subject, self._word(relation, other))

    def gather(self, relation: Relation, least: int, most: int) -> tuple[Fact, ...]:
        """Let ``least`` to ``most`` subjects share a value, and nobody else have it any more."""
        size = self.rng.randint(least, most)
        value: Entity | str
        if relation.value in NAMED_ORDER:
            value = self.fresh(relation.value)
            facts: list[Fact] = []
        else:
            value = self.pick(self._open_words(relation, most))
            facts = list(self._holders[relation.theme, value])
            self._closed[relation.theme].append(value)
        while len(facts) < size:
            facts.append(self.say(relation, self.subject(relation), value))
        return tuple(facts)

    def _open_words(self, relation: Relation, most: int) -> list[str]:
        """Return the values that at most ``most`` subjects have, all by ``relation`` itself.

        Half of the words stay open, for facts that nobody gathers.
        """
        closed = self._closed[relation.theme]
        found = []
        for word in relation.words if 2 * len(closed) < len(relation.words) else ():
            holders = self._holders[relation.theme, word]
            same = all(fact.relation is relation for fact in holders)
            if word not in closed and same and len(holders) <= most:
                found.append(word)
        if not found:
            raise NoRoom
        return found

    def say(self, relation: Relation, subject: Entity, value: Entity | str) -> Fact:
        """Put a fact into words and keep it."""
        target = value if isinstance(value, Entity) else None
        shown = value if isinstance(value, str) else value.shown
        if self.settings.terse:
            text = f"{subject.shown} {relation.terse} {shown}."
        else:
            text = self.phrase(relation.says, subject.shown, shown)
        self._busy.add((subject.name, relation.theme))
        if target is not None:
            self._busy.add((target.name, relation.theme))
        spoken = relation.talk is not None and not self.settings.terse
        fact = Fact(relation, subject, shown, target, text, spoken)
        self.facts.append(fact)
        self._holders[relation.theme, shown].append(fact)
        self.words += words_in(text)
        return fact

    def phrase(self, wordings: Wordings, subject: str = "", value: str = "") -> str:
        """Return one of the wordings, filled in, its first letter a capital."""
        return capital(self.fill(wordings, subject, value))

    def fill(self, wordings: Wordings, subject: str = "", value: str = "") -> str:
        """Return one of the wordings, filled in."""
        way = self.pick(wordings.of(self.settings.split, self.settings.wordings))
        return way.format(s=subject, v=value)

    def pick(self, among: Sequence[T]) -> T:
        """Draw one of these; quicker than ``random.choice``."""
        return among[int(self.rng.random() * len(among))]

    def _word(self, relation: Relation, other: str) -> str:
        word = self._any_word(relation)
        while word == other or word in self._closed[relation.theme]:
            word = self._any_word(relation)
        return word

    def _any_word(self, relation: Relation) -> str:
        if relation.value is Sort.CODE:
            digits = self.settings.code_digits
            return f"{int(self.rng.random() * 10**digits):0{digits}d}"
        if relation.value is Sort.YEAR:
            return str(1100 + int(self.rng.random() * 800))
        return self.pick(relation.words)


def capital(text: str) -> str:
    """Return the text with its first letter a capital."""
    return text[0].upper() + text[1:]


def listed(names: Sequence[str]) -> str:
    """Return ``A, B and C``."""
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))
