"""Trees of token ids as the ``ForwardBatch`` that the model modules take."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from memoserve.models.batch import Attend, ForwardBatch, RowSplit, split_rows
from memoserve_training.tree import Tree


@dataclass(frozen=True)
class TreeIds:
    """``trunk [B, T]`` and ``branches [B, Q, U]`` token ids of a batch; Q may be 0."""

    trunk: Tensor
    branches: Tensor

    @classmethod
    def of_trunks(cls, trunk: Tensor) -> TreeIds:
        """Documents that nobody asks."""
        return cls(trunk, trunk.new_zeros(len(trunk), 0, 0))


def forward_batch(tree: Tree, ids: TreeIds, attend: Attend) -> ForwardBatch:
    """Rows of all documents; those that give logits are the raw rows of the branches.

    Where there is no branch, those of the trunks. Beacon rows have the id 0, which nobody reads.
    """
    documents, device = len(ids.trunk), ids.trunk.device
    rows = torch.zeros(documents, tree.rows, dtype=torch.int64, device=device)
    trunk = torch.from_numpy(tree.trunk.raw_rows).to(device)
    rows[:, trunk] = ids.trunk
    asking = trunk[None]
    if tree.branches:
        first = tree.trunk.rows + np.arange(tree.branches)[:, None] * tree.branch.rows
        branch = torch.from_numpy(first + tree.branch.raw_rows).to(device)
        rows[:, branch.flatten()] = ids.branches.flatten(1)
        asking = branch
    starts = torch.arange(documents, device=device)[:, None] * tree.rows
    output_rows = (starts + asking.flatten()).flatten()
    return ForwardBatch(rows.flatten(), _split(tree, documents, device), output_rows, attend)


def _split(tree: Tree, documents: int, device: torch.device) -> RowSplit | None:
    parts = split_rows(np.tile(tree.is_beacon, documents))
    if parts is None:
        return None
    raw, beacon, merge = (torch.from_numpy(part).to(device) for part in parts)
    return RowSplit(raw, beacon, merge)
