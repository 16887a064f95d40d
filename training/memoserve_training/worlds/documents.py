"""Documents drawn from a seed: a world, its questions, and the text that tells of it."""

from __future__ import annotations

import random

from memoserve_training.worlds.asking import Asked, make_question, possible, simple
from memoserve_training.worlds.filler import filler_for
from memoserve_training.worlds.layout import lay_out, lay_out_lines, mixed
from memoserve_training.worlds.names import NoRoom
from memoserve_training.worlds.page import Line, Page
from memoserve_training.worlds.points import key_points
from memoserve_training.worlds.tables import states
from memoserve_training.worlds.values import Document, Kind, Question, WorldSettings
from memoserve_training.worlds.world import Fact, World, listed


def make_document(rng: random.Random, settings: WorldSettings) -> Document:
    """Draw a document; the same state of ``rng`` and settings give the same one.

    Raises ValueError where the allowed relations can make none of the kinds asked for, or the
    allowed names are too few for a single question.
    """
    world = World(rng, settings)
    asked = _questions(world)
    _distractors(world, asked)
    points = key_points(world, asked)
    return _document(lay_out(world), asked, points)


def make_needle(
    rng: random.Random, settings: WorldSettings, depth: float, distractors: int = 3
) -> Document:
    """Draw filler with one fact at relative ``depth`` (0 first, 1 last), and one question about it.

    ``distractors`` facts of the same relation, their names like the asked one's, stand anywhere.
    The relation is ``code``, or drawn from ``settings.relations`` where these are given; of the
    settings, ``kinds``, ``questions``, ``filler`` and ``distractors`` say nothing here.
    """
    if not 0 <= depth <= 1:
        raise ValueError(f"depth is {depth}, must be in [0, 1]")
    world = World(rng, settings)
    relation = world.pick(states(settings.relations or ("code",)))
    needle = world.state(relation, world.subject(relation))
    others: list[Line] = [_like(world, needle) for _ in range(distractors)]
    lines = mixed(rng, others, filler_for(rng, settings.split, settings.words - world.words))
    lines.insert(round(depth * len(lines)), needle)
    question = simple(world, relation.talk or Kind.ONE_HOP, needle)
    return _document(lay_out_lines(rng, lines), [question], key_points(world, [question]))


def _questions(world: World) -> list[Asked]:
    """State what is asked about, as much as the words and the names allow."""
    settings = world.settings
    kinds = {kind: w for kind, w in settings.kinds.items() if possible(kind, settings.relations)}
    if not any(kinds.values()):
        raise ValueError(f"relations {settings.relations} can make none of the kinds asked for")
    words = settings.words * (1 - settings.filler) * (1 - settings.distractors)
    asked: list[Asked] = []
    while len(asked) < settings.questions and (world.words < words or not asked):
        kind = world.rng.choices(list(kinds), list(kinds.values()))[0]
        try:
            asked.append(make_question(world, kind))
        except NoRoom:
            del kinds[kind]
            if not any(kinds.values()):
                break
    if not asked:
        raise ValueError(f"names is {settings.names}: too few for a question")
    return asked


def _distractors(world: World, asked: list[Asked]) -> None:
    """Fill up with facts that resemble those asked about."""
    words = world.settings.words * (1 - world.settings.filler)
    try:
        while world.words < words:
            _like(world, world.pick(world.pick(asked).facts))
    except NoRoom:
        return


def _like(world: World, fact: Fact) -> Fact:
    """State a fact of the same relation about somebody of a like name."""
    subject = world.fresh(fact.subject.sort, near=fact.subject)
    return world.state(fact.relation, subject, near=fact.target)


def _document(page: Page, asked: list[Asked], points: tuple[str, ...]) -> Document:
    questions = tuple(_question(page, each) for each in asked)
    return Document(page.text, tuple(page.sentences), questions, points)


def _question(page: Page, asked: Asked) -> Question:
    """Put spans in the place of facts; an aggregation gathers in the order of the text."""
    steps = list(zip(asked.facts, asked.surrogates, strict=True))
    answer = asked.facts[-1].value
    relations = [fact.relation.name for fact in asked.facts]
    if asked.kind is Kind.AGGREGATION:
        steps.sort(key=lambda step: page.places[step[0]])
        answer = listed([fact.subject.shown for fact, _ in steps])
        relations = relations[:1]
    return Question(
        kind=asked.kind,
        text=asked.text,
        answer=answer,
        evidence=tuple(page.places[fact] for fact, _ in steps),
        surrogates=tuple(surrogate for _, surrogate in steps),
        relation="+".join(relations),
    )
