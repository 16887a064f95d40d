"""First weights: what the first two layers do before anything is learned."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from memoserve.models.config import parse_config
from memoserve.models.layers import BeaconLM
from memoserve.models.rope import read_rope
from memoserve_training.keys import Angles
from memoserve_training.shape import Shape, Trainee
from memoserve_training.start import attentions_of, initialise

SHAPE = Shape(layers=3)


@pytest.fixture(scope="module")
def trainee() -> Trainee:
    raw = SHAPE.config(vocab_size=300, end_id=2)
    config = parse_config(raw)
    made = Trainee(BeaconLM(config), read_rope(raw, config.head_dim, config.max_positions))
    initialise(made.model, config, made.rope, seed=1)
    return made


def weight(trainee: Trainee, layer: int, name: str) -> Tensor:
    found: Tensor = trainee.model.state_dict()[f"model.layers.{layer}.self_attn.{name}"]
    return found


def test_first_heads_look_at_the_rows_before(trainee: Trainee) -> None:
    """By their biases alone: head h at the row h + 1 back, most of its weight there."""
    angles = torch.arange(40)[:, None] * trainee.rope.inv_freq.float()
    turns = Angles(angles.cos(), angles.sin())
    queries, keys = (
        turns.turn(weight(trainee, 0, f"{x}_proj.bias").view(SHAPE.heads, 1, -1).expand(-1, 40, -1))
        for x in "qk"
    )
    scores = (queries[:, -1:] @ keys.mT)[:, 0] / trainee.config.head_dim**0.5
    weights = scores.softmax(dim=-1)
    for head in range(SHAPE.heads):
        assert int(weights[head].argmax()) == 39 - (head + 1)
        assert weights[head].max() > 0.7


def test_second_heads_follow_what_was_said(trainee: Trainee) -> None:
    """A query that head h brought a token meets the key that head h + 1 brought the same one."""
    dim, heads = trainee.config.head_dim, SHAPE.heads
    tokens = torch.nn.functional.rms_norm(
        trainee.model.model.embed_tokens.weight, (SHAPE.hidden,)
    ).detach()
    values = tokens @ weight(trainee, 0, "v_proj.weight").view(heads, dim, -1).mT
    assert torch.equal(values[0], values[-1]), "all heads bring a token as the same values"
    out = weight(trainee, 0, "o_proj.weight").view(-1, heads, dim)
    brought = [values[h] @ out[:, h].T for h in range(heads)]
    query, key = (weight(trainee, 1, f"{x}_proj.weight").view(heads, dim, -1) for x in "qk")
    for head in range(heads - 1):
        scores = (brought[head] @ query[head].T) @ (brought[head + 1] @ key[head].T).T
        same, others = scores.diagonal(), scores[~torch.eye(len(scores), dtype=torch.bool)]
        assert same.mean() > others.mean() + 2 * others.std()


def test_beacons_begin_as_copies(trainee: Trainee) -> None:
    for layer in range(len(attentions_of(trainee.model))):
        for part in ("q_proj.weight", "k_proj.bias", "v_proj.weight"):
            assert torch.equal(
                weight(trainee, layer, part), weight(trainee, layer, f"beacon_{part}")
            )


def test_the_same_seed_gives_the_same_weights(trainee: Trainee) -> None:
    before = {name: value.clone() for name, value in trainee.model.state_dict().items()}
    initialise(trainee.model, trainee.config, trainee.rope, seed=2)
    assert not torch.equal(
        before["model.embed_tokens.weight"], trainee.model.model.embed_tokens.weight
    )
    initialise(trainee.model, trainee.config, trainee.rope, seed=1)
    after = trainee.model.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
