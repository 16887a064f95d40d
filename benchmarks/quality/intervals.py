"""Shares with intervals: the bootstrap over documents."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

ROUNDS = 4000
LEVEL = 0.95


@dataclass(frozen=True)
class Share:
    """A mean over ``count`` outcomes of ``documents`` documents.

    ``low`` and ``high`` hold 95 % of the means of resampled documents; None with fewer than two
    documents, of whose spread nothing is known.
    """

    share: float
    low: float | None
    high: float | None
    count: int
    documents: int


def bootstrap(outcomes: Sequence[Sequence[float]], seed: int, rounds: int = ROUNDS) -> Share | None:
    """Mean of all outcomes, each inner sequence those of one document; None where there are none.

    Questions about one document share its memory and are no independent draws: documents are
    resampled, with replacement, and the percentiles of the means are the interval (Efron and
    Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13). Documents without an outcome
    do not count.
    """
    asked = [document for document in outcomes if document]
    if not asked:
        return None
    sums = np.array([sum(document) for document in asked], dtype=np.float64)
    counts = np.array([len(document) for document in asked], dtype=np.float64)
    share = float(sums.sum() / counts.sum())
    low: float | None = None
    high: float | None = None
    if len(asked) > 1:
        drawn = np.random.default_rng(seed).integers(len(asked), size=(rounds, len(asked)))
        means = sums[drawn].sum(1) / counts[drawn].sum(1)
        tail = (1 - LEVEL) / 2
        low, high = (float(value) for value in np.quantile(means, (tail, 1 - tail)))
    return Share(share, low, high, int(counts.sum()), len(asked))
