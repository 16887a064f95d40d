"""First weights: what the first two layers do before anything is learned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from memoserve.models.config import parse_config
from memoserve.models.layers import BeaconLM
from memoserve.models.rope import read_rope
from memoserve_training import start
from memoserve_training.circuit import BAG, attentions_of, roomy
from memoserve_training.keys import Angles
from memoserve_training.shape import Shape, Trainee
from memoserve_training.start import initialise

SHAPE = Shape(layers=3)
# Of a row: the token in the first half, then four slots. DIM: of a head.
HALF, EIGHTH, DIM = SHAPE.hidden // 2, SHAPE.hidden // 8, SHAPE.hidden // SHAPE.heads


def made(seed: int = 1) -> Trainee:
    raw = SHAPE.config(vocab_size=300, end_id=2)
    config = parse_config(raw)
    trainee = Trainee(BeaconLM(config), read_rope(raw, config.head_dim, config.max_positions))
    initialise(trainee.model, config, trainee.rope, seed)
    return trainee


@pytest.fixture(scope="module")
def trainee() -> Trainee:
    return made()


@pytest.fixture(scope="module")
def plain() -> Trainee:
    """The same random weights with no circuit laid over them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(start, "roomy", lambda config: False)
        return made()


def rows_of_head(head: int) -> slice:
    return slice(head * DIM, (head + 1) * DIM)


def weight(trainee: Trainee, layer: int, name: str) -> Tensor:
    found: Tensor = trainee.model.state_dict()[f"model.layers.{layer}.self_attn.{name}"]
    return found


@pytest.mark.parametrize(("prefix", "backs"), [("", (1, 2, 3)), ("beacon_", (1, 2, 4))])
def test_first_heads_look_at_the_rows_before(
    trainee: Trainee, prefix: str, backs: tuple[int, ...]
) -> None:
    """By their biases alone: each at its row, most of its weight there; the last over ten."""
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
    assert 3 <= int(weights[BAG].argmax()) <= 7


def embeddings(trainee: Trainee) -> Tensor:
    """``[vocab, half]``: what a token is, in the first half of a row."""
    table = trainee.model.model.embed_tokens.weight.detach()
    return torch.nn.functional.rms_norm(table[:, :HALF], (HALF,))


@pytest.fixture(scope="module")
def codes(trainee: Trainee, plain: Trainee) -> Tensor:
    """``[vocab, eighth]``: of every token, what the circuit has the first layer read of it."""
    laid = weight(trainee, 0, "v_proj.weight") - weight(plain, 0, "v_proj.weight")
    read = torch.nn.functional.normalize(laid[:EIGHTH, :HALF], dim=1)
    return embeddings(trainee) @ read.T


def test_slots_begin_almost_empty(trainee: Trainee) -> None:
    for table in (trainee.model.model.embed_tokens, trainee.model.model.beacon_embed_tokens):
        assert table.weight[:, HALF:].std() < 0.1 * table.weight[:, :HALF].std()


@pytest.mark.parametrize("prefix", ["", "beacon_"])
@pytest.mark.parametrize("head", range(4))
def test_first_heads_write_the_code_of_a_token_into_their_own_slot(
    trainee: Trainee, codes: Tensor, prefix: str, head: int
) -> None:
    rows = rows_of_head(head)
    values = embeddings(trainee) @ weight(trainee, 0, f"{prefix}v_proj.weight")[rows, :HALF].T
    written = values @ weight(trainee, 0, "o_proj.weight")[:, rows].T
    own = written[:, HALF + head * EIGHTH : HALF + (head + 1) * EIGHTH]
    assert own.square().sum() > 10 * (written.square().sum() - own.square().sum())
    assert torch.nn.functional.cosine_similarity(own, codes).mean() > 0.75


def rows_of(trainee: Trainee, codes: Tensor, own: Tensor, slots: Sequence[Tensor]) -> Tensor:
    """Normed rows ``[n, width]`` laid by hand: a token, and the codes of others in four slots."""
    rows = torch.cat([embeddings(trainee)[own], *(codes[slot] for slot in slots)], dim=1)
    return torch.nn.functional.rms_norm(rows, (SHAPE.hidden,))


@dataclass(frozen=True)
class Head:
    """Of the second layer: the slots where raw rows and beacons keep what it asks for.

    None where it does not ask for a token. ``brings``: the slot whose token beacons bring.
    """

    kept: int | None
    beacon: int | None
    bag: bool
    brings: int


SECOND = (
    Head(0, 1, False, 0),
    Head(0, 2, False, 1),
    Head(0, 1, True, 0),
    Head(None, None, True, 0),
)
WORDS = 8


def some_tokens(seed: int, count: int) -> Tensor:
    return torch.randperm(300, generator=torch.Generator().manual_seed(seed))[:count]


def scored(trainee: Trainee, codes: Tensor, head: int, prefix: str) -> tuple[Tensor, Tensor]:
    """Queries and keys ``[64, DIM]`` of a head of the second layer.

    A row for every word, asked for or kept where the head is to find it, and every bag; what else
    stands in the rows has nothing to do with it.
    """
    word = some_tokens(0, WORDS).repeat_interleave(WORDS)
    bag = some_tokens(1, WORDS).repeat(WORDS)
    others = [some_tokens(10 + n, WORDS * WORDS) for n in range(7)]
    slots = others[:3]
    slots[(SECOND[head].beacon if prefix else SECOND[head].kept) or 0] = word
    asking = rows_of(trainee, codes, word, [*others[3:6], bag])
    kept = rows_of(trainee, codes, others[6], [*slots, bag])
    rows = rows_of_head(head)
    queries = asking @ weight(trainee, 1, "q_proj.weight")[rows].T
    return queries, kept @ weight(trainee, 1, f"{prefix}k_proj.weight")[rows].T


@pytest.mark.parametrize("prefix", ["", "beacon_"])
@pytest.mark.parametrize("head", range(4))
def test_second_heads_find_the_row_that_was_told_what_is_asked(
    trainee: Trainee, codes: Tensor, prefix: str, head: int
) -> None:
    """By the token before a row, by its bag, or by both; what is not asked for has no say."""
    queries, keys = scored(trainee, codes, head, prefix)
    found, asking = (queries @ keys.T).argmax(dim=1), torch.arange(WORDS * WORDS)
    word = (found // WORDS == asking // WORDS).float().mean()
    bag = (found % WORDS == asking % WORDS).float().mean()
    assert word > 0.9 if SECOND[head].kept is not None else word < 0.4
    assert bag > 0.9 if SECOND[head].bag else bag < 0.4


@pytest.mark.parametrize("prefix", ["", "beacon_"])
@pytest.mark.parametrize(("head", "left"), [(0, 0.9), (1, 0.9), (2, 0.7), (3, 0.9)])
def test_what_was_said_far_off_matches_like_what_was_said_just_now(
    trainee: Trainee, codes: Tensor, prefix: str, head: int, left: float
) -> None:
    """But little fades; more of the head that compares two codes, one in quicker dimensions."""
    queries, keys = scored(trainee, codes, head, prefix)

    def score(apart: int) -> Tensor:
        angles = apart * trainee.rope.inv_freq.float()
        return (Angles(angles.cos(), angles.sin()).turn(queries) * keys).sum(dim=-1)

    assert score(8_000).mean() / score(1).mean() > left


def brought(trainee: Trainee, rows: Tensor, heads: Sequence[int], prefix: str) -> Tensor:
    """``[n, half]``: what heads of the second layer bring from rows, as tokens."""
    found = torch.zeros(rows.shape[0], HALF)
    for head in heads:
        at = rows_of_head(head)
        values = rows @ weight(trainee, 1, f"{prefix}v_proj.weight")[at].T
        found += values @ weight(trainee, 1, "o_proj.weight")[:HALF, at].T
    return found


@pytest.mark.parametrize("heads", [(0, 1), (2, 3)])
def test_two_second_heads_bring_the_whole_token_of_a_row(
    trainee: Trainee, codes: Tensor, heads: tuple[int, int]
) -> None:
    tokens = [some_tokens(n, 60) for n in range(5)]
    table, rows = embeddings(trainee), rows_of(trainee, codes, tokens[0], tokens[1:])
    for head in heads:
        found = brought(trainee, rows, (head,), "")
        assert ((found @ table.T).argmax(dim=1) == tokens[0]).float().mean() > 0.9
    found = brought(trainee, rows, heads, "")
    assert torch.nn.functional.cosine_similarity(found, table[tokens[0]]).mean() > 0.8


@pytest.mark.parametrize("head", range(4))
def test_second_heads_bring_the_token_of_one_slot_of_a_beacon(
    trainee: Trainee, codes: Tensor, head: int
) -> None:
    """Of what it holds (itself, four slots), the one that stands behind what was asked.

    A head brings but a part of a code: faint for one beacon, plain over many.
    """
    tokens = [some_tokens(n, 200) for n in range(5)]
    found = brought(trainee, rows_of(trainee, codes, tokens[0], tokens[1:]), (head,), "beacon_")
    table = embeddings(trainee)
    like = [torch.nn.functional.cosine_similarity(found, table[x]).mean() for x in tokens]
    wanted = like.pop(1 + SECOND[head].brings)
    assert wanted > 0.15
    assert max(like) < 0.06


def test_a_shape_without_room_begins_at_random() -> None:
    raw = Shape(layers=2, hidden=32, heads=2, mlp=48).config(vocab_size=300, end_id=2)
    config = parse_config(raw)
    model, rope = BeaconLM(config), read_rope(raw, config.head_dim, config.max_positions)
    initialise(model, config, rope, seed=1)
    assert not roomy(config)
    assert all(bool(value.isfinite().all()) for value in model.state_dict().values())


def test_beacons_begin_as_copies_but_where_the_circuit_finds_them(
    trainee: Trainee, plain: Trainee
) -> None:
    pairs = [
        (layer, part, f"beacon_{part}")
        for layer in range(len(attentions_of(trainee.model)))
        for part in (f"{x}_proj.{kind}" for x in "qkv" for kind in ("weight", "bias"))
    ]
    for layer, part, copy in pairs:
        assert torch.equal(weight(plain, layer, part), weight(plain, layer, copy))
    different = {
        (layer, part)
        for layer, part, copy in pairs
        if not torch.equal(weight(trainee, layer, part), weight(trainee, layer, copy))
    }
    # They look at other rows; then they do not ask, are found by other slots and bring others.
    second = {(1, f"{x}_proj.weight") for x in "qkv"}
    assert different == {(0, "q_proj.bias"), *second}
    assert torch.equal(
        weight(trainee, 1, "beacon_q_proj.weight"), weight(plain, 1, "q_proj.weight")
    )


def test_where_no_circuit_is_laid_equals_attract(trainee: Trainee) -> None:
    assert torch.equal(weight(trainee, 2, "q_proj.weight"), weight(trainee, 2, "k_proj.weight"))


def test_the_same_seed_gives_the_same_weights(trainee: Trainee) -> None:
    wanted, found = trainee.model.state_dict(), made().model.state_dict()
    assert all(torch.equal(value, found[name]) for name, value in wanted.items())
    other = made(seed=2).model.model
    assert not torch.equal(other.embed_tokens.weight, trainee.model.model.embed_tokens.weight)
