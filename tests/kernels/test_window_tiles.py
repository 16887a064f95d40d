"""How ``window_attention`` cuts a step into tiles, and how large they are."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("triton")

from memoserve_kernels.window_tiles import choose_tiles, tile_list
from tests.kernels.attention_cases import Shape, Step, make_step


def test_tiles_cover_each_row_once_and_longest_first() -> None:
    step = make_step([Shape(5, 0, 11), Shape(1, 40, 3), Shape(34, 20, 24, 3), Shape(20, 20, 24)])
    tiles = tile_list(step.layout, 16, 3).tiles.numpy()
    covered = [
        (first, packed)
        for first, rows, begin, *_ in tiles.tolist()
        for packed in range(begin, min(begin + 16, rows))
    ]
    expected = [
        (s.first_row, packed)
        for s in step.layout.sequences
        for packed in range((s.last_row - s.first_row) * 3)
    ]
    assert sorted(covered) == sorted(expected)
    keys = [_keys(step, first, begin, begin + 16, 3) for first, _, begin, *_ in tiles.tolist()]
    assert keys == sorted(keys, reverse=True)


def _keys(step: Step, first: int, begin: int, end: int, group: int) -> int:
    """Keys that any row of a tile may see, counted row by row."""
    sequence = next(s for s in step.layout.sequences if s.first_row == first)
    rows = range(first + begin // group, min(first + (end - 1) // group + 1, sequence.last_row))
    columns = [int(step.layout.columns[row]) + 1 for row in rows]
    return sequence.memory_rows + (max(columns) if sequence.causal else sequence.window_rows)


def test_sizes_fit_the_type() -> None:
    """Matrix units of 16 bits want 64 rows a group of four warps; float32 has smaller tiles."""
    for dim in (64, 96, 128, 256):
        sizes = choose_tiles(torch.bfloat16, dim, 90)
        assert sizes.block_m % 64 == 0 and sizes.num_warps % 4 == 0
        assert choose_tiles(torch.float32, dim, 90).block_m < sizes.block_m
