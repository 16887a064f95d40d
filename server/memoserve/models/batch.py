"""What a model sees of a step: a batch of rows, never the pool.

Defined here, built by the engine (paged attention) and by training (dense attention): the same
modules serve both.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]


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


def split_rows(is_beacon: Flags) -> tuple[Ints, Ints, Ints] | None:
    """``raw``, ``beacon`` and ``merge`` of a ``RowSplit``; None where no row is a beacon.

    On the host: a device would have to be waited for to learn how many there are.
    """
    if not is_beacon.any():
        return None
    raw, beacon = (~is_beacon).nonzero()[0], is_beacon.nonzero()[0]
    merge = np.empty(len(is_beacon), dtype=np.int64)
    merge[np.concatenate([raw, beacon])] = np.arange(len(is_beacon))
    return raw, beacon, merge


@dataclass(frozen=True)
class ForwardBatch:
    """Rows of many sequences, one after the other, never padded.

    ``ids [N]`` token ids (any value at beacon rows), ``split`` the beacon rows, ``output_rows``
    the raw rows whose logits are wanted (None: all rows), ``attend`` the attention.
    """

    ids: Tensor
    split: RowSplit | None
    output_rows: Tensor | None
    attend: Attend
