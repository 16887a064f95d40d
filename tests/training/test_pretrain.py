"""Pretraining of beacon parameters on a frozen base."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

from memoserve.errors import InvalidArgument
from memoserve.models.loader import load_model
from memoserve_training import pretrain
from memoserve_training.base import Beacons, prepare
from memoserve_training.batch import TreeIds, forward_batch
from memoserve_training.branches import attend_to
from memoserve_training.checkpoint import RunDirectory
from memoserve_training.commands import run_main
from memoserve_training.data_files import BadRow, read_texts
from memoserve_training.pretrain import PretrainObjective, PretrainSettings, batches_of, cut
from memoserve_training.tuning import Pace, draw_ratios, rng_of
from tests.training.toys import TEXT, WINDOW, make_objective, open_run, write_toy


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_toy(tmp_path_factory.mktemp("base"))


def test_the_loss_falls(base: Path, tmp_path: Path) -> None:
    opened = open_run(tmp_path, base)
    objective = make_objective("pretrain", opened)

    def loss() -> float:
        parts = [objective.part(number) for number in range(4)]
        return sum(part.loss.item() for part in parts if part.loss is not None) / 4

    before = loss()
    opened.tuner(objective, Pace(steps=20, rate=0.04)).train()
    assert loss() < 0.95 * before


def test_the_loss_is_that_of_rows_that_read_memory(base: Path, tmp_path: Path) -> None:
    """Tokens that rows of the second window and later ones predict, each weighing the same."""
    opened = open_run(tmp_path, base)
    batch = torch.stack([torch.arange(3, 53), torch.arange(103, 153)])  # three windows and two
    settings = PretrainSettings(50, 2)
    objective = PretrainObjective(opened.loaded, [batch], settings)
    ids = TreeIds.of_trunks(batch)
    plan, attend = attend_to(opened.loaded, ids, draw_ratios(rng_of(1, 5), opened.loaded, 50))
    with torch.no_grad():
        logits = opened.loaded.model(forward_batch(plan, ids, attend)).unflatten(0, (2, 50))
        part = objective.part(5)
    likely = logits.log_softmax(dim=-1)
    wanted = [-likely[i, t, batch[i, t + 1]].item() for i in range(2) for t in range(WINDOW, 49)]
    assert part.loss is not None and part.tokens == 100
    assert part.loss.item() == pytest.approx(sum(wanted) / len(wanted), rel=1e-5)


def test_logits_in_portions(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = open_run(tmp_path, base)
    losses = []
    for rows in (1024, 7):
        monkeypatch.setattr(pretrain, "HEAD_ROWS", rows)
        loss = make_objective("pretrain", opened).part(0).loss
        assert loss is not None
        losses.append(loss.item())
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


def test_detached_windows_change_the_gradients_alone(base: Path, tmp_path: Path) -> None:
    opened = open_run(tmp_path, base)
    batches = [torch.arange(3, 67)[None]]
    losses, gradients = [], []
    for detach in (None, 0):
        objective = PretrainObjective(
            opened.loaded, batches, PretrainSettings(64, detach_after=detach)
        )
        loss = objective.part(0).loss
        assert loss is not None
        loss.backward()
        losses.append(loss.item())
        weight = opened.loaded.model.model.beacon_embed_tokens.weight
        assert weight.grad is not None
        gradients.append(weight.grad.clone())
        opened.loaded.model.zero_grad()
    assert losses[0] == losses[1]
    assert not torch.allclose(gradients[0], gradients[1])


def test_documents_are_cut_at_lengths_and_windows() -> None:
    documents = [range(25), range(100, 107), range(200, 210), range(300, 308)]
    pieces = [piece.tolist() for piece in cut(documents, 10, 4)]
    # Of a rest whole windows of 4, where there are two of them.
    assert pieces == [
        list(range(10)),
        list(range(10, 20)),
        list(range(200, 210)),
        list(range(300, 308)),
    ]
    batches = batches_of(cut(documents, 10, 4), 2)
    assert [list(batch.shape) for batch in batches] == [[1, 8], [2, 10], [1, 10]]
    with pytest.raises(ValueError, match="two windows"):
        cut(documents, 7, 4)


def test_texts(tmp_path: Path) -> None:
    plain, lines = tmp_path / "a.txt", tmp_path / "a.jsonl"
    plain.write_text('{"text": "no row"}\n\nmore', encoding="utf-8")
    assert list(read_texts(plain)) == ['{"text": "no row"}\n\nmore']
    lines.write_text('{"text": "one"}\n\n{"text": "two", "id": 3}\n', encoding="utf-8")
    assert list(read_texts(lines)) == ["one", "two"]
    for bad, message in [
        ("{", "a.jsonl:2: not JSON"),
        ("[1]", "a.jsonl:2: not a JSON object"),
        ('{"text": 3}', "a.jsonl:2: text is no string"),
        ('{"text": " "}', "a.jsonl:2: text is empty"),
    ]:
        lines.write_text('{"text": "one"}\n' + bad, encoding="utf-8")
        with pytest.raises(BadRow, match=message):
            list(read_texts(lines))


def test_a_plain_base_gets_beacon_fields(base: Path, tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "run")
    prepare(run, base, "float32", Beacons())
    config = json.loads((run.model / "config.json").read_text(encoding="utf-8"))
    assert (config["beacon_window"], config["beacon_ratio"]) == (2048, [2, 4, 8])
    assert config["beacon_param"] == ["q", "k", "v"]
    # A checkpoint that has them keeps those that are not named.
    again = RunDirectory(tmp_path / "again")
    prepare(again, run.model, "bfloat16", Beacons(ratios=(16,)))
    changed = json.loads((again.model / "config.json").read_text(encoding="utf-8"))
    assert changed == config | {"beacon_ratio": [16], "torch_dtype": "bfloat16"}
    with pytest.raises(InvalidArgument, match="beacon_param"):
        prepare(RunDirectory(tmp_path / "bad"), base, "float32", Beacons(projections=("x",)))


def run_command(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["pretrain", *map(str, arguments)])
    return pretrain.main()


@pytest.mark.parametrize("family", ["llama", "mistral"])
def test_the_command(family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Begins on a plain base, ends its slice, goes on, refuses other settings."""
    base, texts, run = write_toy(tmp_path / "base", family), tmp_path / "t.txt", tmp_path / "run"
    texts.write_text(TEXT, encoding="utf-8")
    common = ("--model", base, "--texts", texts, "--run", run, "--window", 16, "--ratios", "2,4")
    short = ("--length", 48, "--steps", 2, "--warmup", 0)
    assert run_command(monkeypatch, *common, *short, "--minutes", 0) == 3
    assert run_command(monkeypatch, *common, *short, "--recompute") == 0
    served = load_model(str(run / "model"))
    beacon = served.model.model.beacon_embed_tokens.weight
    assert not torch.equal(beacon[0], served.model.model.embed_tokens.weight[2])
    with pytest.raises(ValueError, match=r"begun with other settings: rate was 5e-05"):
        run_command(monkeypatch, *common, *short, "--rate", 1e-3)


def test_nothing_is_learned_without_a_beacon(base: Path, tmp_path: Path) -> None:
    """At ratio 0 a memory is raw rows: a step over it moves nothing, and is no error."""
    opened = open_run(tmp_path, base, ratios=(0,))
    before = opened.masters.copies()
    opened.tuner(make_objective("pretrain", opened), Pace(steps=1, rate=1.0)).train()
    assert all(torch.equal(now, before[n]) for n, now in opened.masters.copies().items())


def test_what_a_user_got_wrong_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    def fails() -> int:
        raise BadRow("rows.jsonl:3: text is empty")

    assert run_main(fails) == 2
    assert capsys.readouterr().err == "error: rows.jsonl:3: text is empty\n"
    assert run_main(lambda: 3) == 3
