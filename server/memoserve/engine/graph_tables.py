"""What a captured decode step knows of its sequences: refilled, never moved."""

from __future__ import annotations

from collections.abc import Sequence as Items
from typing import Protocol

import torch
from torch import Tensor

from memoserve.engine.device import Device, Event
from memoserve.memory.kv_cache import KVCache
from memoserve_kernels import ops
from memoserve_kernels.layout import AttentionLayout, SequenceLayout


class GraphTables(Protocol):
    """The tables of one captured step, and the layout that its attention is launched with."""

    layout: AttentionLayout

    def fill(self, sequences: Items[SequenceLayout]) -> bool:
        """Make the next replay read these sequences' pages; False where there is no room."""
        ...


class RebuiltTables:
    """For a CPU, whose replays run the step's Python again: a fresh layout each time."""

    def __init__(self, layout: AttentionLayout) -> None:
        self.layout = layout

    def fill(self, sequences: Items[SequenceLayout]) -> bool:
        """There is always room."""
        old = self.layout
        self.layout = AttentionLayout(tuple(sequences), old.columns, old.limits, old.starts)
        return True


class StaticTables:
    """Tables of the Triton kernels on the device: a replay reads from them whatever was filled in.

    They have room for every page of the pool once.
    """

    def __init__(
        self, layout: AttentionLayout, num_heads: int, cache: KVCache, device: Device
    ) -> None:
        # Triton is there only where its kernels run.
        from memoserve_kernels import decode_plan, decode_tables, decode_tiles, triton_pages

        self._plan = decode_plan.plan_decode
        rows, shape = layout.rows, cache.shape
        q = torch.empty((0, num_heads, shape.head_dim), dtype=shape.dtype, device=device.where)
        arch = triton_pages.compute_capability(device.where)
        tiles = decode_tiles.decode_tiles(q.dtype, shape.head_dim, arch)
        self._shape = decode_tiles.decode_shape(q, cache.layer(0), cache.memory_layer(0), tiles)
        num_pages = cache.data.shape[2]
        capacity = decode_tables.DecodeCapacity.for_batch(self._shape, rows, num_pages)
        self._tables = decode_tables.DecodeTables.allocate(self._shape, capacity, device.where)
        self._tables.attach(layout)
        self.layout = layout
        self._device = device
        self._staging: Tensor | None = None
        if device.options.pinned_uploads:
            packed = self._tables.packed
            self._staging = device.host_empty(tuple(packed.shape), packed.dtype)
        self._filled: Event | None = None

    def fill(self, sequences: Items[SequenceLayout]) -> bool:
        """One copy in the order of the compute stream."""
        plan = self._plan(sequences, self.layout.rows, self._shape)
        if not self._tables.fits(plan):
            return False
        if self._filled is not None:
            self._filled.wait()  # the staging buffer is free again
        self._tables.fill(plan, self._staging)
        self._filled = self._device.compute.record()
        return True


def graph_tables(
    layout: AttentionLayout, num_heads: int, cache: KVCache, device: Device
) -> GraphTables:
    """Tables for the backend that decodes on this device.

    Raises ValueError for one whose work cannot be captured.
    """
    backend = ops.backend_name(device.where, cache.shape.dtype)
    if backend in ("triton", "flash"):  # flash decodes with the Triton kernels
        return StaticTables(layout, num_heads, cache, device)
    if device.where.type != "cpu":
        raise ValueError(f"graphs are made of the triton kernels; the backend is {backend}")
    return RebuiltTables(layout)
