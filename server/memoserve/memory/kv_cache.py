"""Keys and values of all pages: one tensor, head-major inside a page.

``[layers, 2, pages, kv_heads, page_size, head_dim]``; head-major read several times faster on a
CPU than slot-major. Keys are stored rotated for their slot. Memory rows may be kept in 8 bits: the
bytes of a page then hold ``itemsize`` times as many of them, and their scales lie beside.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from memoserve.memory.page_table import PageCopy
from memoserve_kernels.eight_bits import quantise
from memoserve_kernels.layout import MemoryPages

SCALE_BYTES = 4


@dataclass(frozen=True)
class KVShape:
    """What a row costs: ``row_bytes`` counts K and V of all layers.

    ``memory_dtype`` int8 or float8_e4m3fn keeps memory rows in 8 bits; None keeps them as they are.
    """

    layers: int
    kv_heads: int
    head_dim: int
    dtype: torch.dtype
    memory_dtype: torch.dtype | None = None

    @property
    def row_bytes(self) -> int:
        """Bytes of one row, as a window keeps it."""
        return 2 * self.layers * self.kv_heads * self.head_dim * self.dtype.itemsize

    def memory_page_size(self, page_size: int) -> int:
        """Memory rows in a page that holds ``page_size`` window rows."""
        return page_size * (1 if self.memory_dtype is None else self.dtype.itemsize)

    def page_bytes(self, page_size: int) -> int:
        """Bytes of one page, scales included."""
        scales = 0
        if self.memory_dtype is not None:
            rows = self.memory_page_size(page_size)
            scales = 2 * self.layers * self.kv_heads * rows * SCALE_BYTES
        return self.row_bytes * page_size + scales


class KVCache:
    """Storage of ``num_pages`` pages of ``page_size`` slots on a device.

    ``memory`` is the same storage seen as 8-bit rows with their scales, None where memory rows are
    kept like window rows. A page holds one of the two kinds, as the table says that took it.
    """

    def __init__(
        self, shape: KVShape, num_pages: int, page_size: int, device: torch.device
    ) -> None:
        self.shape = shape
        self.page_size = page_size
        self.memory_page_size = shape.memory_page_size(page_size)
        self.data = torch.zeros(
            (shape.layers, 2, num_pages, shape.kv_heads, page_size, shape.head_dim),
            dtype=shape.dtype,
            device=device,
        )
        self.memory = self._eight_bits()

    def _eight_bits(self) -> MemoryPages | None:
        if self.shape.memory_dtype is None:
            return None
        data = self.data.view(self.shape.memory_dtype)  # [..., page_size, itemsize * head_dim]
        rows = (*data.shape[:4], self.memory_page_size)
        scales = torch.zeros(rows, dtype=torch.float32, device=data.device)
        return MemoryPages(data.view(*rows, self.shape.head_dim), scales)

    def layer(self, index: int) -> Tensor:
        """One layer, ``[2, pages, kv_heads, page_size, head_dim]``."""
        return self.data[index]

    def memory_layer(self, index: int) -> MemoryPages | None:
        """One layer's memory rows in 8 bits, None where they are kept in ``layer``."""
        return self.memory.layer(index) if self.memory is not None else None

    def copy_pages(self, copies: Sequence[PageCopy]) -> None:
        """Carry out the copies of shared tail pages that a write to a window asked for."""
        _copy_rows(self.data, copies)

    def copy_memory_pages(self, copies: Sequence[PageCopy]) -> None:
        """As ``copy_pages``, for a memory's table."""
        if self.memory is None:
            _copy_rows(self.data, copies)
            return
        _copy_rows(self.memory.data, copies)
        _copy_rows(self.memory.scales, copies)

    def read(self, slots: Tensor) -> Tensor:
        """Window rows ``slots [n]`` as ``[n, layers, 2, kv_heads, head_dim]``, a copy."""
        return _pick(self.data, slots)

    def write(self, slots: Tensor, rows: Tensor) -> None:
        """Write window rows ``[n, layers, 2, kv_heads, head_dim]`` to ``slots [n]``."""
        _put(self.data, slots, rows)

    def read_memory(self, slots: Tensor) -> Tensor:
        """Memory rows in the type of the cache; what was rounded to 8 bits is exact in it."""
        if self.memory is None:
            return self.read(slots)
        data = _pick(self.memory.data, slots).to(self.shape.dtype)
        return data * _pick(self.memory.scales, slots)[..., None].to(self.shape.dtype)

    def write_memory(self, slots: Tensor, rows: Tensor) -> None:
        """Write memory rows; rows that ``read_memory`` gave come back unchanged."""
        if self.memory is None:
            self.write(slots, rows)
            return
        data, scales = quantise(rows, self.memory.data.dtype)
        _put(self.memory.data, slots, data)
        _put(self.memory.scales, slots, scales)


def _copy_rows(part: Tensor, copies: Sequence[PageCopy]) -> None:
    """First rows of pages of ``part [L, 2, P, K, S, ...]`` to other pages."""
    for copy in copies:
        part[:, :, copy.target, :, : copy.rows] = part[:, :, copy.source, :, : copy.rows]


def _pick(part: Tensor, slots: Tensor) -> Tensor:
    """Rows of ``part [L, 2, P, K, S, ...]`` as ``[n, L, 2, K, ...]``."""
    return part[:, :, slots // part.shape[4], :, slots % part.shape[4]]


def _put(part: Tensor, slots: Tensor, rows: Tensor) -> None:
    """Write rows ``[n, L, 2, K, ...]`` to slots of ``part [L, 2, P, K, S, ...]``."""
    part[:, :, slots // part.shape[4], :, slots % part.shape[4]] = rows
