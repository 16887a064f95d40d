"""What a model sees of a step: a batch of rows, never the pool.

Defined here, built by the engine (paged attention) and by training (dense attention): the same
modules serve both.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


class Attend(Protocol):
    """Attention of one layer, rotary embedding and storing of K and V included."""

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Un-rotated ``q [Q, H, D]``, ``k, v [N, K, D]`` -> ``[Q, H, D]``.

        Q is N, but in the last layer only the rows of ``ForwardBatch.output_rows`` ask.
        """
        ...


@dataclass(frozen=True)
class RowSplit:
    """Which rows are raw and which are beacons; ``merge[i]`` undoes cat(raw, beacon)."""

    raw: Tensor
    beacon: Tensor
    merge: Tensor

    @staticmethod
    def of(is_beacon: Tensor) -> RowSplit | None:
        """Split of flags ``[N]``; None where no row is a beacon."""
        beacon = is_beacon.nonzero().flatten()
        if beacon.numel() == 0:
            return None
        raw = (~is_beacon).nonzero().flatten()
        return RowSplit(raw, beacon, torch.argsort(torch.cat([raw, beacon])))


@dataclass(frozen=True)
class ForwardBatch:
    """Rows of many sequences, one after the other, never padded.

    ``ids [N]`` token ids (any value at beacon rows), ``split`` the beacon rows, ``output_rows``
    the raw rows whose logits are wanted (None: all rows, for training), ``attend`` the attention.
    """

    ids: Tensor
    split: RowSplit | None
    output_rows: Tensor | None
    attend: Attend
