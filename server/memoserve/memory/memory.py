"""A sequence's state in pages: what a memory is, resident, and how it leaves the device."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from memoserve.memory import window as win
from memoserve.memory.page_pool import PagePool
from memoserve.memory.page_table import PageTable
from memoserve.memory.window import RatioSchedule, WindowRules, WindowState


@dataclass
class PagedState:
    """Where a sequence stands: its window state and its two page tables.

    ``memory`` holds sink and beacons, ``window`` the rows of the open window.
    """

    schedule: RatioSchedule
    state: WindowState
    memory: PageTable
    window: PageTable

    @staticmethod
    def fresh(pool: PagePool, schedule: RatioSchedule) -> PagedState:
        """The state before the first token."""
        memory = PageTable(pool, pool.memory_page_size)
        return PagedState(schedule, WindowState(), memory, PageTable(pool))

    def fork(self) -> PagedState:
        """A second reader; nothing is copied."""
        return PagedState(self.schedule, self.state, self.memory.fork(), self.window.fork())

    def release(self) -> None:
        """Give all pages back."""
        self.memory.release()
        self.window.release()

    def truncate(self, rules: WindowRules, windows: int) -> None:
        """Cut back to the border after ``windows`` windows; exactly the memory of that prefix."""
        if not 0 <= windows <= self.state.windows_closed:
            raise ValueError(f"{windows} windows asked of {self.state.windows_closed}")
        self.state = win.border(rules, self.schedule, windows)
        self.memory.truncate(self.state.memory_rows)
        self.window.release()

    @property
    def tables(self) -> tuple[PageTable, PageTable]:
        """Memory and window table."""
        return self.memory, self.window

    @property
    def num_pages(self) -> int:
        """Pages both tables hold, shared ones included."""
        return len(self.memory.pages) + len(self.window.pages)

    @property
    def wasted_slots(self) -> int:
        """Slots in held pages that no row uses."""
        return self.memory.wasted_slots + self.window.wasted_slots


@dataclass(frozen=True)
class HostState:
    """A sequence's state off the device.

    Memory rows ``[m, layers, 2, kv_heads, head_dim]`` from row ``first_row`` on, and those of the
    open window; keys rotated for their place, so restoring copies. Both lie in blocks, one after
    the other, at least one: page-locked memory is not had in one large piece.
    """

    schedule: RatioSchedule
    state: WindowState
    first_row: int
    memory_blocks: tuple[Tensor, ...]
    window_blocks: tuple[Tensor, ...]

    @cached_property
    def memory_rows(self) -> Tensor:
        """In one tensor: a copy where there are several blocks, kept with this state."""
        return _joined(self.memory_blocks)

    @cached_property
    def window_rows(self) -> Tensor:
        """As ``memory_rows``."""
        return _joined(self.window_blocks)


def _joined(blocks: tuple[Tensor, ...]) -> Tensor:
    return blocks[0] if len(blocks) == 1 else torch.cat(blocks)


def pages_of(rows: int, page_size: int) -> int:
    """Pages that ``rows`` rows fill, the last one perhaps partly."""
    return -(-rows // page_size)


def worst_case_pages(rules: WindowRules, paged: PagedState, tokens: int) -> int:
    """Pages that feeding ``tokens`` more may still take from the pool at any one moment.

    Memory growth, plus one window at its fullest beyond the window pages that are already this
    reader's own, plus the copies of shared tail pages.
    """
    after = win.advance(rules, paged.schedule, paged.state, tokens)
    growth = paged.memory.pages_to_extend(after.memory_rows - paged.memory.length)
    if after.windows_closed == paged.state.windows_closed:
        rows = win.open_rows(rules, paged.schedule, after)
        return growth + paged.window.pages_to_extend(rows - paged.window.length)
    full = pages_of(win.full_rows(rules, paged.schedule), paged.window.page_size)
    return growth + max(full - paged.window.num_exclusive, 0)
