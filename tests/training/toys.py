"""A toy checkpoint with a tokenizer, and the stages of further training on it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import torch
from tokenizers import Tokenizer

from memoserve.models.loader import LoadedModel
from memoserve_training.base import Beacons, open_base, open_dialogue, prepare
from memoserve_training.chat import PROMPTS, Task
from memoserve_training.checkpoint import RunDirectory
from memoserve_training.data_files import ClueRow, PreferenceRow
from memoserve_training.masters import Masters, Trains, choose
from memoserve_training.preference import PreferenceObjective, PreferenceSettings
from memoserve_training.pretrain import PretrainObjective, PretrainSettings, batches_of, cut
from memoserve_training.reward import EndResult
from memoserve_training.sampling import Draws
from memoserve_training.sft import SftObjective, SftSettings, by_context
from memoserve_training.shape import Shape
from memoserve_training.tuning import Objective, Pace, Tuner
from memoserve_training.vocabulary import train_tokenizer, write_json, write_tokenizer
from memoserve_training.worlds import Span, WorldSettings, make_document
from tests.server.fixtures import random_tensors, tiny_config, write_checkpoint

WINDOW = 16
TEXT = "The cat sat on the mat and the dog sat on the log. " * 8
WORLD = WorldSettings(words=40, questions=2)
ROWS = [
    ClueRow("A cat sat on the mat.", Task.SPAN, "Where is the cat?", "sat on the mat"),
    ClueRow("A dog sat on the log.", Task.SPAN, "Where is the dog?", "on the log"),
    ClueRow("A cat sat on the mat.", Task.ANSWER, "Where is it?", "the mat"),
    ClueRow("A cat sat on the mat.", Task.KEY_POINT, "", "A cat.\nA mat."),
]
STAGES = ("pretrain", "sft", "preference")


@cache
def toy_tokenizer() -> Tokenizer:
    """Bytes and little more."""
    return train_tokenizer([TEXT], 280)


def write_toy(directory: Path, family: str = "qwen2", shards: int = 1, **changes: Any) -> Path:
    """A plain base model: no beacon field, no beacon tensor."""
    tokenizer = toy_tokenizer()
    config = tiny_config(family, vocab_size=tokenizer.get_vocab_size(), **changes)
    tensors = {n: t for n, t in random_tensors(config).items() if "beacon_" not in n}
    config = {name: value for name, value in config.items() if not name.startswith("beacon_")}
    write_checkpoint(directory, config, tensors, shards)
    write_tokenizer(tokenizer, directory)
    return directory


def write_box(directory: Path, shape: Shape) -> Path:
    """A directory as the model in the box has it, its weights left out: names, prompts, shape."""
    directory.mkdir(parents=True, exist_ok=True)
    rng = Random(0)
    texts = [make_document(rng, WorldSettings(words=200)).text for _ in range(50)]
    tokenizer = train_tokenizer([*texts, *["quote: answer: ok\n"] * 60], 512)
    write_tokenizer(tokenizer, directory)
    write_json(directory / "memoserve_prompts.json", PROMPTS)
    write_json(directory / "config.json", shape.config(tokenizer.get_vocab_size(), 2))
    return directory


@dataclass(frozen=True)
class Opened:
    """A run that is laid out, with its model."""

    run: RunDirectory
    loaded: LoadedModel
    masters: Masters
    trains: Trains

    def tuner(self, objective: Objective, pace: Pace) -> Tuner:
        return Tuner(self.loaded, self.masters, objective, pace, self.run)

    def rows(self) -> list[dict[str, Any]]:
        """Lines of losses.csv, without the time they were written at."""
        heading, *lines = (
            line.split(",") for line in self.run.losses.read_text(encoding="utf-8").splitlines()
        )
        rows = [dict(zip(heading, line, strict=True)) for line in lines]
        return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]


def open_run(
    path: Path,
    base: Path,
    trains: Trains = Trains.BEACONS,
    dtype: str = "float32",
    ratios: tuple[int, ...] = (2, 4),
) -> Opened:
    """Lay a run out on ``base`` with small windows."""
    run = RunDirectory(path)
    prepare(run, base, dtype, Beacons(window=WINDOW, ratios=ratios))
    loaded = open_base(run, dtype, torch.device("cpu"))
    return Opened(run, loaded, Masters(choose(loaded.model, trains)), trains)


def make_objective(stage: str, opened: Opened) -> Objective:
    """A stage with very little to learn from."""
    loaded = opened.loaded
    if stage == "pretrain":
        ids = toy_tokenizer().encode(TEXT).ids
        batches = batches_of(cut([ids], 3 * WINDOW, WINDOW), 2)
        return PretrainObjective(loaded, batches, PretrainSettings(3 * WINDOW, 2))
    words = open_dialogue(opened.run)
    if stage == "sft":
        groups = by_context(ROWS, 4)
        return SftObjective(loaded, words, groups, SftSettings(branches=4))
    context = "A cat. A dog. A bird. A fish. A mouse."
    rows = [PreferenceRow(context, "Who?", (Span(7, 13),), "bird")]
    settings = PreferenceSettings(draws=Draws(samples=3, most=6))
    reward = EndResult(ranker=by_length, passage_words=2, top_k=1)
    reference = opened.masters.copies()
    return PreferenceObjective(loaded, words, rows, reward, reference, settings)


def by_length(query: str, passages: list[str] | Any) -> list[float]:
    """A ranker that noise can please: which passage is best hangs on the length of the query."""
    return [1.0 + (i * 7 + len(query)) % 5 for i in range(len(passages))]


def trained_bytes(run: RunDirectory) -> dict[str, bytes]:
    """All that a run leaves behind but the clock."""
    state = json.loads((run.path / "last" / "training.json").read_text(encoding="utf-8"))
    files = ("last/model.safetensors", "last/training.safetensors", "model/model.safetensors")
    return {
        "state": json.dumps(state).encode(),
        **{name: (run.path / name).read_bytes() for name in files},
    }
