"""Loss and exact-match of what the branches of a batch write."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from memoserve.models.layers import BeaconLM
from memoserve_training.attend import TreeAttend
from memoserve_training.batch import forward_batch
from memoserve_training.examples import Batch
from memoserve_training.tree import Tree


@dataclass(frozen=True)
class Outcome:
    """``loss`` to descend, and for each branch ``[B, Q]`` whether every token was right.

    ``right`` is teacher-forced: equal to greedy writing where all tokens are right.
    """

    loss: Tensor
    right: Tensor


def written_loss(model: BeaconLM, tree: Tree, batch: Batch, attend: TreeAttend) -> Outcome:
    """Cross entropy of the written tokens alone, every token weighing the same."""
    rows = forward_batch(tree, batch.ids, attend)
    hidden = model.model(rows)
    targets = batch.targets.flatten()
    asked = targets >= 0
    logits = model.lm_head(hidden[asked])
    loss = torch.nn.functional.cross_entropy(logits, targets[asked])
    wrong = torch.zeros_like(targets, dtype=torch.bool)
    wrong[asked] = logits.argmax(dim=-1) != targets[asked]
    right = ~wrong.view(batch.targets.shape).any(dim=-1)
    return Outcome(loss, right)
