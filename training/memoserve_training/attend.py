"""Dense, differentiable beacon attention over a batch of trees.

The same integers as serving (``memoserve.memory.window``), and the same result as the paged
engine: keys of the memory at their slots, keys of the open window at their planned positions.
Keys are kept un-rotated and rotated where they stand, which a gradient can follow; serving
re-rotates once, when a window closes. Source: arXiv 2401.03462, section 3.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from memoserve.memory.window import Ints
from memoserve.models.rope import Rope
from memoserve_training.keys import Angles, Keys, Past, attention
from memoserve_training.tree import Piece, Places, Tree


@dataclass(frozen=True)
class _Step:
    """A piece with all that does not depend on a layer. ``visible [R, columns]``."""

    piece: Piece
    rows: Angles
    asking: Tensor
    visible: Tensor
    sources: Tensor
    slots: Angles | None


class TreeAttend:
    """``ForwardBatch.attend`` for a batch of documents of one tree.

    Rows are ordered by document, in it the trunk, then branch after branch. In the last layer
    only raw rows ask: those of the branches, or of the trunk where there is no branch.
    ``detach_after``: gradients reach back into this many closed windows (None: all).
    ``lent``: so many neighbouring documents lend each other their memories: a branch reads all
    of them, one after the other, which is a long memory at the price of a short one; ``places``
    then holds positions for the rows of all. Their entities must differ.
    """

    def __init__(
        self,
        tree: Tree,
        rope: Rope,
        places: Places,
        device: torch.device,
        *,
        dtype: torch.dtype = torch.float32,
        detach_after: int | None = None,
        lent: int = 1,
    ) -> None:
        memory = tree.trunk.after.memory_rows
        if len(places.slots) != memory * lent:
            raise ValueError(f"{len(places.slots)} positions for {memory * lent} memory rows")
        if detach_after is not None and detach_after < 0:
            raise ValueError(f"detach_after must not be negative: {detach_after}")
        self._tree, self._rope, self._lent = tree, rope, lent
        self._device, self._detach_after = device, detach_after
        self._exact = torch.float64 if dtype == torch.float64 else torch.float32
        behind = places.behind(memory, tree.branch.after.memory_rows)
        self._trunk = [self._step(piece, places) for piece in tree.trunk.pieces]
        self._branch = [self._step(piece, behind) for piece in tree.branch.pieces]
        self._all_slots = self._angles(places.slots)
        last = tree.trunk.pieces[-1]
        self._open = None if last.plan.closes else self._angles(behind.of_rows(last))

    def _angles(self, positions: Ints) -> Angles:
        frequencies = self._rope.frequencies(self._exact).to(self._device)
        at = torch.from_numpy(positions).to(self._device, self._exact)
        angles = at[:, None] * frequencies
        return Angles(angles.cos() * self._rope.factor, angles.sin() * self._rope.factor)

    def _step(self, piece: Piece, places: Places) -> _Step:
        plan = piece.plan
        column = np.arange(plan.first_column + plan.rows)
        own = (plan.first_column + np.arange(plan.rows))[:, None]
        seen = (column < plan.limits[:, None]) | (
            (column >= plan.starts[:, None]) & (column <= own)
        )
        raw = np.flatnonzero(~plan.is_beacon)
        return _Step(
            piece=piece,
            rows=self._angles(places.of_rows(piece)),
            asking=torch.from_numpy(raw).to(self._device),
            visible=torch.from_numpy(seen).to(self._device),
            sources=torch.from_numpy(plan.sources).to(self._device),
            slots=self._angles(places.slots[plan.targets]) if plan.closes else None,
        )

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Un-rotated ``q [Q, H, D]``, ``k, v [N, K, D]`` -> ``[Q, H, D]``."""
        tree, documents = self._tree, k.shape[0] // self._tree.rows
        everyone = q.shape[0] == k.shape[0]
        trunk_q, branch_q = self._asking(q, documents, everyone)
        (trunk_k, branch_k), (trunk_v, branch_v) = (
            self._parts(k, documents),
            self._parts(v, documents),
        )
        out, past = self._walk(self._trunk, trunk_q, trunk_k, trunk_v, Past())
        outs = [] if out is None else [out.flatten(1, 2)]
        if tree.branches:
            past, lent = self._fork(past), self._lent
            branch_k, branch_v = _group(branch_k, lent), _group(branch_v, lent)
            asked = None if branch_q is None else _group(branch_q, lent)
            out, _ = self._walk(self._branch, asked, branch_k, branch_v, past)
            outs += [] if out is None else [out.reshape(documents, -1, *out.shape[-2:])]
        return torch.cat(outs, dim=1).flatten(0, 1)

    def _parts(self, x: Tensor, documents: int) -> tuple[Tensor, Tensor]:
        """``[B * rows, heads, D]``: trunk ``[B, 1, heads, n, D]``, branches ``[B, Q, ...]``."""
        rows, tree = x.unflatten(0, (documents, -1)), self._tree
        branches = rows[:, tree.trunk.rows :]
        branches = branches.unflatten(1, (max(1, tree.branches), tree.branch.rows))
        return rows[:, None, : tree.trunk.rows].transpose(2, 3), branches.transpose(2, 3)

    def _asking(
        self, q: Tensor, documents: int, everyone: bool
    ) -> tuple[Tensor | None, Tensor | None]:
        if everyone:
            return self._parts(q, documents)
        asked = q.unflatten(0, (documents, max(1, self._tree.branches), -1)).transpose(2, 3)
        return (None, asked) if self._tree.branches else (asked, None)

    def _walk(
        self, steps: list[_Step], q: Tensor | None, k: Tensor, v: Tensor, past: Past
    ) -> tuple[Tensor | None, Past]:
        """Rows of a run, piece by piece; ``[B, Q, asking, H, D]`` and what is seen behind it."""
        outs, asked = [], 0
        for step in steps:
            rows = step.piece.rows
            new = Keys.at(step.rows, k[..., rows, :], v[..., rows, :])
            past = replace(past, window=past.window.then(new) if past.window else new)
            if q is not None:
                angles, visible = step.rows, step.visible
                if q.shape[3] != k.shape[3]:
                    angles, visible = angles.at(step.asking), visible[step.asking]
                part = q[..., asked : asked + len(visible), :]
                asked += len(visible)
                outs.append(attention(angles.turn(part), past, visible).transpose(2, 3))
            if step.slots is not None:
                past = self._close(past, step, step.slots)
        return (torch.cat(outs, dim=2) if outs else None), past

    def _close(self, past: Past, step: _Step, slots: Angles) -> Past:
        memory = (*past.memory, Keys.at(slots, *past.survivors(step.sources)))
        if self._detach_after is not None:
            early = len(memory) - self._detach_after
            memory = tuple(x.detach() if i < early else x for i, x in enumerate(memory))
        return Past(past.shared, memory=memory)

    def _fork(self, past: Past) -> Past:
        """What branches begin with: the memories of their group, and the open window."""
        shared, window, lent = None, past.window, self._lent
        if past.memory:
            bare, values = (
                torch.cat(parts, dim=3).unflatten(0, (-1, lent)).movedim(1, 3).flatten(3, 4)
                for parts in ([x.bare for x in past.memory], [x.values for x in past.memory])
            )
            shared = Keys.at(self._all_slots, bare, values)
        if window is None or self._open is None:
            return Past(shared)
        if lent == 1 and bool(self._branch[0].visible[:, : window.bare.shape[3]].all()):
            return Past(shared, Keys.at(self._open, window.bare, window.values))
        bare, values = (
            _group(x.expand(-1, self._tree.branches, -1, -1, -1), lent)
            for x in (window.bare, window.values)
        )
        return Past(shared, window=Keys.at(self._open, bare, values))


def _group(x: Tensor, lent: int) -> Tensor:
    """``[B, Q, ...] -> [B / lent, lent * Q, ...]``: branches that read the same memories."""
    grouped: Tensor = x.unflatten(0, (-1, lent)).flatten(1, 2)
    return grouped
