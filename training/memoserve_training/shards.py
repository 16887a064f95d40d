"""A batch in parts, each on a thread of its own; how it is cut hangs on the batch alone."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import torch
from torch import Tensor

from memoserve.models.layers import BeaconLM
from memoserve_training.attend import TreeAttend
from memoserve_training.batch import TreeIds
from memoserve_training.examples import Batch
from memoserve_training.loss import Outcome, written_loss
from memoserve_training.tree import Tree

PARTS: Final = 2


def parts_of(batch: Batch, lent: int) -> list[Batch]:
    """Halves of a batch; documents that lend each other their memories stay together."""
    documents = batch.targets.shape[0]
    size = -(-documents // lent // PARTS) * lent
    cuts = [slice(at, at + size) for at in range(0, documents, size)]
    return [
        Batch(TreeIds(batch.ids.trunk[c], batch.ids.branches[c]), batch.targets[c], batch.kinds[c])
        for c in cuts
    ]


class Shards:
    """Forward and backward of the parts side by side.

    Quicker than all threads on one operator after the other: a small model's operators are short.
    From its first use on an operator of this process has one thread.
    """

    def __init__(self, model: BeaconLM) -> None:
        self._model = model
        self._wanted = [p for p in model.parameters() if p.requires_grad]
        self._pool = ThreadPoolExecutor(PARTS, initializer=torch.set_num_threads, initargs=(1,))

    def descend(self, tree: Tree, batch: Batch, attend: TreeAttend, lent: int) -> Outcome:
        """Fill ``grad`` with the gradients of the batch's mean loss.

        Raises ValueError where a part of the batch asks nothing.
        """
        asked = int((batch.targets >= 0).sum())
        parts = parts_of(batch, lent)
        if not all(bool((part.targets >= 0).any()) for part in parts):
            raise ValueError("a part of the batch asks nothing")

        def one(part: Batch) -> tuple[Outcome, Sequence[Tensor | None]]:
            outcome = written_loss(self._model, tree, part, attend)
            share = int((part.targets >= 0).sum()) / asked
            loss = outcome.loss * share
            gradients = torch.autograd.grad(loss, self._wanted, allow_unused=True)
            return Outcome(loss.detach(), outcome.right), gradients

        done = list(self._pool.map(one, parts))
        for parameter, *found in zip(self._wanted, *(each for _, each in done), strict=True):
            given = [gradient for gradient in found if gradient is not None]
            parameter.grad = torch.stack(given).sum(dim=0) if given else None
        loss = torch.stack([outcome.loss for outcome, _ in done]).sum()
        return Outcome(loss, torch.cat([outcome.right for outcome, _ in done]))
