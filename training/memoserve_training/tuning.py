"""The loop of further training: batches by number, accumulated, stepped; stopped and gone on with.

Batch ``n`` is the same whenever it is asked for, so a run that goes on needs to know only how far
it was.
"""

from __future__ import annotations

import csv
import json
import random
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Protocol

from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm import tqdm

from memoserve.memory.window import RatioSchedule
from memoserve.models.loader import LoadedModel
from memoserve_training.checkpoint import RunDirectory
from memoserve_training.masters import Masters
from memoserve_training.trainer import append_row


@dataclass(frozen=True)
class Part:
    """One batch: ``loss`` to descend, raw ``tokens`` read, ``figures`` for the table of losses.

    There is nothing to learn from a loss that is None or has no gradient, as where every window
    drew the ratio 0 and only beacons train.
    """

    loss: Tensor | None
    tokens: int
    figures: Mapping[str, float] = field(default_factory=dict)


class Objective(Protocol):
    """What a stage of training descends; ``figures`` names all those that its parts may have."""

    figures: tuple[str, ...]

    def part(self, number: int) -> Part:
        """Batch ``number``, counted from 0: the same every time, but for the weights."""
        ...


@dataclass(frozen=True)
class Pace:
    """How far and how fast.

    ``steps`` in all, each over ``accumulate`` batches of equal weight; ``rate`` is reached after
    ``warmup`` steps and falls to nothing at the end; ``clip`` bounds the gradients' norm.
    """

    steps: int
    rate: float
    accumulate: int = 1
    warmup: int = 0
    clip: float = 1.0
    save_steps: int = 200
    log_steps: int = 10

    def __post_init__(self) -> None:
        for name in ("steps", "rate", "accumulate", "clip", "save_steps", "log_steps"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, not {getattr(self, name)}")
        if self.warmup < 0:
            raise ValueError(f"warmup must not be negative: {self.warmup}")

    def rate_at(self, step: int) -> float:
        """Learning rate of a step, counted from 0."""
        rising = (step + 1) / (self.warmup + 1)
        falling = (self.steps - step) / max(1, self.steps - self.warmup)
        return self.rate * min(1.0, rising, falling)


@dataclass
class TuningProgress:
    """Where a run stands; ``figures`` run as means over some ten steps."""

    step: int = 0
    tokens: int = 0
    figures: dict[str, float] = field(default_factory=dict)

    def saw(self, name: str, value: float) -> None:
        """Count a figure in."""
        self.figures[name] = 0.9 * self.figures.get(name, value) + 0.1 * value


class Shuffled:
    """``size`` things in an order of each epoch's own, by the number of the draw."""

    def __init__(self, size: int, seed: int) -> None:
        if size < 1:
            raise ValueError("there is nothing to train on")
        self._size, self._seed = size, seed
        self._epoch, self._order = -1, list(range(size))

    def at(self, number: int) -> int:
        """Which thing is drawn as number ``number``."""
        epoch, place = divmod(number, self._size)
        if epoch != self._epoch:
            self._epoch, self._order = epoch, list(range(self._size))
            random.Random(f"{self._seed} epoch {epoch}").shuffle(self._order)
        return self._order[place]


def rng_of(seed: int, number: int) -> random.Random:
    """The chances of batch ``number``."""
    return random.Random(f"{seed} batch {number}")


def draw_ratios(rng: random.Random, loaded: LoadedModel, tokens: int) -> RatioSchedule:
    """One ratio of the checkpoint's list a window, for at least ``tokens`` raw tokens.

    Of several, only those that divide the window are drawn, as in the published training.
    """
    beacon = loaded.config.beacon
    listed = beacon.ratios
    usable = listed if len(listed) == 1 else [r for r in listed if r == 0 or beacon.window % r == 0]
    return RatioSchedule(tuple(rng.choices(usable, k=tokens // beacon.window + 1)))


class Tuner:
    """Trains the chosen parameters of a loaded model; goes on where its run was stopped."""

    def __init__(
        self,
        loaded: LoadedModel,
        masters: Masters,
        objective: Objective,
        pace: Pace,
        run: RunDirectory,
    ) -> None:
        self._loaded, self._masters, self._objective = loaded, masters, objective
        self._pace, self._run = pace, run
        self._started = time.monotonic()
        self.progress = TuningProgress()
        if run.saved is not None:
            self._load()

    def train(self, seconds: float | None = None, steps: int | None = None) -> bool:
        """Train to the last step, or a slice of ``seconds`` or ``steps``; whether it is done.

        Saves, and exports the model, at the end of the slice.
        """
        progress, total = self.progress, self._pace.steps
        last = total if steps is None else min(total, progress.step + steps)
        with tqdm(total=total, initial=progress.step, unit="step", mininterval=5) as bar:
            while progress.step < last:
                if seconds is not None and time.monotonic() - self._started > seconds:
                    break
                self._step()
                bar.set_postfix(loss=f"{progress.figures.get('loss', float('nan')):.4f}")
                bar.update()
                if progress.step % self._pace.save_steps == 0:
                    self._save()
        self._save()
        self._run.export(self._loaded.model, self._loaded.dtype)
        return progress.step == total

    def _step(self) -> None:
        progress, pace = self.progress, self._pace
        learned = False
        for turn in range(pace.accumulate):
            part = self._objective.part(progress.step * pace.accumulate + turn)
            progress.tokens += part.tokens
            for name, value in part.figures.items():
                progress.saw(name, value)
            if part.loss is not None and part.loss.requires_grad:
                (part.loss / pace.accumulate).backward()
                self._masters.collect()
                progress.saw("loss", part.loss.item())
                learned = True
        if learned:
            self._masters.step(pace.rate_at(progress.step), pace.clip)
        progress.step += 1
        if progress.step % pace.log_steps == 0:
            self._log()

    def _log(self) -> None:
        progress = self.progress
        row: dict[str, object] = {
            "step": progress.step,
            "tokens": progress.tokens,
            "seconds": round(time.monotonic() - self._started, 1),
        }
        # The same columns in every line, also before the first batch that has a figure.
        for name in ("loss", *self._objective.figures):
            known = progress.figures.get(name)
            row[name] = "" if known is None else round(known, 5)
        append_row(self._run.losses, row)

    def _save(self) -> None:
        with self._run.replacing() as fresh:
            save_file(self._masters.weights(), fresh / "model.safetensors")
            save_file(self._masters.moments(), fresh / "training.safetensors")
            state = json.dumps(asdict(self.progress))
            (fresh / "training.json").write_text(state + "\n", encoding="utf-8")

    def _load(self) -> None:
        saved = self._run.saved
        assert saved is not None  # the caller looked
        weights = load_file(saved / "model.safetensors")
        self._masters.load(weights, load_file(saved / "training.safetensors"))
        state = json.loads((saved / "training.json").read_text(encoding="utf-8"))
        self.progress = TuningProgress(**state)
        _drop_rows_behind(self._run, self.progress.step)


def _drop_rows_behind(run: RunDirectory, step: int) -> None:
    """Forget the losses of steps that were not saved: they are trained again."""
    if not run.losses.is_file():
        return
    with run.losses.open(newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    kept = rows[:1] + [row for row in rows[1:] if int(row[0]) <= step]
    with run.losses.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(kept)
