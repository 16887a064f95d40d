"""A run is held against the model that is shipped, figure by figure."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from memoserve_training import compare as module
from memoserve_training import tiny
from memoserve_training.__main__ import open_trainee
from memoserve_training.chat import ChatWords, Task
from memoserve_training.checkpoint import RunDirectory
from memoserve_training.compare import TOLERANCE, Figure, compare, figures
from memoserve_training.examples import Lesson
from memoserve_training.measure import Share
from memoserve_training.shape import Shape, Trainee
from memoserve_training.worlds import Kind, Split, WorldSettings
from tests.training.toys import write_box

WORLD = WorldSettings(kinds={Kind.ONE_HOP: 1.0}, relations=("code",), filler=0.0)
LESSON = Lesson(WORLD, trunk=40, branches=2, tasks={Task.ANSWER: 1.0})


@pytest.fixture
def model(tmp_path: Path) -> Path:
    run = RunDirectory(tmp_path / "run")
    shape = Shape(layers=2, hidden=32, heads=2, mlp=48, window=16, ratios=(2, 4))
    write_box(run.model, shape)
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


def test_the_weights_of_the_file_are_measured_in_the_held_out_world(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored = load_file(model / "model.safetensors")
    drawn = []

    def measured(
        trainee: Trainee, words: ChatWords, lesson: Lesson, ratio: int, *, documents: int, seed: int
    ) -> dict[str, Share]:
        state = trainee.model.state_dict()
        assert all(torch.equal(state[name], tensor) for name, tensor in stored.items())
        assert lesson == replace(LESSON, world=replace(WORLD, split=Split.HELD_OUT))
        drawn.append((documents, seed))
        return {"one": Share(1, 4), "two": Share(ratio, 8)}

    monkeypatch.setattr(tiny, "MEASURED", {"codes": LESSON})
    monkeypatch.setattr(module, "measure", measured)
    assert figures(model) == {
        Figure("codes", kind, ratio): share
        for ratio in (0, 2, 4)
        for kind, share in (("one", 0.25), ("two", ratio / 8))
    }
    assert drawn == [(module.DOCUMENTS, module.SEED)] * 3


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


def test_a_figure_that_only_one_model_has(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Missing in the new model it falls short, were it 0; what only the new one has does not."""
    both, extra = Figure("codes", "both", 4), Figure("codes", "extra", 4)
    measured = {Path("more"): {both: 0.9, extra: 0.0}, Path("less"): {both: 0.9}}
    monkeypatch.setattr(module, "figures", lambda model: measured[model])
    assert compare(Path("more"), Path("less"))
    line = capsys.readouterr().out.splitlines()[-1]
    assert line.split() == ["codes", "extra", "4", "0.00", "-"]
    assert not compare(Path("less"), Path("more"))
    line = capsys.readouterr().out.splitlines()[-1]
    assert line.split()[:5] == ["codes", "extra", "4", "-", "0.00"]
    assert "below" in line
