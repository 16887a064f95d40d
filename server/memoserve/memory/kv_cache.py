"""Keys and values of all pages: one tensor, head-major inside a page.

``[layers, 2, pages, kv_heads, page_size, head_dim]``; head-major read several times faster on a
CPU than slot-major. Keys are stored rotated for their slot.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from memoserve.memory.page_table import PageCopy


@dataclass(frozen=True)
class KVShape:
    """What a row costs: ``row_bytes`` counts K and V of all layers."""

    layers: int
    kv_heads: int
    head_dim: int
    dtype: torch.dtype

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return 2 * self.layers * self.kv_heads * self.head_dim * self.dtype.itemsize


class KVCache:
    """Storage of ``num_pages`` pages of ``page_size`` slots on a device."""

    def __init__(
        self, shape: KVShape, num_pages: int, page_size: int, device: torch.device
    ) -> None:
        self.shape = shape
        self.page_size = page_size
        self.data = torch.zeros(
            (shape.layers, 2, num_pages, shape.kv_heads, page_size, shape.head_dim),
            dtype=shape.dtype,
            device=device,
        )

    def layer(self, index: int) -> Tensor:
        """One layer, ``[2, pages, kv_heads, page_size, head_dim]``."""
        return self.data[index]

    def copy_pages(self, copies: Sequence[PageCopy]) -> None:
        """Carry out the copies of shared tail pages that a write asked for."""
        for copy in copies:
            self.data[:, :, copy.target, :, : copy.rows] = self.data[
                :, :, copy.source, :, : copy.rows
            ]

    def read(self, slots: Tensor) -> Tensor:
        """Rows ``slots [n]`` as ``[n, layers, 2, kv_heads, head_dim]``, a copy."""
        return self.data[:, :, slots // self.page_size, :, slots % self.page_size]

    def write(self, slots: Tensor, rows: Tensor) -> None:
        """Write rows ``[n, layers, 2, kv_heads, head_dim]`` to ``slots [n]``."""
        self.data[:, :, slots // self.page_size, :, slots % self.page_size] = rows
