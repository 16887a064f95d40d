"""A batch in parts has the gradients of the whole batch."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest
import torch

from memoserve_training.__main__ import open_trainee
from memoserve_training.chat import open_words
from memoserve_training.curriculum import Stage
from memoserve_training.examples import Lesson, draw_batch
from memoserve_training.loss import written_loss
from memoserve_training.shape import Shape
from memoserve_training.shards import Shards, parts_of
from memoserve_training.trainer import lay_out
from memoserve_training.worlds import Kind, WorldSettings
from tests.training.toys import write_box

WORLD = WorldSettings(kinds={Kind.ONE_HOP: 1.0}, filler=0.0, wordings=1)
LESSON = Lesson(WORLD, trunk=40, branches=3)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    shape = Shape(layers=2, hidden=32, heads=2, mlp=48, window=16, ratios=(2, 4))
    return write_box(tmp_path_factory.mktemp("toy"), shape)


@pytest.mark.parametrize(("documents", "lent"), [(1, 1), (5, 1), (6, 2), (6, 3), (4, 4)])
def test_gradients_of_the_parts_are_those_of_the_whole(
    directory: Path, documents: int, lent: int
) -> None:
    trainee, words = open_trainee(directory, seed=3), open_words(directory)
    stage = Stage("s", (LESSON,), 16, {2: 1.0}, lent=lent)
    batch = draw_batch(Random(1), words, LESSON, documents)
    drawn = lay_out(Random(1), trainee, stage, batch, lent)
    model = trainee.model
    whole = written_loss(model, drawn.tree, batch, drawn.attend)
    whole.loss.backward()
    wanted = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    outcome = Shards(model).descend(drawn.tree, batch, drawn.attend, lent)
    assert outcome.loss.item() == pytest.approx(whole.loss.item(), rel=1e-5)
    assert torch.equal(outcome.right, whole.right)
    found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert found.keys() == wanted.keys()
    for name, gradient in wanted.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-3, atol=1e-6, msg=name)


def test_parts_keep_those_together_who_lend_each_other_memories(directory: Path) -> None:
    batch = draw_batch(Random(1), open_words(directory), LESSON, 6)
    assert [len(part.targets) for part in parts_of(batch, 1)] == [3, 3]
    assert [len(part.targets) for part in parts_of(batch, 2)] == [4, 2]
    assert [len(part.targets) for part in parts_of(batch, 6)] == [6]


@pytest.mark.parametrize("silent", [slice(2), slice(2, 4)])
def test_a_part_that_asks_nothing_is_refused(directory: Path, silent: slice) -> None:
    trainee = open_trainee(directory, seed=3)
    batch = draw_batch(Random(1), open_words(directory), LESSON, 4)
    drawn = lay_out(Random(1), trainee, Stage("s", (LESSON,), 16, {2: 1.0}), batch, 1)
    batch.targets[silent] = -1
    with pytest.raises(ValueError, match="asks nothing"):
        Shards(trainee.model).descend(drawn.tree, batch, drawn.attend, 1)
    assert all(parameter.grad is None for parameter in trainee.model.parameters())
