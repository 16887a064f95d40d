"""Several ways to go on behind one memory, drawn from the model that is being trained.

Slow and obvious: the trunk is read once, each step reads all branches anew from their first row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from memoserve.memory.window import RatioSchedule
from memoserve.models.batch import ForwardBatch, RowSplit, split_rows
from memoserve.models.loader import LoadedModel
from memoserve_training.attend import TreeAttend
from memoserve_training.batch import TreeIds, forward_batch
from memoserve_training.branches import attend_to
from memoserve_training.tree import Tree


@dataclass(frozen=True)
class Draws:
    """``samples`` texts of at most ``most`` tokens each, at ``temperature`` (0: the likeliest)."""

    samples: int = 4
    most: int = 128
    temperature: float = 1.0

    def __post_init__(self) -> None:
        if self.samples < 1 or self.most < 1 or self.temperature < 0:
            raise ValueError(f"nothing can be drawn with {self}")


@dataclass(frozen=True)
class _Trunk:
    """Keys and values ``[rows, K, D]`` of a trunk by layer, un-rotated, as they are computed."""

    attend: TreeAttend
    rows: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        self.rows[layer] = (k, v)
        return self.attend(layer, q, k, v)


@dataclass(frozen=True)
class _Behind:
    """Attention of branch rows alone, behind a trunk that was read before."""

    attend: TreeAttend
    plan: Tree
    trunk: _Trunk

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """As ForwardBatch.attend, for the rows of the branches."""
        keys, values = self.trunk.rows[layer]
        keys, values = torch.cat([keys, k]), torch.cat([values, v])
        if q.shape[0] != k.shape[0]:  # the last layer, where only branches ask anyway
            return self.attend(layer, q, keys, values)
        nobody = q.new_zeros(self.plan.trunk.rows, *q.shape[1:])
        out = self.attend(layer, torch.cat([nobody, q]), keys, values)
        return out[self.plan.trunk.rows :]


@torch.no_grad()
def sample(
    loaded: LoadedModel,
    schedule: RatioSchedule,
    trunk: Sequence[int],
    prompt: Sequence[int],
    draws: Draws,
    ends: frozenset[int],
    seed: int,
) -> list[tuple[int, ...]]:
    """What the model writes behind ``prompt``, asked behind the memory of ``trunk``.

    Each ends with one of ``ends``, or where it is as long as it may be. The same seed draws the
    same from the same weights.
    """
    device = loaded.model.lm_head.weight.device
    context = torch.tensor(trunk, dtype=torch.int64, device=device)[None]
    read = _read(loaded, context, schedule)
    generator = torch.Generator().manual_seed(seed)
    grown = torch.tensor(prompt, device=device)[None, None].expand(1, draws.samples, -1)
    written: list[list[int]] = [[] for _ in range(draws.samples)]
    done = [False] * draws.samples
    for _ in range(draws.most):
        chosen = _draw(
            _next_logits(loaded, TreeIds(context, grown), schedule, read), draws, generator
        )
        for i, token in enumerate(chosen.tolist()):
            if not done[i]:
                written[i].append(token)
                done[i] = token in ends
        if all(done):
            break
        grown = torch.cat([grown, chosen.to(device)[None, :, None]], dim=2)
    return [tuple(ids) for ids in written]


def _read(loaded: LoadedModel, context: Tensor, schedule: RatioSchedule) -> _Trunk:
    ids = TreeIds.of_trunks(context)
    plan, attend = attend_to(loaded, ids, schedule)
    trunk = _Trunk(attend)
    loaded.model.model(forward_batch(plan, ids, trunk))
    return trunk


def _next_logits(
    loaded: LoadedModel, ids: TreeIds, schedule: RatioSchedule, trunk: _Trunk
) -> Tensor:
    """Logits ``[Q, vocab]`` behind the last token of each branch."""
    plan, attend = attend_to(loaded, ids, schedule)
    rows = _branch_rows(plan, ids.branches[0], _Behind(attend, plan, trunk))
    hidden = loaded.model.model(rows).unflatten(0, ids.branches.shape[1:])
    logits: Tensor = loaded.model.lm_head(hidden[:, -1])
    return logits


def _branch_rows(plan: Tree, branches: Tensor, attend: _Behind) -> ForwardBatch:
    """The rows of ``branches [Q, U]`` without their trunk's; every token asks."""
    count, device = len(branches), branches.device
    raw = torch.from_numpy(plan.branch.raw_rows).to(device)
    rows = torch.zeros(count, plan.branch.rows, dtype=torch.int64, device=device)
    rows[:, raw] = branches
    asking = torch.arange(count, device=device)[:, None] * plan.branch.rows + raw
    parts = split_rows(np.tile(plan.branch.is_beacon, count))
    split = None
    if parts is not None:
        split = RowSplit(*(torch.from_numpy(part).to(device) for part in parts))
    return ForwardBatch(rows.flatten(), split, asking.flatten(), attend)


def _draw(logits: Tensor, draws: Draws, generator: torch.Generator) -> Tensor:
    """One id a row, ``[Q]``, on the CPU, so that every device draws alike."""
    logits = logits.float().cpu()
    if draws.temperature == 0:
        return logits.argmax(dim=-1)
    chances = (logits / draws.temperature).softmax(dim=-1)
    return torch.multinomial(chances, 1, generator=generator)[:, 0]
