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
from memoserve_training.tree import Piece, Places, Tree


@dataclass(frozen=True)
class Angles:
    """``cos``, ``sin`` ``[n, D/2]`` of the places that rows stand at."""

    cos: Tensor
    sin: Tensor

    def at(self, rows: Tensor) -> Angles:
        """Those of some rows."""
        return Angles(self.cos[rows], self.sin[rows])

    def turn(self, x: Tensor) -> Tensor:
        """Rotate ``x [..., n, D]`` in at least float32."""
        first, second = x.to(torch.promote_types(x.dtype, self.cos.dtype)).chunk(2, dim=-1)
        turned = (first * self.cos - second * self.sin, second * self.cos + first * self.sin)
        return torch.cat(turned, dim=-1).to(x.dtype)


@dataclass(frozen=True)
class _Keys:
    """Keys ``[B, Q, K, n, D]`` before rotation and rotated, and values."""

    bare: Tensor
    turned: Tensor
    values: Tensor

    @classmethod
    def at(cls, angles: Angles, bare: Tensor, values: Tensor) -> _Keys:
        return cls(bare, angles.turn(bare), values)

    def then(self, later: _Keys | None) -> _Keys:
        if later is None:
            return self
        return _Keys(
            torch.cat([self.bare, later.bare], dim=3),
            torch.cat([self.turned, later.turned], dim=3),
            torch.cat([self.values, later.values], dim=3),
        )

    def detach(self) -> _Keys:
        return _Keys(self.bare.detach(), self.turned.detach(), self.values.detach())


@dataclass(frozen=True)
class _Step:
    """A piece with all that does not depend on a layer. ``visible [R, columns]``."""

    piece: Piece
    rows: Angles
    asking: Tensor
    visible: Tensor
    sources: Tensor
    slots: Angles | None


@dataclass(frozen=True)
class _Past:
    """Seen before the next piece: memory that branches share, a run's own, the open window.

    ``tail``: the open window's first rows where all branches of a document share them too.
    """

    shared: _Keys | None = None
    tail: _Keys | None = None
    memory: tuple[_Keys, ...] = ()
    window: _Keys | None = None

    @property
    def far(self) -> _Keys | None:
        """What branches share."""
        return self.shared.then(self.tail) if self.shared else self.tail

    def survivors(self, sources: Tensor) -> tuple[Tensor, Tensor]:
        """Keys before rotation and values of some columns of the open window."""
        window = self.window
        assert window is not None  # the piece that closes it is part of it
        if self.tail is None:
            return window.bare.index_select(3, sources), window.values.index_select(3, sources)
        length = self.tail.bare.shape[3]
        early, late = sources[sources < length], sources[sources >= length] - length
        shape = (-1, window.bare.shape[1], -1, -1, -1)
        bare, values = (
            torch.cat([x.index_select(3, early).expand(shape), y.index_select(3, late)], dim=3)
            for x, y in ((self.tail.bare, window.bare), (self.tail.values, window.values))
        )
        return bare, values


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
        out, past = self._walk(self._trunk, trunk_q, trunk_k, trunk_v, _Past())
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
        self, steps: list[_Step], q: Tensor | None, k: Tensor, v: Tensor, past: _Past
    ) -> tuple[Tensor | None, _Past]:
        """Rows of a run, piece by piece; ``[B, Q, asking, H, D]`` and what is seen behind it."""
        outs, asked = [], 0
        for step in steps:
            rows = step.piece.rows
            new = _Keys.at(step.rows, k[..., rows, :], v[..., rows, :])
            past = replace(past, window=past.window.then(new) if past.window else new)
            if q is not None:
                angles, visible = step.rows, step.visible
                if q.shape[3] != k.shape[3]:
                    angles, visible = angles.at(step.asking), visible[step.asking]
                part = q[..., asked : asked + len(visible), :]
                asked += len(visible)
                outs.append(_attention(angles.turn(part), past, visible).transpose(2, 3))
            if step.slots is not None:
                past = self._close(past, step, step.slots)
        return (torch.cat(outs, dim=2) if outs else None), past

    def _close(self, past: _Past, step: _Step, slots: Angles) -> _Past:
        memory = (*past.memory, _Keys.at(slots, *past.survivors(step.sources)))
        if self._detach_after is not None:
            early = len(memory) - self._detach_after
            memory = tuple(x.detach() if i < early else x for i, x in enumerate(memory))
        return _Past(past.shared, memory=memory)

    def _fork(self, past: _Past) -> _Past:
        """What branches begin with: the memories of their group, and the open window."""
        shared, window, lent = None, past.window, self._lent
        if past.memory:
            bare, values = (
                torch.cat(parts, dim=3).unflatten(0, (-1, lent)).movedim(1, 3).flatten(3, 4)
                for parts in ([x.bare for x in past.memory], [x.values for x in past.memory])
            )
            shared = _Keys.at(self._all_slots, bare, values)
        if window is None or self._open is None:
            return _Past(shared)
        if lent == 1 and bool(self._branch[0].visible[:, : window.bare.shape[3]].all()):
            return _Past(shared, _Keys.at(self._open, window.bare, window.values))
        bare, values = (
            _group(x.expand(-1, self._tree.branches, -1, -1, -1), lent)
            for x in (window.bare, window.values)
        )
        return _Past(shared, window=_Keys.at(self._open, bare, values))


def _group(x: Tensor, lent: int) -> Tensor:
    """``[B, Q, ...] -> [B / lent, lent * Q, ...]``: branches that read the same memories."""
    grouped: Tensor = x.unflatten(0, (-1, lent)).flatten(1, 2)
    return grouped


def _attention(q: Tensor, past: _Past, visible: Tensor) -> Tensor:
    """``q [B, Q, H, R, D]``, its window columns ``visible [R, n]`` -> ``[B, Q, H, R, D]``."""
    own = past.memory + ((past.window,) if past.window else ())
    keys, values = (torch.cat(x, dim=3) for x in ([k.turned for k in own], [k.values for k in own]))
    if past.tail is not None:
        visible = visible[:, past.tail.bare.shape[3] :]
    visible = torch.nn.functional.pad(visible, (keys.shape[3] - visible.shape[1], 0), value=True)
    far = past.far
    if far is None:
        return _whole(q, keys, values, visible)
    return _in_two(q, far, keys, values, visible)


def _whole(q: Tensor, keys: Tensor, values: Tensor, visible: Tensor) -> Tensor:
    group = q.shape[2] // keys.shape[2]
    keys, values = (x.repeat_interleave(group, dim=2).flatten(0, 1) for x in (keys, values))
    out: Tensor = torch.nn.functional.scaled_dot_product_attention(
        q.flatten(0, 1), keys, values, attn_mask=visible
    )
    mixed: Tensor = out.unflatten(0, q.shape[:2])
    return mixed


def _in_two(q: Tensor, shared: _Keys, keys: Tensor, values: Tensor, visible: Tensor) -> Tensor:
    """One softmax over shared and own keys; the shared ones are not copied for each branch."""
    documents, branches, heads, rows, dim = q.shape
    kv_heads = keys.shape[2]
    q = (q * dim**-0.5).unflatten(2, (kv_heads, -1))  # [B, Q, K, G, R, D]
    folded = q.transpose(1, 2).reshape(documents, kv_heads, -1, dim)
    far = folded @ shared.turned[:, 0].transpose(-1, -2)
    near = q.flatten(3, 4) @ keys.transpose(-1, -2)  # [B, Q, K, G * R, n]
    near = near.unflatten(3, (-1, rows)).masked_fill(~visible, float("-inf"))
    near = near.transpose(1, 2).reshape(*far.shape[:3], -1)
    weights = torch.cat([far, near], dim=-1).softmax(dim=-1)
    far, near = weights.split([far.shape[-1], near.shape[-1]], dim=-1)
    near = near.unflatten(2, (branches, -1)).transpose(1, 2) @ values  # [B, Q, K, G * R, D]
    mixed: Tensor = (far @ shared.values[:, 0]).unflatten(2, (branches, -1)).transpose(1, 2) + near
    return mixed.reshape(documents, branches, heads, rows, dim)
