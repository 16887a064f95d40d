"""What a captured decode step knows of its sequences: refilled, never moved."""

from __future__ import annotations

from collections.abc import Sequence as Items
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from memoserve.engine.device import Device
from memoserve.engine.streams import Event
from memoserve.memory.kv_cache import KVCache
from memoserve_kernels import ops
from memoserve_kernels.layout import AttentionLayout, SequenceLayout

if TYPE_CHECKING:
    from memoserve_kernels.decode_tables import DecodeTables


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


@dataclass(frozen=True)
class Scratch:
    """Partial results of the largest captured step: ``[E, H, D]`` and ``[E, H]``, float32.

    All captured steps use it: only one of them runs at a time.
    """

    partial: Tensor
    partial_lse: Tensor

    @property
    def nbytes(self) -> int:
        """Bytes of both."""
        return self.partial.nbytes + self.partial_lse.nbytes


class StaticTables:
    """Tables of the Triton kernels on the device: a replay reads from them whatever was filled in.

    They have room for every page of the pool once.
    """

    def __init__(
        self,
        layout: AttentionLayout,
        num_heads: int,
        cache: KVCache,
        device: Device,
        scratch: Scratch,
    ) -> None:
        from memoserve_kernels import decode_plan

        self._plan = decode_plan.plan_decode
        num_pages = cache.data.shape[2]
        sized = _unallocated(layout.rows, num_heads, cache, num_pages, device)
        entries = sized.capacity.entries
        self._tables = replace(
            sized,
            packed=torch.zeros(sized.packed.shape, dtype=torch.int32, device=device.where),
            partial=scratch.partial[:entries],
            partial_lse=scratch.partial_lse[:entries],
        )
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
        plan = self._plan(sequences, self.layout.rows, self._tables.shape)
        if not self._tables.fits(plan):
            return False
        if self._filled is not None:
            self._filled.wait()  # the staging buffer is free again
        self._tables.fill(plan, self._staging)
        self._filled = self._device.compute.record()
        return True


def _unallocated(
    rows: int, num_heads: int, cache: KVCache, num_pages: int, device: Device
) -> DecodeTables:
    """Tables of so many query rows without memory behind them: what they take is known first."""
    # Triton is there only where its kernels run.
    from memoserve_kernels import decode_tables, decode_tiles, triton_pages

    shape = cache.shape
    q = torch.empty((0, num_heads, shape.head_dim), dtype=shape.dtype, device=device.where)
    arch = triton_pages.compute_capability(device.where)
    tiles = decode_tiles.decode_tiles(q.dtype, shape.head_dim, arch)
    decode = decode_tiles.decode_shape(q, cache.layer(0), cache.memory_layer(0), tiles)
    capacity = decode_tables.DecodeCapacity.for_batch(decode, rows, num_pages)
    return decode_tables.DecodeTables.allocate(decode, capacity, torch.device("meta"))


def has_static_tables(cache: KVCache, device: Device) -> bool:
    """Whether the backend that decodes on this device takes tables that stay where they are.

    Raises ValueError for one whose work cannot be captured.
    """
    backend = ops.backend_name(device.where, cache.shape.dtype)
    if backend in ("triton", "flash"):  # flash decodes with the Triton kernels
        return True
    if device.where.type != "cpu":
        raise ValueError(f"graphs are made of the triton kernels; the backend is {backend}")
    return False


def make_scratch(rows: int, num_heads: int, cache: KVCache, device: Device) -> Scratch | None:
    """Scratch for captured steps of up to ``rows`` query rows; None where none is needed."""
    if not has_static_tables(cache, device):
        return None
    sized = _unallocated(rows, num_heads, cache, 0, device)
    partial, lse = (
        torch.empty(part.shape, dtype=part.dtype, device=device.where)
        for part in (sized.partial, sized.partial_lse)
    )
    return Scratch(partial, lse)


def table_bytes(
    rows: int, num_heads: int, cache: KVCache, num_pages: int, device: Device
) -> tuple[int, int]:
    """Bytes of the tables of a step of ``rows`` query rows, and of the scratch it needs.

    ``cache`` tells its shapes alone: it may be one without pages.
    """
    if not has_static_tables(cache, device):
        return 0, 0
    sized = _unallocated(rows, num_heads, cache, num_pages, device)
    return sized.packed.nbytes, Scratch(sized.partial, sized.partial_lse).nbytes


def graph_tables(
    layout: AttentionLayout,
    num_heads: int,
    cache: KVCache,
    device: Device,
    scratch: Scratch | None,
) -> GraphTables:
    """Tables for the backend that decodes on this device; ``scratch`` is of ``make_scratch``."""
    if scratch is None:
        return RebuiltTables(layout)
    return StaticTables(layout, num_heads, cache, device, scratch)
