"""Key points: what comes back in a document, one sentence for each entity or theme."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

from memoserve_training.worlds.asking import Asked
from memoserve_training.worlds.values import Kind
from memoserve_training.worlds.world import Entity, Fact, World, capital, listed

MOST = 6  # key points of a document
JOINED = 3  # facts in one key point


def key_points(world: World, asked: Sequence[Asked]) -> tuple[str, ...]:
    """Return what several sentences share first, then single facts asked about.

    First the values that several subjects have, then the entities that several facts are about,
    the most frequent before the others.
    """
    past = {first for first, _ in world.later}
    found = list(_themes(world, asked))
    about: dict[Entity, list[Fact]] = defaultdict(list)
    for fact in world.facts:
        if fact not in past:
            about[fact.subject].append(fact)
    recurring = [entity for entity in about if len(about[entity]) > 1]
    recurring.sort(key=lambda entity: -len(about[entity]))
    found += (_point(world, about[entity]) for entity in recurring)
    said = set(recurring)
    for fact in (each.facts[-1] for each in asked if each.kind is not Kind.AGGREGATION):
        if fact not in past and fact.subject not in said:
            said.add(fact.subject)
            found.append(_point(world, [fact]))
    return tuple(found[:MOST])


def _themes(world: World, asked: Sequence[Asked]) -> Iterator[str]:
    for each in asked:
        if each.kind is Kind.AGGREGATION:
            relation = each.facts[0].relation
            names = listed([fact.subject.shown for fact in each.facts])
            assert relation.gathered is not None, "what is asked for together is said together"
            yield capital(f"{names} {world.fill(relation.gathered, value=each.facts[0].value)}.")


def _point(world: World, facts: Sequence[Fact]) -> str:
    parts = [world.fill(fact.relation.point, value=fact.value) for fact in facts[:JOINED]]
    return capital(f"{facts[0].subject.shown} {listed(parts)}.")
