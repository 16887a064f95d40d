"""Tile sizes of ``paged_decode`` and the shape of its plans: one function of type and chip."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from typing import Final

import torch
from torch import Tensor

from memoserve_kernels.decode_plan import DecodeShape, Lane
from memoserve_kernels.layout import MemoryPages

# Programs that the interpreter and tests stand for, instead of a machine's.
_CPU_PROGRAMS: Final = 4
# The least that a product takes; divides the keys of every configuration.
FEWEST_KEYS: Final = 16


@dataclass(frozen=True)
class DecodeTiles:
    """One configuration: BLOCK_M rows times heads against BLOCK_N keys at a time.

    ``per_core`` programs run on a multiprocessor at once.
    """

    block_m: int
    block_n: int
    num_warps: int
    num_stages: int
    per_core: int


@cache
def decode_tiles(
    dtype: torch.dtype, head_dim: int, arch: int, eight_bits: bool = False
) -> tuple[DecodeTiles, ...]:
    """Configurations for a type, a head dim up to 256 and a compute capability, by block_m.

    The smallest serves one reader: bound by memory, so many loads in flight and two programs a
    multiprocessor. The larger ones serve many readers of one run, where the products count.
    ``eight_bits``: for keys in 8 bits; the same tiles of rows, with fewer keys at a time, because
    keys widen in registers on their way. The number of keys divides that of the other.
    """
    if dtype == torch.float32:
        # IEEE products run on the scalar units and hold both operands in registers.
        return (DecodeTiles(16, 16, 8 if eight_bits else 4, 2, 2),)
    if head_dim > 128:
        small = DecodeTiles(16, 32, 8 if eight_bits else 4, 3, 1)
        # Without wgmma a wide query of many rows leaves no registers for its keys.
        large = DecodeTiles(64, 16 if eight_bits else 32, 8, 3, 1)
        return (small, large) if arch >= 90 else (small,)
    if eight_bits:
        small = DecodeTiles(16, 32, 4, 4, 2)
        if head_dim & (head_dim - 1) != 0 and arch < 100:
            # The mask of a padded head dim takes registers too.
            small = DecodeTiles(16, 32, 8, 4, 2) if arch < 90 else DecodeTiles(16, 32, 4, 2, 2)
        return (
            small,
            # On sm_100 the compiler gives eight warps too few registers here.
            DecodeTiles(64, 32, 8 if arch < 100 else 4, 4, 1),
            DecodeTiles(128, 32, 8, 4, 1),
        )
    if arch < 90:
        return (
            DecodeTiles(16, 64, 4, 3, 2),
            DecodeTiles(64, 32, 4, 4, 2),
            DecodeTiles(128, 32, 8, 4, 1),
        )
    return (
        DecodeTiles(16, 64, 4, 4, 2),
        DecodeTiles(64, 64, 4, 2, 2),
        DecodeTiles(128, 64, 8, 3, 1),
    )


def fitted(tiles: DecodeTiles, page_size: int) -> DecodeTiles:
    """The tiles for pages of a size: where it is no multiple of their keys, the fewest keys."""
    if page_size % tiles.block_n == 0:
        return tiles
    return replace(tiles, block_n=FEWEST_KEYS)


@cache
def cores(device: torch.device) -> int:
    """Multiprocessors of a device."""
    if device.type != "cuda":
        return _CPU_PROGRAMS
    return int(torch.cuda.get_device_properties(device).multi_processor_count)


def decode_shape(
    q: Tensor, kv: Tensor, memory: MemoryPages | None, tiles: tuple[DecodeTiles, ...]
) -> DecodeShape:
    """Shape of the plans for ``q [N, H, D]`` over one layer ``kv [2, P, K, S, D]``.

    ``tiles`` are those for keys of q's own type, whatever ``memory`` is.
    """
    memory_page_size = 0 if memory is None else memory.data.shape[3]
    sizes = (q.shape[1], kv.shape[2], q.shape[2], kv.shape[3], memory_page_size)
    return _shape(sizes, tiles, cores(q.device))


@cache
def _shape(
    sizes: tuple[int, int, int, int, int], tiles: tuple[DecodeTiles, ...], num_cores: int
) -> DecodeShape:
    """The same object for every layer of every step."""
    kv_heads = sizes[1]
    lanes = tuple(
        Lane(t.block_m, t.block_n, max(1, num_cores * t.per_core // kv_heads)) for t in tiles
    )
    return DecodeShape(*sizes, lanes)
