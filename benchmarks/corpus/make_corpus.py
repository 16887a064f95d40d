"""Writes the sample corpus: a book of small-town prose with planted facts, and the facts as JSON.

    python benchmarks/corpus/make_corpus.py --seed 7 --words 30000 --out DIR

gives DIR/sample.txt and DIR/sample_facts.json, byte for byte the same on every machine. All
wording comes from grammar.json beside this script. Each planted fact stands in one sentence;
further facts of the same kinds about other people, ships and towns stand around it, so a search
that only finds the right kind of sentence finds the wrong one.
"""

from __future__ import annotations

import argparse
import json
import random
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

GRAMMAR = Path(__file__).with_name("grammar.json")
FACTS_ASKED = 40
PARAGRAPHS_PER_CHAPTER = 11
SUBJECTS_PER_KIND = 9
BEATS = ("place", "action", "talk", "thought")

T = TypeVar("T")


@dataclass(frozen=True)
class Fact:
    """A statement to plant; the sentence holds the answer word for word."""

    kind: str
    question: str
    answer: str
    sentence: str


@dataclass(frozen=True)
class PlantedFact(Fact):
    """A fact and where its sentence stands in the text, half open."""

    id: str
    start_char: int
    end_char: int
    start_byte: int
    end_byte: int


class Dice:
    """Draws that depend on the seed alone; ``random()`` is the one method Python keeps stable."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def below(self, limit: int) -> int:
        """An integer in [0, limit)."""
        return int(self._random.random() * limit)

    def pick(self, items: Sequence[T]) -> T:
        """One of the items."""
        return items[self.below(len(items))]

    def shuffled(self, items: Sequence[T]) -> list[T]:
        """The items in another order."""
        rest = list(items)
        return [rest.pop(self.below(len(rest))) for _ in range(len(rest))]


class Writer:
    """Fills the grammar's templates; a template comes back only after all its siblings."""

    def __init__(self, grammar: dict[str, Any], dice: Dice) -> None:
        self._grammar = grammar
        self._dice = dice
        self._decks: dict[str, list[str]] = {}

    def sentence(self, beat: str, bound: dict[str, str]) -> str:
        """One sentence of a kind, with the names of the scene filled in."""
        return fill(self._draw(beat, self._grammar["beats"][beat]), self, bound)

    def slot(self, name: str) -> str:
        """A phrase for ``{name}``."""
        return self._draw(name, self._grammar["slots"][name])

    def paragraph(self, bound: dict[str, str]) -> list[str]:
        """A scene: an opening, some beats in any order, a closing."""
        beats = [self._dice.pick(BEATS) for _ in range(5 + self._dice.below(4))]
        return [self.sentence(beat, bound) for beat in ("opening", *beats, "closing")]

    def _draw(self, name: str, items: Sequence[str]) -> str:
        deck = self._decks.setdefault(name, [])
        if not deck:
            deck.extend(self._dice.shuffled(items))
        return deck.pop()


def fill(template: str, writer: Writer | None, bound: dict[str, str]) -> str:
    """Replace every ``{name}`` or ``{name|cap}`` in one pass."""

    def value(match: re.Match[str]) -> str:
        name = match[1]
        text = bound[name] if name in bound or writer is None else writer.slot(name)
        return text[0].upper() + text[1:] if match[2] else text

    filled = re.sub(r"\{(\w+)(\|cap)?\}", value, template)
    return filled[0].upper() + filled[1:]


def write_chapters(grammar: dict[str, Any], dice: Dice, words: int) -> list[list[list[str]]]:
    """Chapters of paragraphs of sentences, without facts, until ``words`` is reached."""
    writer = Writer(grammar, dice)
    chapters: list[list[list[str]]] = []
    written = 0
    while written < words:
        hero, friend = dice.shuffled(grammar["first_names"])[:2]
        town, other_town = dice.shuffled(grammar["towns"])[:2]
        bound = {"hero": hero, "friend": friend, "town": town, "other_town": other_town}
        chapter = [writer.paragraph(bound) for _ in range(PARAGRAPHS_PER_CHAPTER)]
        chapters.append(chapter)
        written += sum(len(line.split()) for paragraph in chapter for line in paragraph)
    return chapters


def make_facts(grammar: dict[str, Any], dice: Dice) -> list[Fact]:
    """Facts of every kind about distinct subjects, the values of a kind all different."""
    facts: list[Fact] = []
    for spec in grammar["facts"]:
        subjects = dice.shuffled(all_subjects(grammar, dice, spec["subject"]))[:SUBJECTS_PER_KIND]
        values = distinct_values(grammar, dice, spec["value"], len(subjects))
        objects = dice.shuffled(grammar["values"].get(spec.get("object"), [""] * len(subjects)))
        for subject, value, thing in zip(subjects, values, objects, strict=False):
            bound = {"subject": subject, "value": value, "object": thing}
            facts.append(
                Fact(
                    kind=spec["kind"],
                    question=fill(dice.pick(spec["questions"]), None, bound),
                    answer=value,
                    sentence=fill(dice.pick(spec["statements"]), None, bound),
                )
            )
    return facts


def all_subjects(grammar: dict[str, Any], dice: Dice, kind: str) -> list[str]:
    """What facts of this kind can be about."""
    if kind == "person":
        firsts, lasts = dice.shuffled(grammar["first_names"]), dice.shuffled(grammar["surnames"])
        return [f"{first} {last}" for first, last in zip(firsts, lasts, strict=True)]
    if kind == "building":
        return [
            f"{building} of {town}"
            for building in grammar["buildings"]
            for town in dice.shuffled(grammar["towns"])[:2]
        ]
    return list(grammar[f"{kind}s"])


def distinct_values(grammar: dict[str, Any], dice: Dice, kind: str, count: int) -> list[str]:
    """``count`` different answers."""
    if kind in grammar["values"]:
        return dice.shuffled(grammar["values"][kind])[:count]
    if kind in ("town", "person"):
        return dice.shuffled(all_subjects(grammar, dice, kind))[:count]
    values: list[str] = []
    while len(values) < count:
        value = made_up_value(grammar, dice, kind)
        if value not in values:
            values.append(value)
    return values


def made_up_value(grammar: dict[str, Any], dice: Dice, kind: str) -> str:
    """A code, number or date."""
    if kind == "code":
        letters = "ABCDEFGHJKLMNPQRSTUVWXYZ"
        return f"{dice.pick(letters)}{dice.pick(letters)}-{1000 + dice.below(9000)}"
    if kind == "digits":
        return "-".join(str(10 + dice.below(90)) for _ in range(3))
    if kind == "date":
        month = dice.pick(grammar["values"]["month"])
        return f"{1 + dice.below(28)} {month} {1790 + dice.below(90)}"
    if kind == "pounds":
        return f"{1 + dice.below(8)},{dice.below(1000):03d}"
    if kind == "crowns":
        return str(20 + dice.below(900))
    raise ValueError(f"grammar.json names an unknown kind of value, {kind}")


def plant(chapters: list[list[list[str]]], facts: Sequence[Fact], dice: Dice) -> None:
    """Put each fact's sentence inside a paragraph, spread over the whole book."""
    paragraphs = [paragraph for chapter in chapters for paragraph in chapter]
    places: list[list[str]] = []
    while len(places) < len(facts):
        places += dice.shuffled(paragraphs)
    for fact, paragraph in zip(facts, places, strict=False):
        paragraph.insert(1 + dice.below(len(paragraph) - 1), fact.sentence)


def render(grammar: dict[str, Any], chapters: list[list[list[str]]], dice: Dice) -> str:
    """The book as text: a title, numbered headings, paragraphs with a blank line between."""
    titles = dice.shuffled(grammar["titles"])
    blocks = ["THE LEDGER OF THE SALT COAST"]
    for number, chapter in enumerate(chapters, start=1):
        blocks.append(f"Chapter {number}. {titles[(number - 1) % len(titles)]}")
        blocks += [" ".join(paragraph) for paragraph in chapter]
    return "\n\n".join(blocks) + "\n"


def locate(text: str, facts: Sequence[Fact]) -> list[PlantedFact]:
    """Where each fact's sentence stands, in the order of the text; it must stand there once."""
    planted: list[PlantedFact] = []
    for fact in sorted(facts, key=lambda fact: text.find(fact.sentence)):
        if text.count(fact.sentence) != 1:
            raise ValueError(f"not exactly once in the text: {fact.sentence}")
        start = text.index(fact.sentence)
        start_byte = len(text[:start].encode())
        planted.append(
            PlantedFact(
                **asdict(fact),
                id=f"fact-{len(planted) + 1:02d}",
                start_char=start,
                end_char=start + len(fact.sentence),
                start_byte=start_byte,
                end_byte=start_byte + len(fact.sentence.encode()),
            )
        )
    return planted


def make(seed: int, words: int) -> tuple[str, list[PlantedFact]]:
    """The text and the facts that are asked for, in the order of the text."""
    grammar = json.loads(GRAMMAR.read_text(encoding="utf-8"))
    dice = Dice(seed)
    chapters = write_chapters(grammar, dice, words)
    facts = dice.shuffled(make_facts(grammar, dice))
    plant(chapters, facts, dice)
    text = render(grammar, chapters, dice)
    return text, locate(text, facts[:FACTS_ASKED])


def main() -> None:
    """Parse the arguments and write both files."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--words", type=int, default=30000, help="at least this many")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    text, facts = make(arguments.seed, arguments.words)
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "sample.txt").write_bytes(text.encode())
    rows = json.dumps([asdict(fact) for fact in facts], ensure_ascii=False, indent=2)
    (arguments.out / "sample_facts.json").write_bytes(f"{rows}\n".encode())
    print(f"{len(text.split())} words, {len(text.encode())} bytes, {len(facts)} facts")


if __name__ == "__main__":
    main()
