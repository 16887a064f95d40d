"""First weights of a model that is trained from scratch.

Random ones, and where the shape has room for it a circuit laid among them (``circuit.py``): what
lets a small model learn to recall in minutes instead of never (docs/training-log.md).
"""

from __future__ import annotations

import math

import torch

from memoserve.models.config import ModelConfig
from memoserve.models.layers import BeaconLM
from memoserve.models.rope import Rope
from memoserve_training.circuit import attentions_of, copy_to_beacons, lay, linear, roomy

WEIGHT_STD, EMBEDDING_STD, LAST_GAIN = 0.04, 0.7, 0.1


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
    if config.num_heads == config.num_kv_heads:
        for attention in attentions[1:]:  # equals attract
            linear(attention, "k_proj").weight.copy_(linear(attention, "q_proj").weight)
    for attention in attentions:
        copy_to_beacons(attention)
    if roomy(config):
        lay(model, config, rope, generator)
