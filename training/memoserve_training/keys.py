"""Keys that a row sees, where they stand, and one softmax over them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


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
class Keys:
    """Keys ``[B, Q, K, n, D]`` before rotation and rotated, and values."""

    bare: Tensor
    turned: Tensor
    values: Tensor

    @classmethod
    def at(cls, angles: Angles, bare: Tensor, values: Tensor) -> Keys:
        """Those that stand where ``angles`` say."""
        return cls(bare, angles.turn(bare), values)

    def then(self, later: Keys | None) -> Keys:
        """These, and later ones behind them."""
        if later is None:
            return self
        return Keys(
            torch.cat([self.bare, later.bare], dim=3),
            torch.cat([self.turned, later.turned], dim=3),
            torch.cat([self.values, later.values], dim=3),
        )

    def detach(self) -> Keys:
        """The same numbers, which no gradient passes."""
        return Keys(self.bare.detach(), self.turned.detach(), self.values.detach())


@dataclass(frozen=True)
class Past:
    """Seen before the next piece: memory that branches share, a run's own, the open window.

    ``tail``: the open window's first rows where all branches of a document share them too.
    """

    shared: Keys | None = None
    tail: Keys | None = None
    memory: tuple[Keys, ...] = ()
    window: Keys | None = None

    @property
    def far(self) -> Keys | None:
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


def attention(q: Tensor, past: Past, visible: Tensor) -> Tensor:
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


def _in_two(q: Tensor, shared: Keys, keys: Tensor, values: Tensor, visible: Tensor) -> Tensor:
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
