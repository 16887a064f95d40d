"""Invented names of two syllable blocks; each belongs to one split, for good.

So many pairs (6,400) of so few blocks (80 and 80) that a tokenizer trained on the text knows the
blocks and no whole name: a name never seen is read as two tokens that were seen often.
"""

from __future__ import annotations

import random
from collections import defaultdict
from functools import cache
from zlib import crc32

from memoserve_training.worlds.values import Split

# Few rimes, each in several blocks, and seams between blocks that English words hardly have: so
# a tokenizer merges the rimes before anything across a seam.
FIRST = (
    *("Bav", "Dav", "Kav", "Tav", "Lev", "Nev", "Zev", "Hev", "Kiv", "Riv"),
    *("Viv", "Jiv", "Dov", "Tov", "Rov", "Yov", "Baz", "Gaz", "Naz", "Taz"),
    *("Dez", "Lez", "Kez", "Vez", "Miz", "Diz", "Tiz", "Niz", "Kuz", "Luz"),
    *("Duz", "Huz", "Dax", "Vax", "Zax", "Jax", "Tix", "Vix", "Zix", "Kix"),
    *("Nox", "Yox", "Tox", "Hox", "Rux", "Gux", "Bux", "Nux", "Dak", "Zak"),
    *("Nak", "Vak", "Bek", "Tek", "Rek", "Hek", "Luk", "Vuk", "Zuk", "Muk"),
    *("Vag", "Zag", "Dag", "Kag", "Zog", "Rog", "Yog", "Kog", "Yug", "Gug"),
    *("Nug", "Vug", "Zeb", "Keb", "Reb", "Neb", "Gub", "Lub", "Zub", "Yub"),
)
SECOND = (
    *("bara", "belo", "bosk", "bova", "bulm", "bumi", "birn", "bora", "dara", "delo"),
    *("dosk", "dova", "dulm", "dumi", "dirn", "dora", "fara", "felo", "fosk", "fova"),
    *("fulm", "fumi", "firn", "fora", "gara", "gelo", "gosk", "gova", "gulm", "gumi"),
    *("girn", "gora", "jara", "jelo", "josk", "jova", "julm", "jumi", "jirn", "jora"),
    *("kara", "kelo", "kosk", "kova", "kulm", "kumi", "kirn", "kora", "mara", "melo"),
    *("mosk", "mova", "mulm", "mumi", "mirn", "mora", "para", "pelo", "posk", "pova"),
    *("pulm", "pumi", "pirn", "pora", "vara", "velo", "vosk", "vova", "vulm", "vumi"),
    *("virn", "vora", "zara", "zelo", "zosk", "zova", "zulm", "zumi", "zirn", "zora"),
)


class NoRoom(Exception):
    """Every allowed name, or every word of a relation, is taken in this document."""


@cache
def names_of(split: Split, count: int | None = None) -> tuple[str, ...]:
    """Return the names of ``split``, or its first ``count``.

    A name is held out if its crc32 divides by 5. The order goes once through all first blocks
    before it comes to any of them again, each time with another second block.
    """
    held_out = split is Split.HELD_OUT
    found = [
        first + SECOND[(37 * place + turn) % len(SECOND)]
        for turn in range(len(SECOND))
        for place, first in enumerate(FIRST)
    ]
    found = [name for name in found if (crc32(name.encode()) % 5 == 0) is held_out]
    rounds: dict[str, int] = defaultdict(int)
    ranked: list[tuple[int, int, str]] = []
    for name in found:
        ranked.append((rounds[name[:3]], len(ranked), name))
        rounds[name[:3]] += 1
    names = tuple(name for _, _, name in sorted(ranked))
    if count is not None and count > len(names):
        raise ValueError(f"names is {count}, {split.value} has {len(names)}")
    return names if count is None else names[:count]


@cache
def _names(split: Split, count: int | None, short: bool) -> tuple[str, ...]:
    names = names_of(split, count)
    return tuple(dict.fromkeys(name[:3] for name in names)) if short else names


@cache
def _by_block(split: Split, count: int | None, short: bool) -> dict[str, tuple[str, ...]]:
    """Names by each of their two blocks; a short one has but one."""
    found: dict[str, list[str]] = defaultdict(list)
    for name in _names(split, count, short):
        found[name[:3]].append(name)
        found[name[3:]].append(name)
    return {block: tuple(names) for block, names in found.items()}


class NameBag:
    """The names of one document: each is drawn at most once."""

    def __init__(
        self,
        rng: random.Random,
        split: Split,
        count: int | None = None,
        short: bool = False,
    ) -> None:
        self._rng = rng
        self._all = _names(split, count, short)
        self._blocks = _by_block(split, count, short)
        self._used: set[str] = set()

    def draw(self) -> str:
        """Draw a name; NoRoom when none is left."""
        return self._unused(self._all)

    def draw_near(self, name: str) -> str:
        """Draw a name that shares a block with ``name``, or any if there is none such."""
        block = name[:3] if self._rng.random() < 0.5 else name[3:]
        try:
            return self._unused(self._blocks[block])
        except NoRoom:
            return self.draw()

    def _unused(self, names: tuple[str, ...]) -> str:
        name = names[int(self._rng.random() * len(names))]
        if name in self._used:
            left = [other for other in names if other not in self._used]
            if not left:
                raise NoRoom
            name = self._rng.choice(left)
        self._used.add(name)
        return name
