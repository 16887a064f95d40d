"""What a model learns, and in which order."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from memoserve_training.examples import Lesson


@dataclass(frozen=True)
class Stage:
    """Lessons, one of them drawn a batch, with the memory they are read through.

    Left when the running exact match at every ratio passes ``threshold``, but not before
    ``at_least`` tokens; given up or gone on from at ``at_most`` tokens. ``ratios`` by weight, one
    drawn a batch, or one a window with probability ``mixed``. ``window`` raw tokens. With
    ``span``, half the batches stand on memory positions drawn from so many; ``lent`` documents
    lend each other their memories in half the batches. ``decay``: the rates fall to nothing over
    this last share of the stage.
    """

    name: str
    lessons: tuple[Lesson, ...]
    window: int
    ratios: Mapping[int, float]
    threshold: float = 0.8
    at_least: int = 0
    at_most: int = 5_000_000
    mixed: float = 0.0
    span: int = 0
    lent: int = 1
    batch_tokens: int = 4096
    rate: float = 1.0
    decay: float = 0.0
    stop_if_missed: bool = False


@dataclass
class Progress:
    """Where in a stage training stands; what ``state.json`` holds of it."""

    stage: int = 0
    stage_tokens: int = 0
    tokens: int = 0
    step: int = 0
    right: dict[int, float] = field(default_factory=dict)

    def saw(self, ratio: int, tokens: int, right: float) -> None:
        """Count a batch in; ``right`` runs as a mean over some ten batches of its ratio."""
        self.step += 1
        self.tokens += tokens
        self.stage_tokens += tokens
        self.right[ratio] = 0.9 * self.right.get(ratio, 0.0) + 0.1 * right

    def passed(self, stage: Stage) -> bool:
        """Whether the stage has been learned."""
        right = [self.right.get(ratio, 0.0) for ratio in stage.ratios]
        return self.stage_tokens >= stage.at_least and min(right) > stage.threshold

    def next_stage(self) -> None:
        """Go on to the next stage."""
        self.stage += 1
        self.stage_tokens = 0
        self.right = {}


def rate_factor(stage: Stage, progress: Progress, warmup: int = 50) -> float:
    """Share of the height of the learning rates for the next step."""
    factor = stage.rate * min(1.0, (progress.step + 1) / warmup)
    if stage.decay:
        left = 1.0 - progress.stage_tokens / stage.at_most
        factor *= min(1.0, max(0.02, left / stage.decay))
    return factor
