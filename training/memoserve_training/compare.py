"""Held-out figures of two model directories side by side: does a training run reproduce another?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from tqdm import tqdm

from memoserve_training import tiny
from memoserve_training.chat import open_words
from memoserve_training.checkpoint import load_weights
from memoserve_training.measure import measure
from memoserve_training.shape import build
from memoserve_training.worlds import Split

DOCUMENTS, SEED = 32, 1_000_003
# A choice: three standard errors of a share near 0.5 of some 200 questions.
TOLERANCE: Final = 0.11


@dataclass(frozen=True)
class Figure:
    """A measured share: the lesson, the kind of question with its task, and the ratio."""

    lesson: str
    kind: str
    ratio: int


def figures(model: Path) -> Mapping[Figure, float]:
    """Exact match, teacher-forced, in documents of the held-out world."""
    trainee = build(model)
    load_weights(trainee.model, model / "model.safetensors")
    words = open_words(model)
    cells = [
        (name, lesson, ratio)
        for name, lesson in tiny.MEASURED.items()
        for ratio in (0, *trainee.config.beacon.ratios)
    ]
    found = {}
    for name, lesson, ratio in tqdm(cells, desc=str(model), mininterval=5):
        held_out = replace(lesson, world=replace(lesson.world, split=Split.HELD_OUT))
        shares = measure(trainee, words, held_out, ratio, documents=DOCUMENTS, seed=SEED)
        for kind, share in shares.items():
            found[Figure(name, kind, ratio)] = share.share
    return found


def compare(new: Path, shipped: Path) -> bool:
    """Print both; whether ``new`` has every figure, none lower by more than TOLERANCE."""
    ours, theirs = figures(new), figures(shipped)
    good = True
    print(f"\n{'held-out documents':20}{'':24}ratio    new  shipped")
    for figure in dict.fromkeys((*theirs, *ours)):
        share, other = ours.get(figure), theirs.get(figure)
        short = other is not None and (share is None or share < other - TOLERANCE)
        good = good and not short
        note = f"   below by more than {TOLERANCE}" if short else ""
        what = f"{figure.lesson:20}{figure.kind:24}{figure.ratio:5}"
        print(f"{what}  {_shown(share)}    {_shown(other)}{note}")
    return good


def _shown(share: float | None) -> str:
    return "    -" if share is None else f"{share:5.2f}"
