"""Keys that several readers share: the prefix tree of their page tables, integers only.

Readers whose page tables begin alike share the keys of those pages, so the tables of a step form
a prefix tree (cascade attention; Hydragen, arXiv 2402.05099, section 3, for any number of levels).
A node is a ``Run``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain


@dataclass(frozen=True)
class Run:
    """Keys ``[first, end)`` of the page table ``pages``, seen by exactly these ``readers``."""

    pages: Sequence[int]
    first: int
    end: int
    readers: Sequence[int]


def shared_runs(tables: Sequence[tuple[Sequence[int], int]], page_size: int) -> list[Run]:
    """Prefix tree of page tables ``(pages, rows)``: each reader's keys, each once.

    Full pages are shared where all pages before them are; a partly filled last page too where
    its rows agree. Tables that are the same tuple are compared by identity, equal ones page by
    page.
    """
    alike: dict[tuple[int, int], list[int]] = {}
    for reader, (pages, rows) in enumerate(tables):
        if rows:
            alike.setdefault((id(pages), rows), []).append(reader)
    runs: list[Run] = []
    todo = [(list(alike.values()), 0)]
    while todo:
        bunches, depth = todo.pop()
        buckets: dict[tuple[int, int], list[list[int]]] = {}
        for bunch in bunches:
            pages, rows = tables[bunch[0]]
            filled = min(rows - depth * page_size, page_size)
            if filled > 0:
                buckets.setdefault((pages[depth], filled), []).append(bunch)
        for bucket in buckets.values():
            pages, rows = tables[bucket[0][0]]
            if len(bucket) == 1:
                runs.append(Run(pages, depth * page_size, rows, bucket[0]))
                continue
            last = min(
                _alike((pages, rows), tables[other[0]], depth + 1, page_size)
                for other in bucket[1:]
            )
            readers = list(chain.from_iterable(bucket))
            runs.append(Run(pages, depth * page_size, min(last * page_size, rows), readers))
            todo.append((bucket, last))
    return runs


def _alike(
    a: tuple[Sequence[int], int], b: tuple[Sequence[int], int], low: int, page_size: int
) -> int:
    """Number of pages at the head of both tables that are the same; ``low`` of them are known."""
    (pages, rows), (others, other_rows) = a, b
    high = -(-rows // page_size) if rows == other_rows else min(rows, other_rows) // page_size
    whole = pages is others or (rows == other_rows and pages == others)
    if whole or pages[low:high] == others[low:high]:
        return high
    while high - low > 1:
        middle = (low + high) // 2
        if pages[low:middle] == others[low:middle]:
            low = middle
        else:
            high = middle
    return low
