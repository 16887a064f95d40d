"""Ordered pages of one reader. Integers only.

Full pages are immutable and shared by reference; the first write after a fork copies the one
partly filled tail page. The caller carries the copies out on the tensors.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from memoserve.memory.page_pool import PagePool

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class PageCopy:
    """The first ``rows`` slots of ``source`` are to be copied to ``target`` before any write."""

    source: int
    target: int
    rows: int


class PageTable:
    """``length`` rows in pages of a pool, ``page_size`` a page. Not shared between threads."""

    def __init__(self, pool: PagePool, page_size: int = 0) -> None:
        self.pool = pool
        self.page_size = page_size or pool.page_size
        self.pages: list[int] = []
        self.length = 0
        self._tuple: tuple[int, ...] | None = ()

    @property
    def as_tuple(self) -> tuple[int, ...]:
        """The pages as one value; forks have the very same one until either takes other pages.

        A step asks for the tables of all readers: thousands of pages each, mostly unchanged.
        """
        if self._tuple is None:
            self._tuple = tuple(self.pages)
        return self._tuple

    def fork(self) -> PageTable:
        """A second reader of the same rows; nothing is copied."""
        twin = PageTable(self.pool, self.page_size)
        self.pool.retain(self.pages)
        twin.pages = list(self.pages)
        twin.length = self.length
        twin._tuple = self.as_tuple
        return twin

    @property
    def wasted_slots(self) -> int:
        """Slots of the pages that hold no row."""
        return len(self.pages) * self.page_size - self.length

    @property
    def num_exclusive(self) -> int:
        """Pages that only this table holds."""
        return sum(self.pool.references(page) == 1 for page in self.pages)

    def _tail_is_shared(self) -> bool:
        partly = self.length % self.page_size != 0
        return partly and self.pool.references(self.pages[-1]) > 1

    def pages_to_extend(self, rows: int) -> int:
        """Pages that ``extend(rows)`` takes from the pool, the copy of a shared tail included."""
        if rows == 0:
            return 0
        size = self.page_size
        return -(-(self.length + rows) // size) - len(self.pages) + self._tail_is_shared()

    def extend(self, rows: int) -> list[PageCopy]:
        """Make room for ``rows`` more rows; raises OutOfPages and changes nothing."""
        fresh = self.pool.allocate(self.pages_to_extend(rows))
        copies = []
        if rows and self._tail_is_shared():
            copies.append(PageCopy(self.pages[-1], fresh[0], self.length % self.page_size))
            self.pool.release([self.pages.pop()])
        if fresh:
            self.pages += fresh
            self._tuple = None
        self.length += rows
        return copies

    def slots(self, start: int, stop: int) -> Ints:
        """Slots of rows ``start`` to ``stop``."""
        rows = np.arange(start, stop, dtype=np.int64)
        return self.slots_of(rows)

    def slots_of(self, rows: Ints) -> Ints:
        """Slots of the given rows."""
        if len(rows) == 0:
            return rows
        size = self.page_size
        pages = np.asarray(self.pages, dtype=np.int64)
        slots: Ints = pages[rows // size] * size + rows % size
        return slots

    def truncate(self, rows: int) -> None:
        """Forget all rows from ``rows`` on and give their pages back."""
        if not 0 <= rows <= self.length:
            raise ValueError(f"cannot cut {self.length} rows to {rows}")
        keep = -(-rows // self.page_size)
        self.pool.release(self.pages[keep:])
        if keep < len(self.pages):
            del self.pages[keep:]
            self._tuple = None
        self.length = rows

    def release(self) -> None:
        """Give every page back; the table is empty afterwards and may be released again."""
        self.truncate(0)
