"""The loop: draw a batch, read it through memory, step; save, and go on where it was stopped."""

from __future__ import annotations

import csv
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from tqdm import tqdm

from memoserve.memory.window import RatioSchedule
from memoserve_training.attend import TreeAttend
from memoserve_training.chat import ChatWords
from memoserve_training.checkpoint import RunDirectory
from memoserve_training.curriculum import Progress, Stage, rate_factor
from memoserve_training.examples import Batch, Lesson, draw_batch, numpy_rng
from memoserve_training.loss import Outcome, written_loss
from memoserve_training.optim import Optimizers
from memoserve_training.shape import Trainee, rules_of
from memoserve_training.shards import Shards
from memoserve_training.tree import Tree, places, tree

LOG_STEPS, SAVE_STEPS = 25, 200


@dataclass(frozen=True)
class Drawn:
    """A batch with the memory it is read through; ``ratio`` is the greatest of its windows."""

    batch: Batch
    tree: Tree
    attend: TreeAttend
    ratio: int
    lent: int = 1


class StageMissed(RuntimeError):
    """A stage that later ones build on was not learned within its tokens."""


class Trainer:
    """Trains through the stages of a curriculum in slices that may be stopped at any moment."""

    def __init__(
        self,
        trainee: Trainee,
        words: ChatWords,
        stages: Sequence[Stage],
        optimizers: Optimizers,
        run: RunDirectory,
        seed: int,
    ) -> None:
        self.trainee, self._words, self._stages = trainee, words, stages
        self._optimizers, self._run = optimizers, run
        self._rng = random.Random(seed)
        self._shards = Shards(trainee.model)
        self._started = time.monotonic()
        self._stopped = False
        self.progress = Progress()
        if run.saved is not None:
            self.progress = run.load(trainee.model, optimizers, self._rng)

    def stop(self) -> None:
        """End the slice behind the step that runs; may be called from a signal's handler."""
        self._stopped = True

    def train(self, seconds: float | None = None, steps: int | None = None) -> bool:
        """Train to the end of the curriculum, or a slice of it; whether it is done.

        Raises StageMissed where a stage with ``stop_if_missed`` was not learned.
        """
        total = sum(stage.at_most for stage in self._stages)
        last = None if steps is None else self.progress.step + steps
        with tqdm(total=total, unit="tok", unit_scale=True, mininterval=5) as bar:
            bar.update(self.progress.tokens)
            while (done := self.progress.stage) < len(self._stages):
                late = seconds is not None and time.monotonic() - self._started > seconds
                if late or self._stopped or self.progress.step == last:
                    break
                bar.update(self._step())
        self._save()
        return done == len(self._stages)

    @torch.no_grad()
    def loss_on(self, lesson: Lesson, ratio: int, documents: int, seed: int) -> float:
        """Loss of the model as it is on a batch that no training draws."""
        stage = Stage("measured", (lesson,), self.trainee.config.beacon.window, {ratio: 1.0})
        batch = draw_batch(random.Random(seed), self._words, lesson, documents)
        drawn = lay_out(random.Random(seed), self.trainee, stage, batch)
        return written_loss(self.trainee.model, drawn.tree, batch, drawn.attend).loss.item()

    def _save(self) -> None:
        self._run.save(self.trainee.model, self._optimizers, self.progress, self._rng)

    def _step(self) -> int:
        stage, progress = self._stages[self.progress.stage], self.progress
        drawn = draw(self._rng, self.trainee, self._words, stage)
        outcome = self._shards.descend(drawn.tree, drawn.batch, drawn.attend, drawn.lent)
        torch.nn.utils.clip_grad_norm_(self.trainee.model.parameters(), 1.0)
        self._optimizers.step(rate_factor(stage, progress))
        asked = (drawn.batch.targets >= 0).any(dim=-1)
        right = outcome.right[asked].float().mean().item()
        progress.saw(drawn.ratio, drawn.batch.tokens, right)
        if progress.step % LOG_STEPS == 0:
            self._log(stage, drawn, outcome)
        self._maybe_leave(stage)
        if progress.step % SAVE_STEPS == 0:
            self._save()
        return drawn.batch.tokens

    def _maybe_leave(self, stage: Stage) -> None:
        progress = self.progress
        passed = progress.passed(stage)
        if not passed and progress.stage_tokens < stage.at_most:
            return
        word = "passed" if passed else "left"
        right = {ratio: round(share, 3) for ratio, share in sorted(progress.right.items())}
        minutes = (time.monotonic() - self._started) / 60
        tqdm.write(
            f"{minutes:.1f} min, {progress.tokens / 1e6:.2f}M tokens: {stage.name} {word}, {right}"
        )
        if not passed and stage.stop_if_missed:
            raise StageMissed(f"{stage.name}: {right} after {progress.stage_tokens} tokens")
        progress.next_stage()
        self._save()
        self._run.keep(f"{progress.stage:02d}")

    def _log(self, stage: Stage, drawn: Drawn, outcome: Outcome) -> None:
        by_kind = _shares(drawn.batch, outcome)
        row = {
            "step": self.progress.step,
            "tokens": self.progress.tokens,
            "seconds": round(time.monotonic() - self._started, 1),
            "stage": stage.name,
            "ratio": drawn.ratio,
            "loss": round(outcome.loss.item(), 4),
            "right": " ".join(f"{r}:{x:.3f}" for r, x in sorted(self.progress.right.items())),
            "kinds": " ".join(f"{kind}:{x:.2f}" for kind, x in sorted(by_kind.items())),
        }
        append_row(self._run.losses, row)


def append_row(path: Path, row: dict[str, object]) -> None:
    """Add a line to a CSV file, with its heading where it is new."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = not path.is_file()
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(row))
        if new:
            writer.writeheader()
        writer.writerow(row)


def _shares(batch: Batch, outcome: Outcome) -> dict[str, float]:
    """Share of questions answered exactly, by kind of question and task."""
    seen: dict[str, list[bool]] = {}
    for kinds, rights in zip(batch.kinds, outcome.right.tolist(), strict=True):
        for kind, right in zip(kinds, rights, strict=True):
            if kind:
                seen.setdefault(kind, []).append(right)
    return {kind: sum(rights) / len(rights) for kind, rights in seen.items()}


def draw(rng: random.Random, trainee: Trainee, words: ChatWords, stage: Stage) -> Drawn:
    """Draw a batch of a stage and how its memory is laid out."""
    lesson = rng.choice(stage.lessons)
    lent = stage.lent if rng.random() < 0.5 else 1
    documents = max(1, stage.batch_tokens // (2 * lesson.trunk) // lent) * lent
    batch = draw_batch(rng, words, lesson, documents)
    return lay_out(rng, trainee, stage, batch, lent)


def lay_out(
    rng: random.Random, trainee: Trainee, stage: Stage, batch: Batch, lent: int = 1
) -> Drawn:
    """Draw ratios and positions for a batch."""
    trunk = batch.ids.trunk.shape[1]
    schedule = _schedule(rng, stage, trunk)
    rules = rules_of(trainee.config.beacon, stage.window)
    branches, tokens = batch.ids.branches.shape[1:]
    plan = tree(rules, schedule, trunk, tokens, branches)
    rows = plan.trunk.after.memory_rows * lent
    span = stage.span if rng.random() < 0.5 else 0
    at = places(numpy_rng(rng), rows, span)
    attend = TreeAttend(plan, trainee.rope, at, batch.ids.trunk.device, lent=lent)
    return Drawn(batch, plan, attend, max(schedule.ratios), lent)


def _schedule(rng: random.Random, stage: Stage, trunk: int) -> RatioSchedule:
    """One ratio for all windows, or one each."""
    ratios, weights = list(stage.ratios), list(stage.ratios.values())
    windows = -(-trunk // stage.window) + 1
    count = windows if rng.random() < stage.mixed else 1
    return RatioSchedule(tuple(rng.choices(ratios, weights, k=count)))
