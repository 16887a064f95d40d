"""A step's groups of chunks, joined: the integers that go to the device, and who reads what."""

from __future__ import annotations

from collections.abc import Sequence as Items
from dataclasses import dataclass

import numpy as np

from memoserve.engine.placed import ROW_INTEGERS, Chunk, Placed, Planned, Singles
from memoserve.memory.kv_cache import KVCache
from memoserve.memory.page_table import Ints
from memoserve.memory.window import WindowRules
from memoserve.models.batch import split_rows
from memoserve_kernels.layout import SequenceLayout

SEEN = ("positions", "columns", "limits", "starts")


@dataclass(frozen=True)
class Step:
    """Chunks whose pages are taken; single tokens first, in whatever order they were given.

    ``integers`` go to the device: ``ROW_INTEGERS`` of all rows; ``raw``, ``beacon``, ``merge``
    where there are beacons; ``output_rows`` and ``output_`` integers of those rows where not all
    rows want logits; ``sources``, ``targets``, ``deltas`` where rows are kept of a closing window.
    """

    singles: Singles
    planned: Planned
    integers: dict[str, Ints]

    @property
    def groups(self) -> tuple[Placed, Placed]:
        """Both kinds of chunks, in the order of their rows."""
        return self.singles, self.planned

    @property
    def layouts(self) -> tuple[SequenceLayout, ...]:
        """Of all rows."""
        first = len(self.singles.is_beacon)
        return (*self.singles.layouts(0), *self.planned.layouts(first))

    @property
    def asking(self) -> tuple[SequenceLayout, ...]:
        """Of the rows that want logits, counted among themselves."""
        return (*self.singles.asking(0), *self.planned.asking(len(self.singles.wanted)))

    @property
    def counts(self) -> dict[int, int]:
        """Rows of logits by the ``id`` of their chunk, in their order."""
        return {
            id(chunk): count
            for group in self.groups
            for chunk, count in zip(group.chunks, group.counts, strict=True)
        }


def take_step(rules: WindowRules, cache: KVCache, chunks: Items[Chunk]) -> Step:
    """Place the chunks; raises OutOfPages with some of the pages taken."""
    singles = Singles(rules, cache, [c for c in chunks if c.is_single(rules)])
    planned = Planned(rules, cache, [c for c in chunks if not c.is_single(rules)])
    return Step(singles, planned, _integers(singles, planned))


def _integers(singles: Singles, planned: Planned) -> dict[str, Ints]:
    rows = {name: np.concatenate([singles.rows[name], planned.rows[name]]) for name in ROW_INTEGERS}
    flags = np.concatenate([singles.is_beacon, planned.is_beacon])
    split = split_rows(flags)
    splits = {} if split is None else dict(zip(("raw", "beacon", "merge"), split, strict=True))
    wanted = np.concatenate([singles.wanted, planned.wanted + len(singles.is_beacon)])
    output: dict[str, Ints] = {}
    if len(wanted) < len(flags):
        output = {"output_rows": wanted} | {f"output_{name}": rows[name][wanted] for name in SEEN}
    return rows | splits | output | planned.moves()
