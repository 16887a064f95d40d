"""A reader that knows the wordings and nothing of how a document came about.

It turns sentences back into facts and questions back into what they ask, so that a test can answer
a question from the text alone and see whether another answer would do as well.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache

from memoserve_training.worlds.names import FIRST, SECOND
from memoserve_training.worlds.relations import Relation, Sort
from memoserve_training.worlds.tables import RELATIONS
from memoserve_training.worlds.values import Document, Span, Split
from memoserve_training.worlds.world import NOUNS, capital, listed

NAME = rf"(?:{'|'.join(FIRST)})(?:{'|'.join(SECOND)})\b"
_SORTS = {
    Sort.PERSON: NAME,
    Sort.PLACE: NAME,
    Sort.THING: rf"[Tt]he {NAME} (?:{'|'.join(NOUNS)})",
    Sort.CODE: r"\d+",
    Sort.YEAR: r"\d{4}",
}


@dataclass(frozen=True)
class Read:
    """One reading of a sentence."""

    relation: Relation
    subject: str
    value: str
    span: Span


@dataclass(frozen=True)
class Asking:
    """One reading of a question: relations to follow from ``start``, or back from it."""

    start: str
    relations: tuple[Relation, ...]
    gathers: bool = False


def read(document: Document, split: Split) -> list[Read]:
    """Return every reading of every sentence."""
    return [
        Read(relation, _same(found["s"]), _same(found["v"]), span)
        for span in document.sentences
        for relation, pattern in _says(split)
        if (found := pattern.fullmatch(document.text, span.start, span.end))
    ]


def understand(question: str, split: Split) -> list[Asking]:
    """Return every reading of a question."""
    found = []
    for relation, pattern in _asks(split):
        if match := pattern.fullmatch(question):
            found += [Asking(s, (*way, relation)) for s, way in _named(match["s"], split)]
    for relation, pattern in _gathers(split):
        if match := pattern.fullmatch(question):
            found.append(Asking(_same(match["v"]), (relation,), gathers=True))
    return found


def answers(asking: Asking, facts: list[Read]) -> list[tuple[str, tuple[Span, ...]]]:
    """Return every answer the facts give, each with the sentences that lead to it."""
    if asking.gathers:
        held = [f for f in facts if (f.relation, f.value) == (asking.relations[0], asking.start)]
        return [(listed([fact.subject for fact in held]), tuple(fact.span for fact in held))]
    found: list[tuple[str, tuple[Span, ...]]] = [(asking.start, ())]
    for relation in asking.relations:
        found = [
            (fact.value, (*spans, fact.span))
            for name, spans in found
            for fact in facts
            if fact.relation is relation and fact.subject == name
        ]
    return found


def _named(text: str, split: Split) -> list[tuple[str, tuple[Relation, ...]]]:
    """Return the names from which this text leads to something, and by which relations."""
    if re.fullmatch(rf"{_SORTS[Sort.THING]}|{NAME}", text):
        return [(_same(text), ())]
    return [
        (start, (*way, relation))
        for relation, pattern in _phrases(split)
        if (match := pattern.fullmatch(text))
        for start, way in _named(match["s"], split)
    ]


def _same(text: str) -> str:
    return text[0].lower() + text[1:] if text.startswith("The ") else text


def _pattern(way: str, subject: str, value: str) -> re.Pattern[str]:
    text = re.escape(capital(way) if way[0] != "{" else way)
    text = text.replace(r"\{s\}", f"(?P<s>{subject})").replace(r"\{v\}", f"(?P<v>{value})")
    return re.compile(text)


def _value(relation: Relation) -> str:
    return _SORTS.get(relation.value) or "|".join(relation.words)


@cache
def _says(split: Split) -> list[tuple[Relation, re.Pattern[str]]]:
    return [
        (relation, _pattern(way, "|".join(_SORTS[sort] for sort in relation.subjects), value))
        for relation in RELATIONS.values()
        for value in [_value(relation)]
        for way in relation.says.of(split)
    ]


@cache
def _asks(split: Split) -> list[tuple[Relation, re.Pattern[str]]]:
    return [(r, _pattern(way, ".+", "")) for r in RELATIONS.values() for way in r.asks.of(split)]


@cache
def _gathers(split: Split) -> list[tuple[Relation, re.Pattern[str]]]:
    return [
        (r, _pattern(way, "", _value(r)))
        for r in RELATIONS.values()
        if r.gather is not None
        for way in r.gather.of(split)
    ]


@cache
def _phrases(split: Split) -> list[tuple[Relation, re.Pattern[str]]]:
    return [
        (r, re.compile(re.escape(way).replace(r"\{s\}", "(?P<s>.+)")))
        for r in RELATIONS.values()
        if r.phrase is not None
        for way in r.phrase.of(split)
    ]
