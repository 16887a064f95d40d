"""Questions behind one context as a batch: branches of one trunk, padded to one length."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from memoserve.memory.window import RatioSchedule
from memoserve.models.loader import LoadedModel
from memoserve_training.attend import TreeAttend
from memoserve_training.batch import TreeIds
from memoserve_training.chat import Asked
from memoserve_training.examples import Batch
from memoserve_training.shape import rules_of
from memoserve_training.tree import Tree, places, tree


def branch_batch(
    trunk: Sequence[int], asked: Sequence[Asked], kinds: Sequence[str], device: torch.device
) -> Batch:
    """One document with a branch for each of ``asked``; only written ids are targets.

    Raises ValueError for a context without a token.
    """
    if not trunk:
        raise ValueError("a context of no token cannot be memorized")
    longest = max(len(one.ids) for one in asked)
    ids = torch.zeros(1, len(asked), longest, dtype=torch.int64)
    targets = torch.full_like(ids, -1)
    for i, one in enumerate(asked):
        # What pads a branch stands behind all that is asked of it: nothing reads it.
        branch = torch.tensor(one.ids)
        ids[0, i, : len(branch)] = branch
        targets[0, i, one.first - 1 : len(branch) - 1] = branch[one.first :]
    context = torch.tensor(trunk, dtype=torch.int64)[None]
    on_device = TreeIds(context.to(device), ids.to(device))
    return Batch(on_device, targets.to(device), (tuple(kinds),))


def attend_to(
    loaded: LoadedModel, ids: TreeIds, schedule: RatioSchedule, detach_after: int | None = None
) -> tuple[Tree, TreeAttend]:
    """Plan and attention of a batch, its memory without gaps."""
    _, branches, tokens = ids.branches.shape
    plan = tree(rules_of(loaded.config.beacon), schedule, ids.trunk.shape[1], tokens, branches)
    at = places(np.random.default_rng(0), plan.trunk.after.memory_rows)
    attend = TreeAttend(
        plan, loaded.rope, at, ids.trunk.device, dtype=loaded.dtype, detach_after=detach_after
    )
    return plan, attend
