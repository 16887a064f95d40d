"""The loop: it learns, it goes on where it was stopped, and what it leaves is a model directory."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
import torch

from memoserve.models.loader import load_model
from memoserve.models.tokenizer import TextTokenizer
from memoserve_training.__main__ import open_trainee
from memoserve_training.chat import ChatWords, Task, open_words
from memoserve_training.checkpoint import RunDirectory
from memoserve_training.curriculum import Progress, Stage, rate_factor
from memoserve_training.examples import Lesson, draw_batch
from memoserve_training.measure import measure
from memoserve_training.optim import Optimizers, Rates
from memoserve_training.shape import Shape
from memoserve_training.trainer import StageMissed, Trainer
from memoserve_training.worlds import Kind, WorldSettings
from tests.training.toys import write_box

WORLD = WorldSettings(
    kinds={Kind.ONE_HOP: 1.0}, relations=("code",), filler=0.0, distractors=0.0, wordings=1
)
LESSON = Lesson(WORLD, trunk=48, branches=4, tasks={Task.ANSWER: 1.0, Task.SPAN: 1.0})
SHAPE = Shape(layers=2, hidden=32, heads=2, mlp=48, window=16, ratios=(2, 4))
STAGE = Stage(
    "toy", (LESSON,), 16, {2: 1.0, 4: 1.0}, threshold=2.0, at_most=20_000, mixed=0.5, span=200,
    lent=2, batch_tokens=512,
)  # fmt: skip


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_box(tmp_path_factory.mktemp("toy"), SHAPE)


@pytest.fixture(scope="module")
def words(directory: Path) -> ChatWords:
    return open_words(directory)


def trainer(directory: Path, words: ChatWords, run: Path, *stages: Stage) -> Trainer:
    trainee = open_trainee(directory, seed=3)
    optimizers = Optimizers(trainee.model.named_parameters(), Rates())
    return Trainer(trainee, words, stages or (STAGE,), optimizers, RunDirectory(run), seed=3)


def weights(trained: Trainer) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in trained.trainee.model.state_dict().items()}


def test_the_loss_falls(directory: Path, words: ChatWords, tmp_path: Path) -> None:
    untaught = trainer(directory, words, tmp_path / "run", replace(STAGE, at_most=80_000))
    before = untaught.loss_on(LESSON, ratio=4, documents=8, seed=5)
    untaught.train()
    assert untaught.loss_on(LESSON, ratio=4, documents=8, seed=5) < 0.8 * before


def test_a_stopped_run_goes_on_bit_for_bit(
    directory: Path, words: ChatWords, tmp_path: Path
) -> None:
    whole = trainer(directory, words, tmp_path / "whole")
    assert whole.train()
    slices = 0
    while True:
        sliced = trainer(directory, words, tmp_path / "sliced")
        slices += 1
        if sliced.train(steps=6):
            break
    assert slices > 2
    assert sliced.progress == whole.progress
    found, wanted = weights(sliced), weights(whole)
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


def test_a_kill_while_saving_leaves_a_state(
    directory: Path, words: ChatWords, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    trained = trainer(directory, words, run)
    trained.train(steps=2)
    rename, calls = Path.rename, 0

    def dying(path: Path, target: Path) -> Path:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise KeyboardInterrupt
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", dying)
    with pytest.raises(KeyboardInterrupt):
        trained.train(steps=2)
    monkeypatch.undo()
    again = trainer(directory, words, run)
    assert again.progress.step == 2
    again.train(steps=1)
    assert trainer(directory, words, run).progress.step == 3


def test_a_stage_that_others_need_may_not_be_missed(
    directory: Path, words: ChatWords, tmp_path: Path
) -> None:
    hopeless = Stage("hopeless", (LESSON,), 16, {4: 1.0}, at_most=1, stop_if_missed=True)
    with pytest.raises(StageMissed, match="hopeless"):
        trainer(directory, words, tmp_path, hopeless).train()


def test_what_is_exported_is_a_model_directory(
    directory: Path, words: ChatWords, tmp_path: Path
) -> None:
    trained = trainer(directory, words, tmp_path)
    run = RunDirectory(tmp_path)
    run.model.mkdir()
    for file in directory.iterdir():
        (run.model / file.name).write_bytes(file.read_bytes())
    run.export(trained.trainee.model, torch.float32)
    loaded = load_model(str(run.model), dtype="float32")
    for name, value in trained.trainee.model.state_dict().items():
        assert torch.equal(loaded.model.state_dict()[name], value), name
    assert TextTokenizer.from_directory(run.model).eos_id == 2


def test_the_targets_are_what_is_written(words: ChatWords) -> None:
    rng = Random(1)
    batch = draw_batch(rng, words, LESSON, 3)
    assert batch.ids.trunk.shape == (3, 48)
    document, branch = batch.ids.trunk[0], batch.ids.branches[0, 0]
    written = batch.targets[0, 0]
    at = int((written >= 0).nonzero()[0])
    answer = written[written >= 0]
    assert torch.equal(branch[at + 1 : at + 1 + len(answer)], answer)
    assert answer[-1] == words.text.eos_id
    text = words.text.decode(answer.tolist()).strip()
    assert text in words.text.decode(document.tolist()), "the document says it"


def test_the_rates_warm_up_and_decay() -> None:
    stage = Stage("s", (LESSON,), 16, {4: 1.0}, at_most=1000, decay=0.5, rate=0.8)
    at = [rate_factor(stage, Progress(step=step, stage_tokens=t)) for step, t in
          ((0, 0), (24, 0), (100, 400), (100, 750), (100, 1000))]  # fmt: skip
    assert at == pytest.approx([0.8 / 50, 0.4, 0.8, 0.4, 0.8 * 0.02])


def test_measuring_asks_every_kind(directory: Path, words: ChatWords) -> None:
    trainee = open_trainee(directory, seed=3)
    shares = measure(trainee, words, LESSON, 4, documents=8, seed=1)
    assert set(shares) == {"one_hop/draft_answer", "one_hop/span"}
    assert sum(share.asked for share in shares.values()) > 8
