"""Memories whose whole text has been compressed, and texts of the length that is wanted."""

from __future__ import annotations

import random
from itertools import pairwise

from benchmarks.quality.server import HELD_BACK, Asker
from benchmarks.quality.texts import Density, codes, filler_text, mixed, rng_of
from memoserve_client import MemoryStats

SAMPLE_WORDS = 300
MOST_TAILS = 20


def measure_density(asker: Asker, seed: int) -> Density:
    """Tokens of the kinds of text, as the server counts them: one memory is written bit by bit."""
    name, sentence = "density", "A few words."
    samples = (
        filler_text(rng_of(seed, name), SAMPLE_WORDS),
        codes(rng_of(seed, name, "codes"), SAMPLE_WORDS, SAMPLE_WORDS).text,
        mixed(rng_of(seed, name, "mixed"), SAMPLE_WORDS, SAMPLE_WORDS).text,
    )
    ratio = asker.info.model.default_ratio
    fed = [asker.write(name, sentence, ratio).raw_tokens]
    for at, text in enumerate(samples):
        fed.append(asker.append(name, text, ratio, f"sample-{at}").raw_tokens)
    asker.forget(name)
    grown = [after - before for before, after in pairwise(fed)]
    filler, code, mix = (
        tokens / len(text.split()) for tokens, text in zip(grown, samples, strict=True)
    )
    return Density(fed[0] - filler * len(sentence.split()), filler, code, mix)


def memorize(
    asker: Asker, name: str, text: str, ratio: int, density: Density, *, index: bool
) -> MemoryStats:
    """Write ``text`` and then as much filler as closes the window in which it ends.

    In an open window the model sees the text itself; only behind its border has all of it been
    compressed. The filler is the same for every ratio. Raises NotHeldError.
    """
    stats = asker.write(name, text, ratio, index=index)
    window = asker.info.model.window
    goal = -(-(stats.raw_tokens + HELD_BACK) // window) * window
    rng = random.Random(text)
    for number in range(MOST_TAILS):
        if stats.windows_closed * window >= goal:
            return stats
        words = 4 + round((goal + HELD_BACK - stats.raw_tokens) / density.filler)
        tail = filler_text(rng, words)
        stats = asker.append(name, tail, ratio, f"tail-{number}", index=index)
    raise RuntimeError(f"{name}: the window did not close, {stats}")
