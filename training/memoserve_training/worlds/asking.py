"""Questions: each states the facts it needs in a world, then asks for what they lead to."""

from __future__ import annotations

from dataclasses import dataclass

from memoserve_training.worlds.relations import Relation
from memoserve_training.worlds.tables import Names, chains, changes, gatherable, talks
from memoserve_training.worlds.values import Kind
from memoserve_training.worlds.world import Fact, World

HOPS = {Kind.ONE_HOP: 1, Kind.TWO_HOP: 2, Kind.THREE_HOP: 3}
GATHERED = (2, 4)  # subjects that share the value of an aggregation


@dataclass(frozen=True)
class Asked:
    """A question before its document is printed: its evidence are facts.

    The answer is what the last fact says; of an aggregation, the subjects of all of them.
    """

    kind: Kind
    text: str
    facts: tuple[Fact, ...]
    surrogates: tuple[str, ...]


def make_question(world: World, kind: Kind) -> Asked:
    """State what a question of this kind needs, and ask it; NoRoom if names or words run out."""
    names = world.settings.relations
    if kind in HOPS:
        return _chain(world, kind, world.pick(chains(names, HOPS[kind])))
    if kind is Kind.AGGREGATION:
        return _aggregation(world, world.pick(gatherable(names)))
    if kind is Kind.UPDATE:
        return _update(world)
    relation = world.pick(talks(names, kind))
    return simple(world, kind, world.state(relation, world.subject(relation)))


def possible(kind: Kind, names: Names) -> bool:
    """Say whether these relations can make questions of this kind."""
    if kind in HOPS:
        return bool(chains(names, HOPS[kind]))
    if kind is Kind.AGGREGATION:
        return bool(gatherable(names))
    return bool(changes(names) if kind is Kind.UPDATE else talks(names, kind))


def simple(world: World, kind: Kind, fact: Fact) -> Asked:
    """Ask for what one fact says."""
    return Asked(kind, ask_fact(world, fact), (fact,), (ask_fact(world, fact),))


def ask_fact(world: World, fact: Fact) -> str:
    """Ask for the value of a fact, its subject named."""
    return ask(world, (fact.relation,), fact.subject.shown)


def ask(world: World, relations: tuple[Relation, ...], name: str) -> str:
    """Ask for the end of a chain of relations that starts at ``name``."""
    if world.settings.terse:
        verbs = " ".join(relation.terse for relation in relations)
        return f"{name}?" if verbs == "is" else f"{name} {verbs}?"
    text = name
    for relation in relations[:-1]:
        assert relation.phrase is not None, "a chain goes on from values that have a name"
        text = world.fill(relation.phrase, text)
    return world.phrase(relations[-1].asks, text)


def _chain(world: World, kind: Kind, relations: tuple[Relation, ...]) -> Asked:
    """State facts, each about the value of the one before, and ask for the end of the chain."""
    subject = world.subject(relations[0])
    facts: list[Fact] = []
    for relation in relations:
        facts.append(world.state(relation, subject))
        subject = facts[-1].target or subject
    text = ask(world, relations, facts[0].subject.shown)
    return Asked(kind, text, tuple(facts), tuple(ask_fact(world, fact) for fact in facts))


def _aggregation(world: World, relation: Relation) -> Asked:
    """Give some subjects the same value and ask for all of them."""
    assert relation.gather is not None, "only relations that can be gathered are asked so"
    facts = world.gather(relation, *GATHERED)
    value = facts[0].value
    if world.settings.terse:
        text = f"{relation.terse} {value}?"
    else:
        text = world.phrase(relation.gather, value=value)
    return Asked(Kind.AGGREGATION, text, facts, tuple(ask_fact(world, fact) for fact in facts))


def _update(world: World) -> Asked:
    """State how a thing was and how it is now, and ask for one of the two."""
    change = world.pick(changes(world.settings.relations))
    first = world.state(change.first, world.subject(change.first))
    then = world.state(change.then, first.subject, other=first.value)
    world.later.append((first, then))
    return simple(world, Kind.UPDATE, then if world.rng.random() < 0.5 else first)
