"""Train the model in the box: ``python -m memoserve_training --run runs/tiny``.

Stopped (Ctrl-C) and started again it goes on where it was; ``--minutes`` ends a slice.
"""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path

import torch

from memoserve_training import tiny
from memoserve_training.chat import PROMPTS, open_words
from memoserve_training.checkpoint import RunDirectory
from memoserve_training.compare import compare
from memoserve_training.optim import Optimizers, Rates
from memoserve_training.shape import Trainee, build
from memoserve_training.start import initialise
from memoserve_training.trainer import StageMissed, Trainer
from memoserve_training.vocabulary import END, train_tokenizer, write_json, write_tokenizer


def prepare(run: RunDirectory, seed: int) -> None:
    """Write what a run needs before its first step: tokenizer, prompts, config.json."""
    if (run.model / "config.json").is_file():
        return
    tokenizer = train_tokenizer(tiny.vocabulary_texts(seed), tiny.VOCAB_SIZE)
    write_tokenizer(tokenizer, run.model)
    write_json(run.model / "memoserve_prompts.json", PROMPTS)
    end = tokenizer.token_to_id(END)
    assert end is not None  # a special token of it
    write_json(run.model / "config.json", tiny.SHAPE.config(tokenizer.get_vocab_size(), end))


def open_trainee(model: Path, seed: int) -> Trainee:
    """Modules for a model directory, with first weights."""
    trainee = build(model)
    initialise(trainee.model, trainee.config, trainee.rope, seed)
    return trainee


def main() -> int:
    """Train; 0 when the curriculum is done, 3 when the slice ended before it, 1 when it failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, default=Path("runs/tiny"))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--minutes", type=float, help="end this slice after so long")
    parser.add_argument(
        "--compare", type=Path, help="in the end, held-out figures beside those of this model"
    )
    arguments = parser.parse_args()
    if arguments.compare and not (arguments.compare / "model.safetensors").is_file():
        parser.error(f"--compare: {arguments.compare} holds no model.safetensors")
    torch.set_num_threads(1)  # the parts of a batch have a thread each
    run = RunDirectory(arguments.run)
    prepare(run, arguments.seed)
    trainee = open_trainee(run.model, arguments.seed)
    optimizers = Optimizers(trainee.model.named_parameters(), Rates())
    words = open_words(run.model)
    trainer = Trainer(trainee, words, tiny.STAGES, optimizers, run, arguments.seed)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: trainer.stop())
    try:
        done = trainer.train(arguments.minutes and arguments.minutes * 60)
    except StageMissed as error:
        print(f"not learned, another seed may: {error}", file=sys.stderr)
        return 1
    run.export(trainee.model)
    if not done:
        return 3
    return 0 if arguments.compare is None or compare(run.model, arguments.compare) else 1


if __name__ == "__main__":
    raise SystemExit(main())
