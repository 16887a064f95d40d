"""What captured decode steps keep on the device: the tensors, and their bytes beforehand.

The tensors are made here and nowhere else, so that the pool's rule (``pool_size``) counts them by
making the same ones without memory behind them.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from collections.abc import Sequence as Items
from dataclasses import dataclass

import torch
from torch import Tensor

from memoserve.engine.device import Device
from memoserve.engine.graph_tables import Scratch, make_scratch, table_bytes
from memoserve.engine.placed import ROW_INTEGERS
from memoserve.engine.pool_size import forward_bytes
from memoserve.engine.uploads import ALIGN_BYTES
from memoserve.memory.kv_cache import KVCache
from memoserve.memory.window import Placement, WindowRules
from memoserve.models.config import ModelConfig

log = logging.getLogger(__name__)

BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


@dataclass(frozen=True, order=True)
class Room:
    """Rows that a captured step has: a raw one for each sequence, and beacons behind some."""

    sequences: int
    beacons: int

    @property
    def rows(self) -> int:
        """Both kinds."""
        return self.sequences + self.beacons


def rooms(rules: WindowRules) -> list[Room]:
    """What is captured. Beacons behind more than half of the sequences take a larger room."""
    plain = [Room(size, 0) for size in BUCKETS]
    if rules.placement is not Placement.INTERLEAVE:
        return plain  # appended beacons come with the end of a window, which no graph is for
    return [*plain, *(Room(size, (size + 1) // 2) for size in BUCKETS)]


@dataclass(frozen=True)
class RoomTensors:
    """What a step of one size has for itself.

    ``packed`` int64, a line for each of ``ROW_INTEGERS``; ``every`` int64 ``[rows]``, their
    numbers, empty where there are no beacons to be told from the others.
    """

    packed: Tensor
    every: Tensor

    @classmethod
    def allocate(cls, room: Room, where: torch.device) -> RoomTensors:
        """Lines are as long as a packed upload's, so that kernels may read 16 bytes at once."""
        align = ALIGN_BYTES // 8
        shape = (len(ROW_INTEGERS), -(-room.rows // align) * align)
        packed = torch.zeros(shape, dtype=torch.int64, device=where)
        return cls(packed, torch.arange(room.rows if room.beacons else 0, device=where))

    @property
    def nbytes(self) -> int:
        """Bytes of both."""
        return self.packed.nbytes + self.every.nbytes


@dataclass(frozen=True)
class SharedTensors:
    """What all captured steps write to, one after the other; each leaves nothing for the next.

    ``mixed [rows, H, D]`` what attention gives, ``logits [sequences, vocab]``; ``scratch`` of a
    split decode, None where the backend needs none.
    """

    mixed: Tensor
    logits: Tensor
    scratch: Scratch | None

    @classmethod
    def allocate(
        cls, captured: Items[Room], config: ModelConfig, cache: KVCache, device: Device
    ) -> SharedTensors:
        """Large enough for each of these rooms."""
        rows = max(room.rows for room in captured)
        mixed, logits = _outputs(captured, config, cache, device.where)
        return cls(mixed, logits, make_scratch(rows, config.num_heads, cache, device))


def _outputs(
    captured: Items[Room], config: ModelConfig, cache: KVCache, where: torch.device
) -> tuple[Tensor, Tensor]:
    rows = max(room.rows for room in captured)
    sequences = max(room.sequences for room in captured)
    # Zeros: rows that no sequence has are read before anybody wrote them; nobody reads further.
    mixed = torch.zeros(
        (rows, config.num_heads, config.head_dim), dtype=cache.shape.dtype, device=where
    )
    logits = torch.empty((sequences, config.vocab_size), dtype=cache.shape.dtype, device=where)
    return mixed, logits


def graph_bytes(
    captured: Items[Room], config: ModelConfig, cache: KVCache, num_pages: int, device: Device
) -> int:
    """Bytes that graphs of these rooms keep on the device, over a pool of ``num_pages`` pages.

    Of ``cache`` only the shapes are asked: it may be one without pages. The last term is what the
    largest step makes on its way, as ``step_reserve`` counts it: a graph owns that memory as long
    as it lives, and the smaller ones are captured into it.
    """
    if not captured:
        return 0
    rows = max(room.rows for room in captured)
    nowhere = torch.device("meta")
    own = sum(RoomTensors.allocate(room, nowhere).nbytes for room in captured)
    tables = sum(
        table_bytes(room.rows, config.num_heads, cache, num_pages, device)[0] for room in captured
    )
    scratch = table_bytes(rows, config.num_heads, cache, num_pages, device)[1]
    shared = sum(part.nbytes for part in _outputs(captured, config, cache, nowhere))
    return own + tables + scratch + shared + forward_bytes(config, rows, cache.shape.dtype.itemsize)


def sizes_of(some: Iterable[Room]) -> str:
    """Rooms in words for the log, the smaller first."""
    return ", ".join(
        f"{room.sequences} sequences" + (f" and {room.beacons} beacons" if room.beacons else "")
        for room in sorted(some)
    )


def rooms_that_fit(
    captured: Items[Room], config: ModelConfig, cache: KVCache, device: Device, budget: int
) -> list[Room]:
    """The smaller ones of these rooms, as many as keep no more than ``budget`` bytes.

    Says in the log, once, that some do not fit.
    """
    fitting, num_pages = sorted(captured), cache.data.shape[2]
    needed = graph_bytes(fitting, config, cache, num_pages, device)
    while fitting and graph_bytes(fitting, config, cache, num_pages, device) > budget:
        fitting.pop()
    if len(fitting) < len(captured):
        log.warning(
            "graphs keep %d bytes and the pool leaves %d; fewer pages leave more. Steps that need "
            "one of these run without it: %s",
            needed,
            max(budget, 0),
            sizes_of(set(captured) - set(fitting)),
        )
    return fitting
