"""How a step's query rows are cut into tiles for ``window_attention``, and how large they are."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from memoserve_kernels.layout import AttentionLayout, SequenceLayout

# Integers that say what a tile is; 32 bytes, so that the pages behind them stay aligned.
TILE_FIELDS: Final = 8


@dataclass(frozen=True)
class WindowTiles:
    """Sizes of one configuration: BLOCK_M packed query rows against BLOCK_N keys at a time."""

    block_m: int
    block_n: int
    num_warps: int
    num_stages: int


@dataclass(frozen=True)
class TileList:
    """Tiles of a step on the device: ``tiles [count, 8]`` and the ``pages`` they point into.

    A tile is (first query row of its sequence, packed rows of the sequence, first packed row of
    the tile, memory rows, first memory page in ``pages``, window rows, first window page, first
    packed row again).
    """

    tiles: Tensor
    pages: Tensor
    count: int


# The interpreter takes as long for a large tile as for a small one.
INTERPRETED: Final = WindowTiles(64, 64, 4, 1)


def has_descriptors(arch: int) -> bool:
    """Whether tiles come by tensor descriptors: compute capability 9.0 to 10.3.

    12.0 has them too, but half of the shared memory that the sizes for them fill.
    """
    return 90 <= arch < 120


def takes_descriptors(
    dtype: torch.dtype, head_dim: int, arch: int, memory_dtype: torch.dtype | None
) -> bool:
    """Whether whole tiles of keys are asked for by tensor descriptors.

    Not in float32 beyond 128 over 8-bit memories: what they bring leaves no registers to widen in.
    """
    wide = dtype == torch.float32 and head_dim > 128 and memory_dtype is not None
    return has_descriptors(arch) and not wide


def choose_tiles(
    dtype: torch.dtype, head_dim: int, arch: int, memory_dtype: torch.dtype | None = None
) -> WindowTiles:
    """Sizes for a type, a head dim up to 256 and a compute capability such as 90.

    Each is the largest that the compiler keeps in registers. ``num_stages`` counts the load of a
    page's number too: of 5, two tiles of keys are on their way.
    """
    if dtype == torch.float32:
        # IEEE products run on the scalar units and hold both operands in registers: beyond 128 as
        # much as there are, without the next tile on its way.
        if head_dim <= 64:
            return WindowTiles(32, 32, 8, 2)
        return WindowTiles(16, 16, 8, 2 if head_dim <= 128 else 1)
    eight_bits = memory_dtype is not None
    if has_descriptors(arch):
        if head_dim > 128:
            return WindowTiles(64 if eight_bits else 128, 32, 8, 3)
        if eight_bits and arch >= 100:
            # The mask of a padded head dim takes registers too.
            padded = head_dim & (head_dim - 1) != 0
            return WindowTiles(128, 64, 8, 2 if padded else 3)
        return WindowTiles(128, 64, 8, 5)
    if head_dim > 128:
        return WindowTiles(64, 32, 8, 3)
    return WindowTiles(128, 32 if eight_bits else 64, 8, 5)


def tile_list(layout: AttentionLayout, block_m: int, group: int) -> TileList:
    """Tiles of ``block_m`` packed rows, the longest first, so that short ones fill the end.

    Packed row m of a sequence is its query row ``m // group`` under head ``m % group`` of a kv
    head. Made once a layout.
    """
    key: Hashable = ("window tiles", block_m, group)
    return layout.once(key, lambda: _tile_list(layout, block_m, group))


def _tile_list(layout: AttentionLayout, block_m: int, group: int) -> TileList:
    parts, works, tables = [], [], []
    used = 0
    for sequence in layout.sequences:
        part, work = _tiles_of(sequence, block_m, group)
        part[:, 4] = used
        part[:, 6] = used + len(sequence.memory_pages)
        used += len(sequence.memory_pages) + len(sequence.window_pages)
        tables += [sequence.memory_pages, sequence.window_pages]
        parts.append(part)
        works.append(work)
    order = np.argsort(-np.concatenate(works), kind="stable")
    tiles = np.concatenate(parts)[order]
    pages = [np.asarray(table, dtype=np.int32) for table in tables]
    packed = layout.to_device(np.concatenate([tiles.reshape(-1), *pages]))
    count = len(tiles)
    return TileList(
        packed[: count * TILE_FIELDS].view(count, TILE_FIELDS), packed[count * TILE_FIELDS :], count
    )


def _tiles_of(
    sequence: SequenceLayout, block_m: int, group: int
) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Tiles of one sequence, without their page tables, and the keys that each goes through."""
    rows = sequence.last_row - sequence.first_row
    firsts = np.arange(0, rows * group, block_m)
    tiles = np.zeros((len(firsts), TILE_FIELDS), dtype=np.int32)
    tiles[:, 0] = sequence.first_row
    tiles[:, 1] = rows * group
    tiles[:, 2] = tiles[:, 7] = firsts
    tiles[:, 3] = sequence.memory_rows
    tiles[:, 5] = sequence.window_rows
    hidden = np.zeros_like(firsts)
    if sequence.causal:
        hidden = rows - np.minimum(-(-(firsts + block_m) // group), rows)
    return tiles, sequence.memory_rows + sequence.window_rows - hidden
