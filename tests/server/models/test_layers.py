"""The transformer over a plain dense attention: who goes through which projection."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from memoserve.models.batch import ForwardBatch, RowSplit, split_rows
from memoserve.models.config import parse_config
from memoserve.models.layers import BeaconLM, project
from memoserve.models.loader import build_model
from tests.server.fixtures import random_tensors, tiny_config

IDS = torch.tensor([5, 9, 0, 11, 30, 0])
FLAGS = torch.tensor([False, False, True, False, False, True])


def split_of(flags: Tensor) -> RowSplit:
    rows = split_rows(flags.numpy())
    assert rows is not None
    return RowSplit(*map(torch.from_numpy, rows))


class DenseAttend:
    """Causal attention over the rows themselves, un-rotated."""

    def __init__(self, rows: Tensor | None, layers: int) -> None:
        self.rows = rows
        self.last = layers - 1
        self.queries: list[int] = []

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        self.queries.append(q.shape[0])
        everyone = torch.arange(k.shape[0])
        rows = self.rows if layer == self.last and self.rows is not None else everyone
        keys, values = (x.repeat_interleave(q.shape[1] // x.shape[1], dim=1) for x in (k, v))
        scores = torch.einsum("qhd,khd->hqk", q, keys) / math.sqrt(q.shape[-1])
        scores = scores.masked_fill(everyone > rows[:, None], -math.inf)
        return torch.einsum("hqk,khd->qhd", scores.softmax(-1), values)


def model(**changes: Any) -> BeaconLM:
    config = tiny_config(**changes)
    return build_model(parse_config(config), random_tensors(config, dtype=torch.float64))


def run(lm: BeaconLM, rows: list[int] | None, ids: Tensor = IDS) -> tuple[Tensor, DenseAttend]:
    wanted = None if rows is None else torch.tensor(rows, dtype=torch.long)
    attend = DenseAttend(wanted, lm.config.num_layers)
    return lm(ForwardBatch(ids, split_of(FLAGS), wanted, attend)), attend


def test_row_split_undoes_itself() -> None:
    split = split_of(FLAGS)
    assert (split.raw.tolist(), split.beacon.tolist()) == ([0, 1, 3, 4], [2, 5])
    assert torch.cat([IDS[split.raw], IDS[split.beacon]])[split.merge].tolist() == IDS.tolist()
    assert split_rows(np.zeros(4, dtype=np.bool_)) is None


def test_each_row_goes_through_one_projection() -> None:
    raw, beacon = nn.Linear(3, 2), nn.Linear(3, 2)
    seen: dict[str, int] = {}
    for name, layer in (("raw", raw), ("beacon", beacon)):
        layer.register_forward_pre_hook(lambda _, x, n=name: seen.update({n: x[0].shape[0]}))
    x = torch.randn(6, 3)
    with torch.no_grad():
        out = project(x, raw, beacon, split_of(FLAGS))
    assert seen == {"raw": 4, "beacon": 2}
    with torch.no_grad():
        torch.testing.assert_close(out, torch.where(FLAGS[:, None], beacon(x), raw(x)))
        torch.testing.assert_close(project(x, raw, None, split_of(FLAGS)), raw(x))
        torch.testing.assert_close(project(x, raw, beacon, None), raw(x))


def test_beacon_rows_ignore_their_id() -> None:
    lm = model()
    other = IDS.clone()
    other[FLAGS] = 47
    assert torch.equal(run(lm, None)[0], run(lm, None, other)[0])


@pytest.mark.parametrize("param", [[], ["q"], ["k"], ["v"], ["o"], ["q", "k", "v", "o"]])
def test_only_named_projections_have_a_beacon_copy(param: list[str]) -> None:
    names = {n for n, _ in model(beacon_param=param).named_modules() if "beacon" in n}
    layers = {f"model.layers.{i}.self_attn.beacon_{p}_proj" for i in range(2) for p in param}
    assert names == layers | {"model.beacon_embed_tokens"}


def test_wanted_rows_have_the_logits_of_all_rows() -> None:
    lm = model(beacon_param=["q", "k", "v", "o"])
    everything, _ = run(lm, None)
    for rows in ([0, 1, 3, 4], [4], [1, 3]):
        logits, attend = run(lm, rows)
        torch.testing.assert_close(logits, everything[rows], atol=1e-12, rtol=1e-12)
        assert attend.queries == [6, len(rows)]


def test_no_wanted_row_runs_no_head() -> None:
    lm = model()

    def forbidden(*_: object) -> None:
        raise AssertionError("the head ran")

    lm.lm_head.register_forward_pre_hook(forbidden)
    logits, attend = run(lm, [])
    assert logits.shape == (0, 48)
    assert attend.queries == [6, 0]


def test_raw_rows_never_use_beacon_weights() -> None:
    """Up to the first beacon, nothing depends on any beacon tensor; from it on, all do."""
    lm = model()
    before, _ = run(lm, None)
    with torch.no_grad():
        for name, parameter in lm.named_parameters():
            if "beacon" in name:
                parameter.mul_(1.5)
    after, _ = run(lm, None)
    assert torch.equal(before[:2], after[:2])
    assert not torch.allclose(before[3], after[3])
