"""A circuit that follows what was said, laid into first weights rather than waited for.

The rows of the model are cut into parts that do not mix at first: half of the width holds the token
itself, four slots of an eighth each what the four heads of the first layer bring:

    slots 0, 1, 2   what stands 1, 2 and 3 rows before (induction needs these: Olsson et al. 2022,
                    arXiv 2209.11895); of a beacon 1, 2 and 4 rows before. Beacons take rows too, so
                    4 rows before is, at ratio 2, the last token of the unit before; at ratio 4 the
                    first of its own unit
    slot 3          the bag: a mean of the tokens of the last ten rows or so, which ties the words
                    of a sentence to its subject where that stands farther off

The heads of the second layer look for a row whose tokens before it, or whose bag, are those of the
asking row, and bring the token that stands there. A beacon is found by the token two rows before it
and brings the one behind that, or is found by its bag; what else it holds is left to training.
Codes are compared in the dimensions that turn least with distance.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor, nn

from memoserve.models.config import ModelConfig
from memoserve.models.layers import Attention, BeaconLM
from memoserve.models.rope import Rope

HEADS: Final = 4
BAG: Final = 3  # the head of the first layer, and the slot, of the bag
# Sharp: the score of the wanted neighbour stands far above that of the next one.
SHARP_PAIRS, SHARP_BIAS = 4, 5.0
# The bag's scores: its middle, and how high the waves of two pairs of dimensions stand there.
BAG_MIDDLE, BAG_WAVES, BAG_GAIN = 5.0, {1: 2.0, 2: 3.0}, 2.0
BACK, BEACON_BACK = (1.0, 2.0, 3.0, BAG_MIDDLE), (1.0, 2.0, 4.0, BAG_MIDDLE)  # by head, in rows
SLOWER_THAN = 0.002  # radians a row: such pairs tell what a token is, not where
CODE_GAIN, MATCH_GAIN, SLOT_NOISE = 0.5, 1.5, 0.03


def roomy(config: ModelConfig) -> bool:
    """Whether the shape has room for the circuit."""
    heads = config.num_heads == config.num_kv_heads == HEADS
    wide = config.head_dim * HEADS == config.hidden_size and config.head_dim >= 2 * SHARP_PAIRS
    return heads and wide and config.num_layers > 1 and config.qkv_bias


def attentions_of(model: BeaconLM) -> list[Attention]:
    """The attention of every layer, in order."""
    return [module for module in model.modules() if isinstance(module, Attention)]


def linear(attention: Attention, name: str) -> nn.Linear:
    """One of its projections."""
    layer = attention.get_submodule(name)
    if not isinstance(layer, nn.Linear):
        raise TypeError(f"{name} is not a linear layer")
    return layer


def copy_to_beacons(attention: Attention) -> None:
    """Beacon projections begin as copies of the ordinary ones (arXiv 2401.03462, section 3.3)."""
    for name, layer in attention.named_children():
        if name.startswith("beacon_"):
            layer.load_state_dict(linear(attention, name.removeprefix("beacon_")).state_dict())


@dataclass(frozen=True)
class _Parts:
    """Maps ``[codes, width]`` that read a part of a row as the code of a token."""

    width: int
    code: Tensor  # [codes, half of the width]: of a token itself

    @property
    def half(self) -> int:
        return self.code.shape[1]

    @property
    def codes(self) -> int:
        return self.code.shape[0]

    def own(self) -> Tensor:
        return torch.cat([self.code, torch.zeros_like(self.code)], dim=1)

    def columns(self, number: int) -> slice:
        start = self.half + number * self.codes
        return slice(start, start + self.codes)

    def slot(self, number: int) -> Tensor:
        read = torch.zeros(self.codes, self.width)
        read[:, self.columns(number)] = torch.eye(self.codes)
        return read


@dataclass(frozen=True)
class _Search:
    """A head of the second layer: what of the asking row must be like what of a row.

    A beacon is compared by ``beacon``, and brings the token of its slot ``brings``.
    """

    asked: tuple[Tensor, ...]
    kept: tuple[Tensor, ...]
    beacon: tuple[Tensor, ...]
    brings: int


@torch.no_grad()
def lay(model: BeaconLM, config: ModelConfig, rope: Rope, generator: torch.Generator) -> None:
    """Lay the circuit over random weights, in place."""
    half = config.hidden_size // 2
    model.model.embed_tokens.weight[:, half:] *= SLOT_NOISE
    model.model.beacon_embed_tokens.weight[:, half:] *= SLOT_NOISE
    turn, whole = (
        torch.linalg.qr(torch.randn(half, half, generator=generator))[0] for _ in range(2)
    )
    parts = _Parts(config.hidden_size, turn[: half // 4])
    first, second, *_ = attentions_of(model)
    _look_back(first, config, rope)
    _gather(first, config, parts)
    _follow(second, config, rope, parts, whole)


def _bias(layer: nn.Linear, heads: int) -> Tensor:
    if layer.bias is None:
        raise ValueError("the first layer's heads look back by their biases: they need some")
    return layer.bias.view(heads, -1)


def _look_back(attention: Attention, config: ModelConfig, rope: Rope) -> None:
    """Biases that rotation turns into a peak: at one row before, or broad over ten of them."""
    half, root = config.head_dim // 2, math.sqrt(config.head_dim)
    keys, queries, beacons = (
        _bias(linear(attention, name), HEADS) for name in ("k_proj", "q_proj", "beacon_q_proj")
    )
    sharp = dict.fromkeys(range(SHARP_PAIRS), SHARP_BIAS**2)
    broad = {pair: height * root for pair, height in BAG_WAVES.items()}
    for head in range(HEADS):
        for pair, height in (broad if head == BAG else sharp).items():
            keys[head, pair] = math.sqrt(height)
            for biases, back in ((queries, BACK[head]), (beacons, BEACON_BACK[head])):
                angle = -back * float(rope.inv_freq[pair])
                biases[head, pair] = math.sqrt(height) * math.cos(angle)
                biases[head, half + pair] = math.sqrt(height) * math.sin(angle)
    linear(attention, "beacon_k_proj").load_state_dict(linear(attention, "k_proj").state_dict())


def _gather(attention: Attention, config: ModelConfig, parts: _Parts) -> None:
    """Every head brings the codes of tokens into its own slot."""
    value, out = linear(attention, "v_proj").weight, linear(attention, "o_proj").weight
    for head in range(HEADS):
        rows = slice(head * config.head_dim, head * config.head_dim + parts.codes)
        value[rows] += CODE_GAIN * parts.own()
        out[parts.columns(head), rows] += (BAG_GAIN if head == BAG else 1.0) * torch.eye(
            parts.codes
        )
    linear(attention, "beacon_v_proj").load_state_dict(linear(attention, "v_proj").state_dict())


def _searches(parts: _Parts) -> tuple[_Search, ...]:
    own, back, bag = parts.own(), parts.slot, parts.slot(BAG)
    return (
        _Search((own,), (back(0),), (back(1),), brings=0),
        _Search((own,), (back(0),), (back(2),), brings=1),
        _Search((own, bag), (back(0), bag), (back(1), bag), brings=0),
        _Search((bag,), (bag,), (bag,), brings=0),
    )


def _follow(
    attention: Attention, config: ModelConfig, rope: Rope, parts: _Parts, whole: Tensor
) -> None:
    """Queries and keys that compare, values and an output that bring the token found."""
    dim, half = config.head_dim, config.head_dim // 2
    # The slowest first: there a token is the same at any distance.
    pairs = (rope.inv_freq < SLOWER_THAN).nonzero().flatten().tolist()[::-1]
    slow = [column for pair in pairs for column in (pair, pair + half)]
    query, key, value, out, beacon_key, beacon_value = (
        linear(attention, name).weight
        for name in ("q_proj", "k_proj", "v_proj", "o_proj", "beacon_k_proj", "beacon_v_proj")
    )
    for head, search in enumerate(_searches(parts)):
        codes = min(parts.codes, len(slow) // len(search.asked))
        at = torch.tensor(slow[: codes * len(search.asked)]) + head * dim
        for weight, read in zip(
            (query, key, beacon_key), (search.asked, search.kept, search.beacon), strict=True
        ):
            weight[at] += MATCH_GAIN * torch.cat([part[:codes] for part in read])
        rows = slice(head * dim, (head + 1) * dim)
        # Two heads side by side bring all of a token.
        brought = whole.view(2, -1, parts.half)[head % 2]
        value[rows, : parts.half] += brought
        beacon_value[rows] += brought @ parts.code.T @ parts.slot(search.brings)
        out[: parts.half, rows] += brought.T
