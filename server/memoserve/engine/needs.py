"""How many pages somebody needs at worst: integers only."""

from __future__ import annotations

from collections.abc import Iterable

from memoserve.engine.sequence import MemoryHandle, Sequence
from memoserve.errors import ResourceExhausted
from memoserve.memory import window as win
from memoserve.memory.memory import HostState, pages_of, worst_case_pages
from memoserve.memory.page_pool import PagePool
from memoserve.memory.window import RatioSchedule, WindowRules, WindowState


class Needs:
    """Worst cases of sequences on one pool."""

    def __init__(self, rules: WindowRules, pool: PagePool) -> None:
        self.rules = rules
        self.pool = pool

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

    def to_admit(self, sequence: Sequence) -> int:
        """Pages to be taken from the pool if the sequence ran now to its end."""
        tokens = self._tokens_ahead(sequence)
        base = sequence.request.base
        if sequence.host is not None:
            return self._state_pages(sequence.host.schedule, sequence.host.state, tokens)
        if isinstance(base, HostState):
            return self._state_pages(base.schedule, base.state, tokens)
        if base is None:
            return self._state_pages(sequence.request.schedule, WindowState(), tokens)
        if base.held is None:
            # Brought back first, and its two tails are copied when the fork writes.
            return self._state_pages(base.schedule, base.state, tokens) + self._open_pages(base)
        twin = base.held.fork()
        needed = worst_case_pages(self.rules, twin, tokens)
        twin.release()
        return needed

    def _open_pages(self, handle: MemoryHandle) -> int:
        rows = win.open_rows(self.rules, handle.schedule, handle.state)
        return pages_of(rows, self.pool.page_size) + 1

    def reserved(self, sequences: Iterable[Sequence]) -> int:
        """Pages that admitted queries may still take, and those whose memory is being fetched."""
        pages = 0
        for s in sequences:
            base = s.request.base
            if s.held is not None and not s.compresses:
                pages += worst_case_pages(self.rules, s.held, s.tokens_to_come)
            elif isinstance(base, MemoryHandle) and base.fetched_for is s:
                pages += self.to_admit(s)
        return pages
