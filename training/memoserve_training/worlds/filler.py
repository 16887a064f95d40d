"""Sentences about nothing that is asked: weather, work, roads, markets, meals."""

from __future__ import annotations

import random
import re
from functools import cache

from memoserve_training.worlds.filler_words import CHAT, HELD_OUT, TRAIN, WORDS
from memoserve_training.worlds.values import Split

_SLOT = re.compile(r"\{(\w+)\}")


@cache
def _patterns(split: Split) -> tuple[tuple[str, tuple[tuple[str, ...], ...]], ...]:
    """Return each pattern as a format string and the words of its slots in order."""
    patterns = TRAIN if split is Split.TRAIN else HELD_OUT
    return tuple(
        (_SLOT.sub("%s", pattern), tuple(WORDS[slot] for slot in _SLOT.findall(pattern)))
        for pattern in patterns
    )


def filler_sentence(rng: random.Random, split: Split) -> str:
    """Return a sentence drawn from the grammar of ``split``."""
    patterns = _patterns(split)
    draw = rng.random
    pattern, slots = patterns[int(draw() * len(patterns))]
    text = pattern % tuple([words[int(draw() * len(words))] for words in slots])
    return text[0].upper() + text[1:]


def filler_for(rng: random.Random, split: Split, words: int) -> list[str]:
    """Return sentences of ``words`` words in all, or a few more."""
    found: list[str] = []
    while words > 0:
        found.append(filler_sentence(rng, split))
        words -= words_in(found[-1])
    return found


def chat_line(rng: random.Random, split: Split) -> str:
    """Return what somebody says in a dialogue who has nothing to tell."""
    lines = CHAT[split.value]
    at = int(rng.random() * 2 * len(lines))
    return lines[at] if at < len(lines) else filler_sentence(rng, split)


def words_in(text: str) -> int:
    """Count the words of a sentence."""
    return text.count(" ") + 1
