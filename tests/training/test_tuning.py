"""What holds for every stage of further training."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from memoserve.memory.window import RatioSchedule
from memoserve.models.loader import load_model
from memoserve_training.base import open_base
from memoserve_training.batch import TreeIds, forward_batch
from memoserve_training.branches import attend_to
from memoserve_training.masters import Masters, Trains, choose, recompute_layers
from memoserve_training.tuning import Pace, Part, Shuffled, draw_ratios, rng_of
from tests.training.toys import (
    STAGES,
    make_objective,
    open_run,
    trained_bytes,
    write_toy,
)

PACE = Pace(steps=4, rate=0.01, accumulate=2, warmup=1, save_steps=3, log_steps=1)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_toy(tmp_path_factory.mktemp("base"), shards=2)


@pytest.mark.parametrize("stage", STAGES)
def test_stopped_and_gone_on_with_is_unstopped(stage: str, base: Path, tmp_path: Path) -> None:
    whole = open_run(tmp_path / "whole", base)
    assert whole.tuner(make_objective(stage, whole), PACE).train()
    for steps in (1, 0, 2, None):
        part = open_run(tmp_path / "parts", base)
        done = part.tuner(make_objective(stage, part), PACE).train(steps=steps)
    assert done
    assert trained_bytes(part.run) == trained_bytes(whole.run)
    assert part.rows() == whole.rows()
    assert [row["step"] for row in whole.rows()] == ["1", "2", "3", "4"]


def test_a_killed_run_goes_on_from_its_last_save(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = open_run(tmp_path / "whole", base)
    whole.tuner(make_objective("pretrain", whole), PACE).train()
    killed = open_run(tmp_path / "killed", base)
    objective = make_objective("pretrain", killed)
    part = objective.part

    def dies(number: int) -> Part:
        if number == 7:  # in the last step, one behind the last save
            raise KeyboardInterrupt
        return part(number)

    monkeypatch.setattr(objective, "part", dies)
    with pytest.raises(KeyboardInterrupt):
        killed.tuner(objective, PACE).train()
    # Rows of steps that were not saved are written again, not twice.
    with killed.run.losses.open("a", encoding="utf-8") as file:
        file.write("4" + "," * (len(whole.rows()[0])) + "\n")
    again = open_run(tmp_path / "killed", base)
    assert again.tuner(make_objective("pretrain", again), PACE).train()
    assert trained_bytes(again.run) == trained_bytes(whole.run)
    assert again.rows() == whole.rows()


@pytest.mark.parametrize(
    ("stage", "trains"),
    [
        *((stage, Trains.BEACONS) for stage in STAGES),
        ("sft", Trains.ALL),
        ("preference", Trains.ALL),
    ],
)
def test_only_what_is_chosen_moves(stage: str, trains: Trains, base: Path, tmp_path: Path) -> None:
    opened = open_run(tmp_path, base, trains)
    before = {name: p.detach().clone() for name, p in opened.loaded.model.named_parameters()}
    opened.tuner(make_objective(stage, opened), PACE).train(steps=2)
    after = load_file(opened.run.model / "model.safetensors")
    moved = {name for name, was in before.items() if not torch.equal(was, after[name])}
    beacons = {name for name in before if "beacon_" in name}
    # A query of beacons in the last layer asks for nobody, and its neighbours' keys do not see it.
    silent = {name for name in beacons if "layers.1.self_attn.beacon_q" in name}
    assert beacons - silent <= moved
    assert moved <= beacons if trains is Trains.BEACONS else moved >= set(before) - silent


@pytest.mark.parametrize("stage", STAGES)
def test_a_server_loads_what_was_trained(stage: str, base: Path, tmp_path: Path) -> None:
    """Under the published names, from the run's folder alone, with the same logits."""
    opened = open_run(tmp_path, base)
    opened.tuner(make_objective(stage, opened), PACE).train(steps=1)
    served = load_model(str(opened.run.model))
    assert "model.layers.1.self_attn.beacon_k_proj.bias" in load_file(
        opened.run.model / "model.safetensors"
    )
    assert served.config.beacon == opened.loaded.config.beacon
    ids = TreeIds.of_trunks(torch.arange(3, 60)[None])
    logits = []
    for loaded in (served, opened.loaded):
        plan, attend = attend_to(loaded, ids, RatioSchedule((4,)))
        with torch.no_grad():
            logits.append(loaded.model(forward_batch(plan, ids, attend)))
    assert torch.equal(*logits)
    assert (opened.run.model / "tokenizer.json").is_file()
    assert not (opened.run.model / "model.safetensors.index.json").exists()


@pytest.mark.parametrize("stage", STAGES)
def test_recomputed_layers_give_the_same_gradients(stage: str, base: Path, tmp_path: Path) -> None:
    gradients = []
    for name, recompute in (("kept", False), ("again", True)):
        opened = open_run(tmp_path / name, base)
        if recompute:
            recompute_layers(opened.loaded.model)
        objective = make_objective(stage, opened)
        losses = (objective.part(number).loss for number in range(8))
        loss = next(loss for loss in losses if loss is not None)
        ran: list[str] = []
        mlp = opened.loaded.model.get_submodule("model.layers.0.mlp")
        mlp.register_forward_pre_hook(lambda *_: ran.append(name))  # noqa: B023  (called in this turn)
        loss.backward()
        assert ran == (["again"] if recompute else [])
        named = opened.loaded.model.named_parameters()
        gradients.append({name: p.grad for name, p in named if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys() and gradients[0]
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][name], rtol=1e-6, atol=1e-9)


def test_masters_keep_what_bfloat16_would_lose(base: Path, tmp_path: Path) -> None:
    """Steps of a thousandth of a weight, each of them below what bfloat16 can tell from it."""
    opened = open_run(tmp_path, base, dtype="bfloat16")
    weight = dict(opened.loaded.model.named_parameters())["model.beacon_embed_tokens.weight"]
    with torch.no_grad():
        weight.fill_(1.0)
    masters = Masters({"weight": weight})
    for _ in range(40):
        weight.grad = torch.ones_like(weight)
        masters.collect()
        masters.step(0.001, clip=1e9)
    assert weight.dtype == torch.bfloat16
    torch.testing.assert_close(
        masters.weights()["weight"], torch.full_like(weight, 0.96, dtype=torch.float32)
    )
    assert torch.equal(weight, torch.full_like(weight, 0.96))


def test_a_bfloat16_run_goes_on_bit_for_bit(base: Path, tmp_path: Path) -> None:
    runs = []
    for name, slices in (("whole", [None]), ("parts", [1, None])):
        for steps in slices:
            opened = open_run(tmp_path / name, base, dtype="bfloat16")
            opened.tuner(make_objective("pretrain", opened), PACE).train(steps=steps)
        runs.append(trained_bytes(opened.run))
    assert runs[0] == runs[1]
    assert load_model(str(opened.run.model)).dtype == torch.bfloat16


def test_accumulated_batches_weigh_the_same(base: Path, tmp_path: Path) -> None:
    """A step over two batches moves by the mean of their gradients."""
    opened = open_run(tmp_path, base)
    objective = make_objective("pretrain", opened)
    chosen = choose(opened.loaded.model, Trains.BEACONS)
    name = "model.beacon_embed_tokens.weight"
    separate = []
    for number in (0, 1):
        loss = objective.part(number).loss
        assert loss is not None
        loss.backward()
        gradient = chosen[name].grad
        assert gradient is not None
        separate.append(gradient.clone())
        opened.loaded.model.zero_grad()
    seen: list[torch.Tensor] = []
    masters = Masters(chosen)
    step = masters.step

    def record(rate: float, clip: float) -> None:
        gradient = chosen[name].grad
        assert gradient is not None
        seen.append(gradient.clone())
        step(rate, clip)

    masters.step = record  # type: ignore[method-assign]
    type(opened)(opened.run, opened.loaded, masters, opened.trains).tuner(objective, PACE).train(
        steps=1
    )
    torch.testing.assert_close(seen[0], (separate[0] + separate[1]) / 2)


def test_batches_come_in_their_order(base: Path, tmp_path: Path) -> None:
    """Each once, over slices too; a step without anything to learn from moves nothing."""
    numbers: list[int] = []

    class Counts:
        figures: tuple[str, ...] = ()

        def part(self, number: int) -> Part:
            numbers.append(number)
            return Part(None, 3)

    for steps in (1, None):
        opened = open_run(tmp_path, base)
        before = opened.masters.copies()
        tuner = opened.tuner(Counts(), PACE)
        tuner.train(steps=steps)
        assert all(torch.equal(now, before[n]) for n, now in opened.masters.copies().items())
    assert numbers == list(range(8))
    assert tuner.progress.tokens == 24


def test_other_parameters_are_refused(base: Path, tmp_path: Path) -> None:
    opened = open_run(tmp_path, base)
    opened.tuner(make_objective("sft", opened), PACE).train(steps=1)
    everything = open_run(tmp_path, base, Trains.ALL)
    with pytest.raises(ValueError, match="trains other parameters"):
        everything.tuner(make_objective("sft", everything), PACE)


def test_kernels_without_gradients_are_refused(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = open_run(tmp_path, base)
    monkeypatch.setenv("MEMOSERVE_BACKEND", "triton")
    with pytest.raises(ValueError, match="no gradients"):
        open_base(opened.run, "float32", torch.device("cpu"))


def test_the_rate_rises_and_falls() -> None:
    pace = Pace(steps=10, rate=1.0, warmup=4)
    rates = [pace.rate_at(step) for step in range(10)]
    assert rates[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert rates[5:] == pytest.approx([5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6])
    with pytest.raises(ValueError, match="accumulate"):
        Pace(steps=1, rate=1.0, accumulate=0)


def test_every_epoch_sees_everything_once() -> None:
    order = Shuffled(7, seed=3)
    epochs = [[order.at(7 * epoch + i) for i in range(7)] for epoch in range(3)]
    assert all(sorted(epoch) == list(range(7)) for epoch in epochs)
    assert epochs[0] != epochs[1]
    assert [Shuffled(7, seed=3).at(i) for i in (15, 2)] == [epochs[2][1], epochs[0][2]]
    with pytest.raises(ValueError, match="nothing to train on"):
        Shuffled(0, seed=3)


def test_every_window_draws_a_ratio_that_divides_it(base: Path, tmp_path: Path) -> None:
    opened = open_run(tmp_path, base)
    drawn = draw_ratios(rng_of(1, 0), opened.loaded, 16 * 200)
    assert len(drawn.ratios) == 201
    shares = np.bincount(drawn.ratios)[[2, 4]] / 201
    assert shares.sum() == 1 and shares.min() > 0.35
