"""A run's directory: the model in the published layout, and what going on with it takes.

model/        config.json, tokenizer, prompts, model.safetensors: a server loads it
last/         model.safetensors, training.safetensors (optimizers), training.json (progress)
previous/     the same a save earlier, while ``last`` is being replaced
kept/NN/      the same as it was at the beginning of stage NN
losses.csv    a line every few steps
"""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from memoserve.models.layers import BeaconLM
from memoserve_training.curriculum import Progress
from memoserve_training.optim import Optimizers


def weights_of(model: BeaconLM, dtype: torch.dtype) -> dict[str, Tensor]:
    """Weights by their published names; a tied head is left out."""
    state = model.state_dict()
    if model.config.tied:
        state.pop("lm_head.weight")
    return {name: tensor.detach().to(dtype).contiguous() for name, tensor in state.items()}


def load_weights(model: BeaconLM, path: Path) -> None:
    """Put weights back in place. Raises RuntimeError naming what is missing or left over."""
    weights = load_file(path)
    if model.config.tied:
        weights["lm_head.weight"] = weights["model.embed_tokens.weight"]
    model.load_state_dict(weights)


class RunDirectory:
    """One training run on disk."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.model = path / "model"
        self.losses = path / "losses.csv"

    @property
    def saved(self) -> Path | None:
        """The newest whole state, or None where nothing was saved."""
        found = (self.path / name for name in ("last", "previous"))
        return next((path for path in found if path.is_dir()), None)

    def save(
        self, model: BeaconLM, optimizers: Optimizers, progress: Progress, rng: random.Random
    ) -> None:
        """Write all of it; a stop at any moment leaves the old state or the new one."""
        state = {"progress": asdict(progress), "rng": rng.getstate()}
        with self.replacing() as fresh:
            save_file(weights_of(model, torch.float32), fresh / "model.safetensors")
            save_file(
                {name: tensor.contiguous() for name, tensor in optimizers.state().items()},
                fresh / "training.safetensors",
            )
            (fresh / "training.json").write_text(json.dumps(state) + "\n", encoding="utf-8")

    @contextmanager
    def replacing(self) -> Iterator[Path]:
        """An empty folder that becomes ``last`` where the block ends without an error."""
        fresh, last, previous = (self.path / name for name in ("fresh", "last", "previous"))
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(parents=True)
        yield fresh
        if last.is_dir():
            shutil.rmtree(previous, ignore_errors=True)
            last.rename(previous)
        fresh.rename(last)
        shutil.rmtree(previous, ignore_errors=True)

    def keep(self, name: str) -> None:
        """Copy the newest state to ``kept/name``, to go on from another day."""
        saved = self.saved
        if saved is not None:
            shutil.copytree(saved, self.path / "kept" / name, dirs_exist_ok=True)

    def load(self, model: BeaconLM, optimizers: Optimizers, rng: random.Random) -> Progress:
        """Put the newest state back. Raises FileNotFoundError where there is none."""
        saved = self.saved
        if saved is None:
            raise FileNotFoundError(f"{self.path} holds no saved state")
        load_weights(model, saved / "model.safetensors")
        optimizers.load(load_file(saved / "training.safetensors"))
        state = json.loads((saved / "training.json").read_text(encoding="utf-8"))
        version, internal, gauss = state["rng"]
        rng.setstate((version, tuple(internal), gauss))
        progress = state["progress"]
        progress["right"] = {int(ratio): share for ratio, share in progress["right"].items()}
        return Progress(**progress)

    def export(self, model: BeaconLM, dtype: torch.dtype = torch.bfloat16) -> None:
        """Write the weights beside the model's other files."""
        path = self.model / "model.safetensors"
        save_file(weights_of(model, dtype), path)
        path.chmod(0o644)
