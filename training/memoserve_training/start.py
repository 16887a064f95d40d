"""First weights of a model that is trained from scratch.

What lets a small model learn to recall in minutes instead of never (docs/training-log.md): heads
that begin as sharp previous-token heads, keys that begin equal to queries, large embeddings.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from memoserve.models.config import ModelConfig
from memoserve.models.layers import Attention, BeaconLM
from memoserve.models.rope import Rope

WEIGHT_STD, EMBEDDING_STD, LAST_GAIN = 0.08, 0.5, 0.1
# Sharp: the score of the wanted neighbour stands far above that of the next one.
SHARP_PAIRS, SHARP_BIAS = 4, 5.0
# A memory turns fast pairs at random: content is compared in the slow ones.
FOLLOW_STD, SLOWER_THAN = 0.1, 0.06


@torch.no_grad()
def initialise(model: BeaconLM, config: ModelConfig, rope: Rope, seed: int) -> None:
    """Fill every parameter in place."""
    generator = torch.Generator().manual_seed(seed)
    deep = math.sqrt(2 * config.num_layers)
    for name, parameter in model.named_parameters():
        if "embed" in name or name == "lm_head.weight":
            parameter.normal_(std=EMBEDDING_STD, generator=generator)
        elif name.endswith("norm.weight"):
            parameter.fill_(1.0)
        elif parameter.dim() == 1:
            parameter.zero_()
        else:
            last = name.endswith(("o_proj.weight", "down_proj.weight"))
            parameter.normal_(std=WEIGHT_STD / (deep if last else 1.0), generator=generator)
    model.model.norm.weight.fill_(LAST_GAIN)
    attentions = attentions_of(model)
    _look_back(attentions[0], config, rope, deep)
    for attention in attentions[1:]:
        _match_equals(attention, config)
    if len(attentions) > 1 and config.num_heads == config.num_kv_heads:
        _follow(attentions[1], attentions[0], config, rope)
    for attention in attentions:
        copy_to_beacons(attention)


def attentions_of(model: BeaconLM) -> list[Attention]:
    """The attention of every layer, in order."""
    return [module for module in model.modules() if isinstance(module, Attention)]


def _linear(attention: Attention, name: str) -> nn.Linear:
    layer = attention.get_submodule(name)
    if not isinstance(layer, nn.Linear):
        raise TypeError(f"{name} is not a linear layer")
    return layer


def _bias(layer: nn.Linear) -> Tensor:
    if layer.bias is None:
        raise ValueError("the first layer's heads look back by their biases: they need some")
    return layer.bias


def _look_back(attention: Attention, config: ModelConfig, rope: Rope, deep: float) -> None:
    """Head h begins as "look h + 1 rows back": biases that rotation turns into a sharp peak."""
    query, key = _linear(attention, "q_proj"), _linear(attention, "k_proj")
    query.weight.mul_(0.25)
    key.weight.mul_(0.25)
    _linear(attention, "o_proj").weight.mul_(deep)
    half, pairs = config.head_dim // 2, min(SHARP_PAIRS, config.head_dim // 2)
    turn = rope.inv_freq[:pairs].float()
    keys = _bias(key).view(config.num_kv_heads, -1)
    queries = _bias(query).view(config.num_heads, -1)
    keys[:, :pairs] = SHARP_BIAS
    for head in range(config.num_heads):
        back = -(head + 1) * turn
        queries[head, :pairs] = SHARP_BIAS * back.cos()
        queries[head, half : half + pairs] = SHARP_BIAS * back.sin()


def _match_equals(attention: Attention, config: ModelConfig) -> None:
    """Keys begin as the queries of their group's first head: equals attract."""
    query, key = _linear(attention, "q_proj"), _linear(attention, "k_proj")
    shape = (config.num_kv_heads, -1, config.head_dim, config.hidden_size)
    key.weight.copy_(query.weight.view(shape)[:, 0].flatten(0, 1))


def _follow(second: Attention, first: Attention, config: ModelConfig, rope: Rope) -> None:
    """Heads of the second layer begin as "what came behind this, the last time it was said".

    Head h compares what stood h + 1 rows before the query with what stood h + 2 rows before a
    key: the two-layer circuit of induction heads (Olsson et al. 2022, arXiv 2209.11895), laid
    rather than waited for. The first layer's heads share their values, so that the same token is
    the same vector whichever of them brings it.
    """
    dim, heads = config.head_dim, config.num_heads
    value, out = _linear(first, "v_proj").weight, _linear(first, "o_proj").weight
    value.copy_(value[:dim].repeat(config.num_kv_heads, 1))
    query, key = _linear(second, "q_proj").weight, _linear(second, "k_proj").weight
    brought = [out[:, h * dim : (h + 1) * dim] @ value[:dim] for h in range(heads)]
    # One random look at a token, the same for queries and keys.
    slow = (rope.inv_freq < SLOWER_THAN).to(query.dtype).repeat(2)
    seen = query[:dim] * slow[:, None]
    for head in range(heads - 1):
        rows = slice(head * dim, (head + 1) * dim)
        query[rows] = _scaled(seen @ brought[head].T)
        key[rows] = _scaled(seen @ brought[head + 1].T)


def _scaled(weight: Tensor) -> Tensor:
    return weight * (FOLLOW_STD / weight.std())


def copy_to_beacons(attention: Attention) -> None:
    """Beacon projections begin as copies of the ordinary ones (arXiv 2401.03462, section 3.3)."""
    for name, layer in attention.named_children():
        if not name.startswith("beacon_"):
            continue
        raw = _linear(attention, name.removeprefix("beacon_"))
        layer.load_state_dict(raw.state_dict())
