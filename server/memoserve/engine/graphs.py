"""Decode steps captured once for each size of batch and replayed.

A step of small kernels takes the host longer to launch than the device to run. A graph is launched
as one, over tensors that stay where they are: the step's integers are copied into them, raw rows
first, then beacons; rows past either stand at no slot and see nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from memoserve.engine.graph_tables import graph_tables
from memoserve.engine.placed import ROW_INTEGERS
from memoserve.engine.step import Step
from memoserve.engine.uploads import ALIGN_BYTES, Uploads
from memoserve.memory.kv_cache import KVCache
from memoserve.models.batch import ForwardBatch, RowSplit
from memoserve.models.layers import BeaconLM
from memoserve_kernels import ops
from memoserve_kernels.layout import AttentionLayout, Rotation

BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
NOWHERE = -1


@dataclass(frozen=True, order=True)
class Room:
    """Rows that a captured step has: a raw one for each sequence, and beacons behind some."""

    sequences: int
    beacons: int


def rooms(with_beacons: bool) -> list[Room]:
    """What is captured. Beacons behind more than half of the sequences take a larger room."""
    plain = [Room(size, 0) for size in BUCKETS]
    return [*plain, *(Room(size, (size + 1) // 2) for size in BUCKETS)] if with_beacons else plain


class DecodeGraphs:
    """Graphs of the steps in which every sequence feeds one token; captured when made."""

    def __init__(
        self,
        model: BeaconLM,
        cache: KVCache,
        rotation: Callable[[Tensor], Rotation],
        uploads: Uploads,
        captured: list[Room],
    ) -> None:
        # The largest first: the smaller ones find room in its memory.
        steps = [
            CapturedStep(room, model, cache, rotation, uploads)
            for room in sorted(captured, reverse=True)
        ]
        self._steps = steps[::-1]

    def run(self, step: Step) -> Tensor | None:
        """Logits ``[sequences, vocab]``; None where no graph is for this step."""
        if step.planned.chunks:
            return None
        count, beacons = len(step.singles.chunks), int(step.singles.is_beacon.sum())
        for held in self._steps:
            if held.room.sequences >= count and held.room.beacons >= beacons:
                return held.run(step)
        return None


class CapturedStep:
    """The decode step of one size."""

    def __init__(
        self,
        room: Room,
        model: BeaconLM,
        cache: KVCache,
        rotation: Callable[[Tensor], Rotation],
        uploads: Uploads,
    ) -> None:
        self.room = room
        self._model = model
        self._cache = cache
        self._rotation = rotation
        self._uploads = uploads
        self._scale = 1.0 / math.sqrt(cache.shape.head_dim)
        where, rows, align = uploads.device.where, room.sequences + room.beacons, ALIGN_BYTES // 8
        shape = (len(ROW_INTEGERS), -(-rows // align) * align)
        self._packed = torch.zeros(shape, dtype=torch.int64, device=where)
        self._inputs = dict(zip(ROW_INTEGERS, self._packed[:, :rows], strict=True))
        self._inputs["slots"].fill_(NOWHERE)
        every = torch.arange(rows, device=where)
        raw, beacon = every[: room.sequences], every[room.sequences :]
        self._split = RowSplit(raw, beacon, every) if room.beacons else None
        columns, limits, starts = (self._inputs[name] for name in ("columns", "limits", "starts"))
        layout = AttentionLayout((), columns, limits, starts, uploads.upload)
        self._tables = graph_tables(layout, model.config.num_heads, cache, uploads.device)
        # Rows past the batch are never written: their zeros keep what is computed of them finite.
        heads = (rows, model.config.num_heads, cache.shape.head_dim)
        self._mixed = torch.zeros(heads, dtype=cache.shape.dtype, device=where)
        self._graph = uploads.device.capture(self._forward)

    def run(self, step: Step) -> Tensor | None:
        """Logits of the sequences; None where their tables are too large for the graph's."""
        singles, first_beacon = step.singles, self.room.sequences
        # A beacon reads what its token reads and one key more: here, another one-row sequence.
        if not self._tables.fill([*singles.asking(0), *singles.beacons(first_beacon)]):
            return None
        raw, beacon = singles.wanted, singles.is_beacon.nonzero()[0]
        packed = np.zeros(self._packed.shape, dtype=np.int64)
        packed[ROW_INTEGERS.index("slots")] = NOWHERE
        for number, name in enumerate(ROW_INTEGERS):
            packed[number, : len(raw)] = singles.rows[name][raw]
            packed[number, first_beacon : first_beacon + len(beacon)] = singles.rows[name][beacon]
        self._uploads.upload_into(packed, self._packed)
        # A copy: the next replay writes to the same tensor.
        return self._graph.replay()[: len(raw)].clone()

    def _forward(self) -> Tensor:
        """What is captured. Angles are made from the positions in here, never kept."""
        rotation = self._rotation(self._inputs["positions"])

        def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            kv, memory = self._cache.layer(layer), self._cache.memory_layer(layer)
            turned = ops.rope_and_append(q, k, v, rotation, kv, self._inputs["slots"])
            layout, out = self._tables.layout, self._mixed
            return ops.paged_decode(turned, kv, layout, self._scale, memory=memory, out=out)

        logits: Tensor = self._model(ForwardBatch(self._inputs["ids"], self._split, None, attend))
        return logits
