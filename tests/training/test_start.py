"""First weights: what the first two layers do before anything is learned."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from memoserve.models.config import parse_config
from memoserve.models.layers import BeaconLM
from memoserve.models.rope import read_rope
from memoserve_training.circuit import BACK, BAG, BEACON_BACK, attentions_of, roomy
from memoserve_training.keys import Angles
from memoserve_training.shape import Shape, Trainee
from memoserve_training.start import initialise

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


@pytest.mark.parametrize(("prefix", "backs"), [("", BACK), ("beacon_", BEACON_BACK)])
def test_first_heads_look_at_the_rows_before(
    trainee: Trainee, prefix: str, backs: tuple[float, ...]
) -> None:
    """By their biases alone: each at its row, most of its weight there; the last over ten rows."""
    angles = torch.arange(60)[:, None] * trainee.rope.inv_freq.float()
    turns = Angles(angles.cos(), angles.sin())
    queries, keys = (
        turns.turn(
            weight(trainee, 0, f"{prefix}{x}_proj.bias").view(SHAPE.heads, 1, -1).expand(-1, 60, -1)
        )
        for x in "qk"
    )
    scores = (queries[:, -1:] @ keys.mT)[:, 0] / trainee.config.head_dim**0.5
    weights = scores.softmax(dim=-1).flip(-1)  # by rows back
    for head in range(BAG):
        assert int(weights[head].argmax()) == backs[head]
        assert weights[head].max() > 0.7
    assert weights[BAG, :11].sum() > 0.8
    assert weights[BAG].max() < 0.2


def rows_of(trainee: Trainee, tokens: Tensor, **brought: int) -> Tensor:
    """Rows ``[n, width]`` behind the first layer: tokens, and in ``slot_N`` those ``by`` before."""
    embedded = trainee.model.model.embed_tokens.weight.detach()[tokens]
    values = torch.nn.functional.rms_norm(embedded, (SHAPE.hidden,))
    values = values @ weight(trainee, 0, "v_proj.weight").T
    out = weight(trainee, 0, "o_proj.weight").T
    dim = trainee.config.head_dim
    rows = embedded.clone()
    for name, back in brought.items():
        head = slice(int(name[-1]) * dim, (int(name[-1]) + 1) * dim)
        rows += values.roll(back, dims=0)[:, head] @ out[head]
    return torch.nn.functional.rms_norm(rows, (SHAPE.hidden,))


@pytest.mark.parametrize("beacon", [False, True])
def test_second_heads_find_what_was_said_and_bring_what_came_behind(
    trainee: Trainee, beacon: bool
) -> None:
    """Asked with a token, the first head finds the row behind the same one, and brings its token.

    A beacon is found by the token 2 rows before it, and brings the one 1 row before.
    """
    tokens = torch.randperm(290, generator=torch.Generator().manual_seed(0))[:60]
    rows = rows_of(trainee, tokens, slot_0=1, slot_1=2)
    dim, name = trainee.config.head_dim, "beacon_" if beacon else ""
    query = rows @ weight(trainee, 1, "q_proj.weight")[:dim].T
    key = rows @ weight(trainee, 1, f"{name}k_proj.weight")[:dim].T
    back = 2 if beacon else 1
    bring = dim if beacon else 2 * dim  # the second head of beacons brings another token
    found = (query @ key.mT).argmax(dim=1)
    assert (found == (torch.arange(60) + back) % 60).float().mean() > 0.6
    values = rows @ weight(trainee, 1, f"{name}v_proj.weight")[:bring].T
    brought = values @ weight(trainee, 1, "o_proj.weight")[:, :bring].T
    half = SHAPE.hidden // 2
    heads = trainee.model.model.embed_tokens.weight.detach()[tokens, :half]
    best = (brought[:, :half] @ heads.mT).argmax(dim=1)
    expected = torch.arange(60).roll(1 if beacon else 0)
    # A beacon's head alone brings a quarter of a code: often enough to be learned from.
    assert (best == expected).float().mean() > (0.25 if beacon else 0.8)


def test_a_shape_without_room_begins_at_random() -> None:
    raw = Shape(layers=2, hidden=32, heads=2, mlp=48).config(vocab_size=300, end_id=2)
    config = parse_config(raw)
    model, rope = BeaconLM(config), read_rope(raw, config.head_dim, config.max_positions)
    initialise(model, config, rope, seed=1)
    assert not roomy(config)
    assert all(bool(value.isfinite().all()) for value in model.state_dict().values())


def test_beacons_begin_as_copies_but_where_the_circuit_finds_them(trainee: Trainee) -> None:
    for layer in range(len(attentions_of(trainee.model))):
        if layer == 1:
            continue
        if layer == 0:  # its queries look elsewhere
            assert torch.equal(
                weight(trainee, 0, "k_proj.bias"), weight(trainee, 0, "beacon_k_proj.bias")
            )
            continue
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
