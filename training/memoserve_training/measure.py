"""Exact match of a model in training, teacher-forced: a quick look, not the quality benchmark."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

import numpy as np
import torch

from memoserve.memory.window import RatioSchedule
from memoserve_training.attend import TreeAttend
from memoserve_training.chat import ChatWords
from memoserve_training.examples import Lesson, draw_batch
from memoserve_training.loss import written_loss
from memoserve_training.shape import Trainee, rules_of
from memoserve_training.tree import places, tree


@dataclass(frozen=True)
class Share:
    """``right`` of ``asked`` questions of one kind were answered exactly."""

    right: int
    asked: int

    @property
    def share(self) -> float:
        """0 to 1; 0 where nobody asked."""
        return self.right / max(1, self.asked)


@torch.no_grad()
def measure(
    trainee: Trainee,
    words: ChatWords,
    lesson: Lesson,
    ratio: int,
    *,
    documents: int,
    seed: int,
    at_once: int = 8,
) -> dict[str, Share]:
    """Share answered exactly, by kind of question and task, on documents drawn from ``seed``."""
    rng = Random(seed)
    found: dict[str, list[bool]] = {}
    for _ in range(0, documents, at_once):
        batch = draw_batch(rng, words, lesson, at_once)
        branches, tokens = batch.ids.branches.shape[1:]
        rules = rules_of(trainee.config.beacon)
        plan = tree(rules, RatioSchedule((ratio,)), lesson.trunk, tokens, branches)
        at = places(np.random.default_rng(0), plan.trunk.after.memory_rows)
        attend = TreeAttend(plan, trainee.rope, at, batch.ids.trunk.device)
        outcome = written_loss(trainee.model, plan, batch, attend)
        for kinds, rights in zip(batch.kinds, outcome.right.tolist(), strict=True):
            for kind, right in zip(kinds, rights, strict=True):
                if kind:
                    found.setdefault(kind, []).append(right)
    return {kind: Share(sum(rights), len(rights)) for kind, rights in sorted(found.items())}
