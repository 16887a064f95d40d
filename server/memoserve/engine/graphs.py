"""Decode steps captured once for each size of batch and replayed.

A step of small kernels takes the host longer to launch than the device to run. A graph is launched
as one, over tensors that stay where they are: the step's integers are copied into them, raw rows
first, then beacons; rows past either stand at no slot and see nothing.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from memoserve.engine.faults import is_shortage
from memoserve.engine.graph_memory import Room, RoomTensors, SharedTensors, sizes_of
from memoserve.engine.graph_tables import graph_tables
from memoserve.engine.placed import ROW_INTEGERS
from memoserve.engine.step import Step
from memoserve.engine.uploads import Uploads
from memoserve.memory.kv_cache import KVCache
from memoserve.models.batch import ForwardBatch, RowSplit
from memoserve.models.layers import BeaconLM
from memoserve_kernels import ops
from memoserve_kernels.layout import AttentionLayout, Rotation

log = logging.getLogger(__name__)

NOWHERE = -1


class DecodeGraphs:
    """Graphs of the steps in which every sequence feeds one token; captured when made.

    A size for which memory is lacking is left out: steps of it run without a graph.
    """

    def __init__(
        self,
        model: BeaconLM,
        cache: KVCache,
        rotation: Callable[[Tensor], Rotation],
        uploads: Uploads,
        captured: list[Room],
    ) -> None:
        self._model = model
        self._cache = cache
        self._rotation = rotation
        self._uploads = uploads
        self._shared: SharedTensors | None = None
        self._steps: list[CapturedStep] = []
        # The largest first: the smaller ones find room in its memory.
        for room in sorted(captured, reverse=True):
            step = self._capture(room)
            if step is None:
                # Also after the handler, which keeps alive what the failed attempt allocated.
                uploads.device.empty_cache()
            else:
                self._steps.insert(0, step)
        uploads.device.end_captures()
        lacking = set(captured) - {step.room for step in self._steps}
        if lacking:
            uploads.device.empty_cache()
            log.warning(
                "memory was lacking for %d of %d graphs; steps that need one of these run without "
                "it: %s",
                len(lacking),
                len(captured),
                sizes_of(lacking),
            )

    def _capture(self, room: Room) -> CapturedStep | None:
        """One size; None where memory is lacking. What all share is made for the first."""
        device = self._uploads.device
        try:
            shared = self._shared or SharedTensors.allocate(
                [room], self._model.config, self._cache, device
            )
            step = CapturedStep(
                room, self._model, self._cache, self._rotation, self._uploads, shared
            )
        except Exception as error:
            # Ending a recording that lacked memory may itself fail, with words of its own. No
            # local may hold the error: with this frame it would be a cycle, and all that the
            # attempt allocated would live until somebody collects it.
            if not any(
                cause is not None and is_shortage(cause) for cause in (error, error.__context__)
            ):
                raise
            return None
        self._shared = shared
        return step

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
        shared: SharedTensors,
    ) -> None:
        self.room = room
        self._model = model
        self._cache = cache
        self._rotation = rotation
        self._uploads = uploads
        self._scale = 1.0 / math.sqrt(cache.shape.head_dim)
        own = RoomTensors.allocate(room, uploads.device.where)
        self._packed = own.packed
        self._inputs = dict(zip(ROW_INTEGERS, own.packed[:, : room.rows], strict=True))
        self._inputs["slots"].fill_(NOWHERE)
        raw, beacon = own.every[: room.sequences], own.every[room.sequences :]
        self._split = RowSplit(raw, beacon, own.every) if room.beacons else None
        columns, limits, starts = (self._inputs[name] for name in ("columns", "limits", "starts"))
        layout = AttentionLayout((), columns, limits, starts, uploads.upload)
        heads, device = model.config.num_heads, uploads.device
        self._tables = graph_tables(layout, heads, cache, device, shared.scratch)
        # Rows past the batch keep what an earlier step left: nobody reads what comes of them.
        self._mixed = shared.mixed[: room.rows]
        self._logits = shared.logits[: room.sequences]
        self._graph = device.capture(self._forward)

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

        hidden = self._model.model(ForwardBatch(self._inputs["ids"], self._split, None, attend))
        # The head is for raw rows, which come first: of a beacon nobody asks what follows.
        weights = self._model.lm_head.weight
        return torch.mm(hidden[: self.room.sequences], weights.t(), out=self._logits)
