"""Every relation and change there is, by name, and what can be made of them."""

from __future__ import annotations

from functools import cache

from memoserve_training.worlds.changes_people import MOVED, RETRAINED
from memoserve_training.worlds.changes_things import PASSED, RECODED
from memoserve_training.worlds.facts_core import CODE, FOUNDED, KEEPS, LIVES, WORKS
from memoserve_training.worlds.facts_looks import COLOR, MATERIAL
from memoserve_training.worlds.facts_people import BORN, GUILD, MET, TEACHER
from memoserve_training.worlds.facts_things import FAMED, MAKER, MAYOR, STANDS
from memoserve_training.worlds.relations import Change, Relation
from memoserve_training.worlds.talk_likes import DRINK, FOOD, PASTIME, SEASON
from memoserve_training.worlds.talk_plans import DAY, ERRAND, TRIP
from memoserve_training.worlds.values import Kind

Names = tuple[str, ...] | None  # of allowed relations and changes; None: all

STATES = (
    *(CODE, LIVES, WORKS, KEEPS, FOUNDED),
    *(TEACHER, GUILD, BORN, MET),
    *(MAYOR, FAMED, STANDS, MAKER, COLOR, MATERIAL),
    *(DRINK, FOOD, PASTIME, SEASON),
    *(TRIP, ERRAND, DAY),
)
CHANGES = (MOVED, PASSED, RETRAINED, RECODED)

RELATIONS: dict[str, Relation] = {
    relation.name: relation
    for relation in (*STATES, *(side for change in CHANGES for side in (change.first, change.then)))
}


@cache
def states(names: Names) -> tuple[Relation, ...]:
    """Return the allowed relations that do not change; an unknown name is a ValueError."""
    known = [each.name for each in (*STATES, *CHANGES)]
    for name in names or ():
        if name not in known:
            raise ValueError(f"relations: no {name!r}, there are {', '.join(known)}")
    return tuple(relation for relation in STATES if names is None or relation.name in names)


@cache
def changes(names: Names) -> tuple[Change, ...]:
    """Return the allowed changes."""
    return tuple(change for change in CHANGES if names is None or change.name in names)


@cache
def talks(names: Names, kind: Kind) -> tuple[Relation, ...]:
    """Return the allowed relations that a dialogue tells of, for questions of ``kind``."""
    return tuple(relation for relation in states(names) if relation.talk is kind)


@cache
def gatherable(names: Names) -> tuple[Relation, ...]:
    """Return the allowed relations in which one may ask for all subjects of a value."""
    return tuple(relation for relation in states(names) if relation.gather is not None)


@cache
def chains(names: Names, hops: int) -> tuple[tuple[Relation, ...], ...]:
    """Return every chain of ``hops`` allowed relations, each about the value of the one before.

    A chain of one hop is no line of a dialogue: there are kinds of questions for these.
    """
    found: list[tuple[Relation, ...]] = [(relation,) for relation in states(names)]
    for _ in range(hops - 1):
        found = [
            (*chain, last)
            for chain in found
            if chain[-1].phrase is not None
            for last in states(names)
            if chain[-1].value in last.subjects and last not in chain
        ]
    return tuple(chain for chain in found if hops > 1 or chain[0].talk is None)
