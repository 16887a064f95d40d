"""Which pages are free and who refers to the others. Integers only."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence


class OutOfPages(Exception):
    """More pages were asked for than are free; the engine makes room or refuses."""

    def __init__(self, needed: int, free: int) -> None:
        super().__init__(f"{needed} pages needed, {free} free")
        self.needed = needed
        self.free = free


class IntegrityError(AssertionError):
    """A page is lost, shared by mistake, or counted wrongly: a bug, never an answer."""


class PagePool:
    """Reference counts of ``num_pages`` pages of ``page_size`` slots each.

    A page that holds memory rows has ``memory_page_size`` slots: more, where those are kept in
    fewer bits. Which of the two a page holds is the business of the table that took it.
    """

    def __init__(self, num_pages: int, page_size: int, memory_page_size: int = 0) -> None:
        if num_pages < 1 or page_size < 1:
            raise ValueError(f"a pool needs pages: {num_pages} of {page_size} slots")
        self.num_pages = num_pages
        self.page_size = page_size
        self.memory_page_size = memory_page_size or page_size
        # Handed out from the end: a fresh pool gives ascending, hence contiguous, pages.
        self._free = list(range(num_pages - 1, -1, -1))
        self._references = [0] * num_pages
        self._shared = 0

    @property
    def num_free(self) -> int:
        """Pages nobody refers to."""
        return len(self._free)

    @property
    def num_used(self) -> int:
        """Pages somebody refers to."""
        return self.num_pages - len(self._free)

    @property
    def num_shared(self) -> int:
        """Pages that more than one table refers to."""
        return self._shared

    def references(self, page: int) -> int:
        """How many tables hold ``page``."""
        return self._references[page]

    def allocate(self, count: int) -> list[int]:
        """Take ``count`` pages with one reference each; raises OutOfPages and takes none."""
        if count > len(self._free):
            raise OutOfPages(count, len(self._free))
        pages = [self._free.pop() for _ in range(count)]
        for page in pages:
            self._references[page] = 1
        return pages

    def retain(self, pages: Iterable[int]) -> None:
        """Add one reference to each page."""
        for page in pages:
            if self._references[page] < 1:
                raise IntegrityError(f"page {page} is free and cannot be retained")
            self._references[page] += 1
            self._shared += self._references[page] == 2

    def release(self, pages: Iterable[int]) -> None:
        """Give one reference of each page back; the last one frees it."""
        # Backwards: freed pages are handed out again in their order, hence side by side.
        for page in reversed(list(pages)):
            if self._references[page] < 1:
                raise IntegrityError(f"page {page} is released twice")
            self._references[page] -= 1
            self._shared -= self._references[page] == 1
            if self._references[page] == 0:
                self._free.append(page)

    def check_integrity(self, tables: Iterable[Sequence[int]]) -> None:
        """free + referenced = all, and every count equals the tables that hold the page."""
        held = Counter(page for table in tables for page in table)
        if len(set(self._free)) != len(self._free):
            raise IntegrityError("a page is free twice")
        for page in range(self.num_pages):
            if held[page] != self._references[page]:
                raise IntegrityError(
                    f"page {page}: {held[page]} tables hold it, {self._references[page]} counted"
                )
        free = sum(count == 0 for count in self._references)
        if free != len(self._free) or any(self._references[page] for page in self._free):
            raise IntegrityError(f"{free} pages without a reference, {len(self._free)} free")
