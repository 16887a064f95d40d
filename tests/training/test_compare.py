"""A run is held against the model that is shipped, figure by figure."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest
import torch

from memoserve_training import compare as module
from memoserve_training import tiny
from memoserve_training.__main__ import open_trainee
from memoserve_training.chat import PROMPTS, Task
from memoserve_training.checkpoint import RunDirectory
from memoserve_training.compare import TOLERANCE, Figure, compare, figures
from memoserve_training.examples import Lesson
from memoserve_training.shape import Shape
from memoserve_training.vocabulary import train_tokenizer, write_json, write_tokenizer
from memoserve_training.worlds import Kind, WorldSettings, make_document

WORLD = WorldSettings(kinds={Kind.ONE_HOP: 1.0}, relations=("code",), filler=0.0)
LESSON = Lesson(WORLD, trunk=40, branches=2, tasks={Task.ANSWER: 1.0})


@pytest.fixture
def model(tmp_path: Path) -> Path:
    run = RunDirectory(tmp_path / "run")
    run.model.mkdir(parents=True)
    rng = Random(0)
    texts = [make_document(rng, WorldSettings(words=200)).text for _ in range(30)]
    tokenizer = train_tokenizer([*texts, *["answer: ok\n"] * 60], 512)
    write_tokenizer(tokenizer, run.model)
    write_json(run.model / "memoserve_prompts.json", PROMPTS)
    shape = Shape(layers=2, hidden=32, heads=2, mlp=48, window=16, ratios=(2, 4))
    write_json(run.model / "config.json", shape.config(tokenizer.get_vocab_size(), 2))
    run.export(open_trainee(run.model, seed=3).model, torch.float32)
    return run.model


def test_every_lesson_is_measured_at_every_ratio(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiny, "MEASURED", {"codes": LESSON})
    monkeypatch.setattr(module, "DOCUMENTS", 8)
    found = figures(model)
    assert {(f.lesson, f.ratio) for f in found} == {("codes", 0), ("codes", 2), ("codes", 4)}
    assert all(0 <= share <= 1 for share in found.values())


def test_what_falls_short_by_more_than_the_tolerance_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    measured = {
        Path("new"): {Figure("codes", "a", 4): 0.80, Figure("codes", "b", 4): 0.99},
        Path("shipped"): {Figure("codes", "a", 4): 0.81, Figure("codes", "b", 4): 0.90},
    }
    monkeypatch.setattr(module, "figures", lambda model: measured[model])
    assert compare(Path("new"), Path("shipped"))
    assert "below" not in capsys.readouterr().out
    measured[Path("shipped")][Figure("codes", "a", 4)] = 0.81 + TOLERANCE
    assert not compare(Path("new"), Path("shipped"))
    assert capsys.readouterr().out.count("below") == 1
