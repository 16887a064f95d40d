"""Who may hold pages: admission by worst case, spilling, refusal with numbers.

A query's worst case is known when it is admitted and stays reserved, so it always finishes. A
memory being made can be moved to host tensors at any time and come back, so what it holds counts
as spillable for whoever is older, or for anyone while its client sends nothing. Together: the
oldest sequence can always finish, and any mix drains.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable

from memoserve.engine.sequence import MemoryHandle, Sequence, Status
from memoserve.errors import ResourceExhausted
from memoserve.memory import window as win
from memoserve.memory.kv_cache import KVCache
from memoserve.memory.memory import (
    HostState,
    PagedState,
    from_host,
    pages_of,
    to_host,
    worst_case_pages,
)
from memoserve.memory.page_pool import PagePool
from memoserve.memory.window import RatioSchedule, WindowRules, WindowState


class Admission:
    """Pages of the pool, shared out. Belongs to the engine's thread."""

    def __init__(
        self,
        rules: WindowRules,
        pool: PagePool,
        cache: KVCache,
        on_spill: Callable[[str], None],
    ) -> None:
        self.rules = rules
        self.pool = pool
        self.cache = cache
        self.handles: list[MemoryHandle] = []
        self._on_spill = on_spill

    # -- how much somebody needs ------------------------------------------------------------

    def _state_pages(self, schedule: RatioSchedule, state: WindowState, tokens: int) -> int:
        """Pages that a state without any needs to be whole and to feed ``tokens`` more."""
        after = win.advance(self.rules, schedule, state, tokens)
        rows = win.open_rows(self.rules, schedule, after)
        if after.windows_closed != state.windows_closed:
            rows = win.full_rows(self.rules, schedule)
        memory_pages = pages_of(after.memory_rows, self.pool.memory_page_size)
        return memory_pages + pages_of(rows, self.pool.page_size)

    def _tokens_ahead(self, sequence: Sequence) -> int:
        """Tokens to provide for: an open input counts as one window more."""
        return sequence.tokens_to_come + (self.rules.window if sequence.input_open else 0)

    def check_possible(self, sequence: Sequence) -> None:
        """Refuse at once, with the numbers, what could not fit into an empty pool."""
        schedule, state = sequence.request.schedule, WindowState()
        if sequence.request.base is not None:
            schedule, state = sequence.request.base.schedule, sequence.request.base.state
        tokens = self._tokens_ahead(sequence)
        needed = self._state_pages(schedule, state, tokens)
        if sequence.compresses and sequence.input_open:
            # How long the text will be is not known; one window beyond the base must fit.
            needed = self._state_pages(schedule, state, self.rules.window)
        if needed > self.pool.num_pages:
            raise self.refusal(needed)

    def refusal(self, needed: int) -> ResourceExhausted:
        """The error of a lone sequence that cannot fit."""
        size = self.pool.page_size
        return ResourceExhausted(
            f"{needed} pages of {size} rows are needed at worst, the pool has "
            f"{self.pool.num_pages}",
            pages_needed=needed,
            pages_total=self.pool.num_pages,
            page_size=size,
        )

    def _pages_to_admit(self, sequence: Sequence) -> int:
        """Pages to be taken from the pool if the sequence ran now to its end."""
        tokens = self._tokens_ahead(sequence)
        base = sequence.request.base
        if sequence.host is not None:
            return self._state_pages(sequence.host.schedule, sequence.host.state, tokens)
        if isinstance(base, HostState):
            return self._state_pages(base.schedule, base.state, tokens)
        if base is None:
            return self._state_pages(sequence.request.schedule, WindowState(), tokens)
        if base.paged is None:
            # Brought back first, and its two tails are copied when the fork writes.
            return self._state_pages(base.schedule, base.state, tokens) + self._open_pages(base)
        twin = base.paged.fork()
        needed = worst_case_pages(self.rules, twin, tokens)
        twin.release()
        return needed

    def _open_pages(self, handle: MemoryHandle) -> int:
        rows = win.open_rows(self.rules, handle.schedule, handle.state)
        return pages_of(rows, self.pool.page_size) + 1

    # -- who could give pages up ---------------------------------------------------------------

    def reserved(self, sequences: Iterable[Sequence]) -> int:
        """Pages that running queries may still take."""
        return sum(
            worst_case_pages(self.rules, s.paged, s.tokens_to_come)
            for s in sequences
            if s.paged is not None and not s.compresses
        )

    def make_room(
        self,
        needed: int,
        sequences: Iterable[Sequence],
        *,
        keep: MemoryHandle | None,
        asking: Sequence,
    ) -> bool:
        """Spill until ``needed`` pages are free; False, and nothing is touched, if they cannot be.

        Memories that nobody runs on go first, least recently used, ``keep`` never; then memories
        being made, idle ones and those younger than ``asking``, the youngest first.
        """
        if self.pool.num_free >= needed:
            return True
        handles = [h for h in self.handles if h.paged is not None and h is not keep]
        victims = [s for s in sequences if s is not asking and _may_step_back(s, asking)]
        states = [h.paged for h in handles] + [s.paged for s in victims]
        if self.pool.num_free + self._pages_held_by(states) < needed:
            return False
        while self.pool.num_free < needed and handles:
            handle = _coldest(handles)
            handles.remove(handle)
            self.spill_handle(handle, "pages_needed")
        for victim in sorted(victims, key=lambda s: (s.idle, s.number), reverse=True):
            if self.pool.num_free >= needed:
                break
            self.spill_sequence(victim)
        return True

    def _pages_held_by(self, states: Iterable[PagedState | None]) -> int:
        """Pages that nobody but these states refers to."""
        tables = [table for state in states if state is not None for table in state.tables]
        held = Counter(page for table in tables for page in table.pages)
        return sum(self.pool.references(page) == count for page, count in held.items())

    def spill_handle(self, handle: MemoryHandle, cause: str) -> None:
        """Move a memory to host tensors, or forget it where it is on disk and unpinned."""
        if handle.paged is None:
            return
        if not (handle.droppable and handle.pins == 0):
            handle.host = to_host(self.cache, handle.paged)
        handle.paged.release()
        handle.paged = None
        if handle.host is None:
            self.handles.remove(handle)
        self._on_spill(cause)

    def drop_host_copy(self, handle: MemoryHandle) -> None:
        """Forget the host copy of a memory that is on disk and that nobody uses any more."""
        spare = handle.paged is None and handle.droppable and handle.pins == 0
        if spare and handle in self.handles:
            handle.host = None
            self.handles.remove(handle)

    def spill_sequence(self, sequence: Sequence) -> None:
        """Move a half-built memory to host tensors and back into the queue."""
        if sequence.paged is None:
            return
        sequence.host = to_host(self.cache, sequence.paged)
        sequence.paged.release()
        sequence.paged = None
        sequence.status = Status.WAITING
        self._on_spill("half_built")

    # -- admission --------------------------------------------------------------------------

    def admit(self, sequence: Sequence, sequences: list[Sequence]) -> bool:
        """Give the oldest waiting sequence its pages if its worst case fits; else False.

        Raises ResourceExhausted where it could not fit even alone.
        """
        base = sequence.request.base
        keep = base if isinstance(base, MemoryHandle) else None
        needed = self._pages_to_admit(sequence) + self.reserved(sequences)
        if not self.make_room(needed, sequences, keep=keep, asking=sequence):
            if not any(s.paged is not None for s in sequences):
                raise self.refusal(needed + self.pool.num_used)
            return False
        self._give_pages(sequence)
        return True

    def _give_pages(self, sequence: Sequence) -> None:
        base = sequence.request.base
        if sequence.host is not None:
            sequence.paged, sequence.host = from_host(self.cache, self.pool, sequence.host), None
        elif isinstance(base, HostState):
            sequence.paged = from_host(self.cache, self.pool, base)
        elif base is None:
            sequence.paged = PagedState.fresh(self.pool, sequence.request.schedule)
        else:
            sequence.paged = self.resident(base).fork()
        sequence.status = Status.RUNNING

    def resident(self, handle: MemoryHandle) -> PagedState:
        """The handle's pages, brought back from host tensors where they were spilled."""
        if handle.paged is None:
            if handle.host is None:
                raise ValueError("the memory was dropped while it was used")
            handle.paged = from_host(self.cache, self.pool, handle.host)
            handle.host = None
        return handle.paged


def _may_step_back(sequence: Sequence, asking: Sequence) -> bool:
    """A memory in the making whose client is idle, or that is younger."""
    waits = sequence.idle or sequence.number > asking.number
    return sequence.compresses and sequence.paged is not None and waits


def _coldest(handles: list[MemoryHandle]) -> MemoryHandle:
    """Least recently used memory whose spilling frees pages by itself, else any."""
    freeing = [h for h in handles if h.paged is not None and _frees(h.paged)]
    return min(freeing or handles, key=lambda h: h.last_used)


def _frees(paged: PagedState) -> bool:
    return paged.memory.num_exclusive + paged.window.num_exclusive > 0
