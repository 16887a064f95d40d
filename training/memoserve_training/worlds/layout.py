"""The order of a document's sentences: paragraphs, dialogues, filler between the facts."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from memoserve_training.worlds.filler import chat_line, filler_for, words_in
from memoserve_training.worlds.names import NoRoom
from memoserve_training.worlds.page import Line, Page
from memoserve_training.worlds.relations import Sort
from memoserve_training.worlds.world import Fact, World

T = TypeVar("T")

PARAGRAPH = (3, 8)  # sentences
DIALOGUE = (2, 4)  # facts told in one dialogue


@dataclass(frozen=True)
class Block:
    """Lines that stand together, joined by a space or, in a dialogue, by a line break."""

    lines: Sequence[Line]
    joint: str = " "


def lay_out(world: World) -> Page:
    """Print a world: its facts and dialogues, and filler up to the length asked for."""
    rng, settings = world.rng, world.settings
    facts = list(world.facts)
    if settings.shuffled:
        rng.shuffle(facts)
        _keep_order(facts, world.later)
    told: list[Line] = [fact for fact in facts if not fact.spoken]
    left = settings.words - world.words if settings.filler else 0  # words for filler and chat
    dialogues, left = _dialogues(world, [fact for fact in facts if fact.spoken], left)
    filler: list[Line] = [*filler_for(rng, settings.split, left)]
    if settings.facts_first and not settings.terse:
        blocks = _placed(world, dialogues, list(paragraphs(rng, told)))
        return _print([*blocks, *paragraphs(rng, filler)])
    lines = [*told, *filler] if settings.facts_first else mixed(rng, told, filler)
    if settings.terse:
        return _print([Block(lines)])
    return _print(_placed(world, dialogues, list(paragraphs(rng, lines))))


def lay_out_lines(rng: random.Random, lines: Sequence[Line]) -> Page:
    """Print lines in their order, in paragraphs."""
    return _print(list(paragraphs(rng, lines)))


def paragraphs(rng: random.Random, lines: Sequence[Line]) -> Iterator[Block]:
    """Cut the lines into pieces of 3 to 8; fewer than 3 only if there are no more in all."""
    least, most = PARAGRAPH
    start = 0
    while (left := len(lines) - start) > most:
        size = rng.randint(least, min(most, left - least))
        yield Block(lines[start : start + size])
        start += size
    if left:
        yield Block(lines[start:])


def mixed(rng: random.Random, some: Sequence[T], others: Sequence[T]) -> list[T]:
    """Return both in one list, each in its own order, mixed at random."""
    slots = [True] * len(some) + [False] * len(others)
    rng.shuffle(slots)
    left, right = iter(some), iter(others)
    return [next(left) if slot else next(right) for slot in slots]


def _keep_order(facts: list[Fact], later: Sequence[tuple[Fact, Fact]]) -> None:
    """Swap what was so with what is so now where the latter would be told first."""
    at = {fact: place for place, fact in enumerate(facts)}
    for first, then in later:
        if at[first] > at[then]:
            facts[at[first]], facts[at[then]] = then, first


def _dialogues(world: World, facts: Sequence[Fact], left: int) -> tuple[list[Block], int]:
    """Share the spoken facts out to dialogues, in which somebody else speaks as well.

    Returns the dialogues, and how many of the ``left`` words they leave for filler.
    """
    blocks: list[Block] = []
    start = 0
    while start < len(facts):
        size = world.rng.randint(*DIALOGUE)
        lines: Sequence[Line] = facts[start : start + size]
        start += size
        if left > 0:
            chat = _chat(world, size)
            left -= sum(words_in(line) for line in chat)
            lines = mixed(world.rng, lines, list[Line](chat))
        blocks.append(Block(lines, "\n"))
    return blocks, left


def _chat(world: World, facts: int) -> list[str]:
    """Let somebody whom no fact speaks of say a line or more, if there is a name for one."""
    try:
        host = world.fresh(Sort.PERSON)
    except NoRoom:
        return []
    lines = 1 + int(world.rng.random() * facts * world.settings.filler)
    split = world.settings.split
    return [f"{host.shown}: {chat_line(world.rng, split)}" for _ in range(lines)]


def _placed(world: World, dialogues: list[Block], told: list[Block]) -> list[Block]:
    """Put dialogues anywhere between the paragraphs, or behind them if nothing is shuffled."""
    if not world.settings.shuffled:
        return [*told, *dialogues]
    return mixed(world.rng, told, dialogues)


def _print(blocks: Sequence[Block]) -> Page:
    page = Page()
    for block in blocks:
        page.block(block.lines, block.joint)
    return page
