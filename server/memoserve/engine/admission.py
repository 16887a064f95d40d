"""Who may hold pages: admission by worst case, spilling, refusal with numbers.

A query's worst case is known when it is admitted and stays reserved, so it always finishes. A
memory being made can be moved to host tensors at any time and come back, so what it holds counts
as spillable for whoever is older, or for anyone while its client sends nothing. Together: the
oldest sequence can always finish, and any mix drains.
"""

from __future__ import annotations

import enum
import logging
from collections import Counter
from collections.abc import Callable, Collection, Iterable

from memoserve.engine.host_tier import HostTier
from memoserve.engine.needs import Needs
from memoserve.engine.sequence import MemoryHandle, Sequence, Status
from memoserve.memory.memory import HostState, PagedState
from memoserve.memory.page_pool import PagePool
from memoserve.memory.transfer import Holder
from memoserve.memory.window import WindowRules

log = logging.getLogger(__name__)


class Room(enum.Enum):
    """Pages asked for: they are free; they are being freed; nobody can give them up."""

    FREE = "free"
    SOON = "soon"
    NONE = "none"


class Admission:
    """Pages of the pool, shared out. Belongs to the engine's thread."""

    def __init__(
        self,
        rules: WindowRules,
        pool: PagePool,
        tier: HostTier,
        on_spill: Callable[[str], None],
    ) -> None:
        self.needs = Needs(rules, pool)
        self.pool = pool
        self.tier = tier
        self._failure: Exception | None = None
        self.handles: list[MemoryHandle] = []
        self._on_spill = on_spill

    # -- who could give pages up ---------------------------------------------------------------

    def make_room(
        self,
        needed: int,
        sequences: Collection[Sequence],
        *,
        keep: MemoryHandle | None,
        asking: Sequence,
    ) -> Room:
        """Spill until ``needed`` pages are free; NONE, and nothing is touched, if they cannot be.

        Memories that nobody runs on go first, least recently used, ``keep`` never; then memories
        being made, idle ones and those younger than ``asking``, the youngest first. SOON: it takes
        further steps. Raises what went wrong with a spill.
        """
        if self.pool.num_free >= needed:
            return Room.FREE
        handles = [h for h in self.handles if h.paged is not None and h is not keep]
        # What was fetched for one who waits is no younger one's: it has its turn in this step.
        fetched = [h for h in handles if h.fetched_for is not None]
        if asking.status is Status.RUNNING:
            handles = [h for h in handles if h.fetched_for is None]
        victims = [s for s in sequences if s is not asking and _may_step_back(s, asking)]
        if self.pool.num_free + self._pages_held_by([*handles, *victims]) < needed:
            # Who reads a memory out keeps its pages for some steps more; what arrives has yet to
            # become what can be asked for its pages.
            comes = any(one.arriving for one in (*self.handles, *sequences))
            return Room.SOON if comes or fetched or self.tier.readings else Room.NONE
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure
        return self._give_up(needed, handles, victims)

    def _give_up(self, needed: int, handles: list[MemoryHandle], victims: list[Sequence]) -> Room:
        while self.pool.num_free < needed and handles:
            handle = _coldest(handles)
            handles.remove(handle)
            if not self.spill_handle(handle, "pages_needed"):
                return Room.SOON
        order = sorted(victims, key=lambda s: (s.leaving, s.idle, s.number), reverse=True)
        for victim in order:
            if self.pool.num_free >= needed:
                break
            if not self.spill_sequence(victim):
                return Room.SOON
        return Room.FREE

    def _pages_held_by(self, holders: Iterable[Holder]) -> int:
        """Pages that nobody but these refers to."""
        states = (holder.held for holder in holders)
        tables = [table for state in states if state is not None for table in state.tables]
        held = Counter(page for table in tables for page in table.pages)
        return sum(self.pool.references(page) == count for page, count in held.items())

    def go_on_leaving(self, sequences: Iterable[Sequence]) -> None:
        """What has begun to leave leaves; a failure is kept for whoever needs the pages."""
        self._failure = None
        try:
            for handle in [h for h in self.handles if h.leaving]:
                self.spill_handle(handle, "pages_needed")
            for sequence in [s for s in sequences if s.leaving]:
                self.spill_sequence(sequence)
        except Exception as error:
            log.warning("a memory could not be moved to the host: %r", error)
            self._failure = error

    def spill_handle(self, handle: MemoryHandle, cause: str) -> bool:
        """Move a memory to host tensors, or forget it where it is on disk and unpinned.

        False while it is on its way. Where that raises the memory stays where it was.
        """
        if handle.paged is None:
            return True
        if handle.droppable and handle.pins == 0:
            self.tier.undo(handle)
            handle.paged.release()
            handle.paged = None
            self.handles.remove(handle)
        elif not self.tier.leave(handle):
            return False
        self._on_spill(cause)
        return True

    def drop_host_copy(self, handle: MemoryHandle) -> None:
        """Forget the host copy of a memory that is on disk and that nobody uses any more."""
        spare = handle.paged is None and handle.droppable and handle.pins == 0
        if spare and handle in self.handles:
            self.forget(handle)

    def forget(self, handle: MemoryHandle) -> None:
        """Give up a memory wherever it is."""
        self.tier.undo(handle)
        if handle.paged is not None:
            handle.paged.release()
        handle.paged = handle.host = None
        if handle in self.handles:
            self.handles.remove(handle)

    def spill_sequence(self, sequence: Sequence) -> bool:
        """Move a half-built memory to host tensors and back into the queue; False: on its way.

        Where that raises the sequence runs on as it did.
        """
        if sequence.paged is None:
            return True
        sequence.status = Status.WAITING
        try:
            if not self.tier.leave(sequence):
                return False
        except BaseException:
            sequence.status = Status.RUNNING
            raise
        self._on_spill("half_built")
        return True

    # -- admitting ---------------------------------------------------------------------------

    def admit(self, sequence: Sequence, sequences: Collection[Sequence]) -> bool:
        """Give the oldest waiting sequence its pages if its worst case fits; else False.

        Also False while rows are still on their way into the pages. Raises ResourceExhausted
        where it could not fit even alone.
        """
        base = sequence.request.base
        keep = base if isinstance(base, MemoryHandle) else None
        if keep is not None and keep.arriving:
            return False  # its pages are there and the rest reserved: nothing to ask for yet
        others = [s for s in sequences if s is not sequence]
        needed = self.needs.to_admit(sequence) + self.needs.reserved(others)
        room = self.make_room(needed, sequences, keep=keep, asking=sequence)
        if room is Room.NONE and not any(s.held is not None for s in sequences):
            raise self.needs.refusal(needed + self.pool.num_used)
        return room is Room.FREE and self._give_pages(sequence)

    def go_on_arriving(self, sequence: Sequence) -> bool:
        """What has begun to arrive arrives, whoever asks for its pages; True once it may run."""
        if sequence.arriving:
            return self._give_pages(sequence)
        base = sequence.request.base
        if isinstance(base, MemoryHandle) and base.fetched_for is sequence:
            if base.arriving:
                self.tier.arrive(base)
            else:
                base.fetched_for = None  # it had its turn
        return False

    def _give_pages(self, sequence: Sequence) -> bool:
        base = sequence.request.base
        if isinstance(base, HostState) and sequence.host is None:
            sequence.host = base
        if sequence.host is not None:
            if not self.tier.arrive(sequence):
                return False
        elif isinstance(base, MemoryHandle):
            if not self._fetch(base, sequence):
                return False
            sequence.paged, base.fetched_for = self.resident(base).fork(), None
        else:
            sequence.paged = PagedState.fresh(self.pool, sequence.request.schedule)
        sequence.status = Status.RUNNING
        return True

    def _fetch(self, handle: MemoryHandle, sequence: Sequence) -> bool:
        handle.fetched_for = sequence
        return self.tier.arrive(handle)

    def resident(self, handle: MemoryHandle) -> PagedState:
        """The handle's pages, brought back at once where it was spilled; it does not leave now."""
        if handle.leaving:
            self.tier.undo(handle)
        self.tier.arrive_whole(handle)
        if handle.paged is None:
            raise ValueError("the memory has no pages")
        return handle.paged

    def drop(self, sequence: Sequence) -> None:
        """Give back all that a sequence has, and what was on its way for it."""
        self.tier.undo(sequence)
        if sequence.paged is not None:
            sequence.paged.release()
        sequence.paged = sequence.host = None
        base = sequence.request.base
        if isinstance(base, MemoryHandle) and base.fetched_for is sequence:
            base.fetched_for = None
            if base.arriving:
                self.tier.undo(base)


def _may_step_back(sequence: Sequence, asking: Sequence) -> bool:
    """A memory in the making whose client is idle, or that is younger; or that leaves anyway."""
    waits = sequence.idle or sequence.number > asking.number
    return sequence.leaving or (sequence.compresses and sequence.paged is not None and waits)


def _coldest(handles: list[MemoryHandle]) -> MemoryHandle:
    """One already on its way; else the least recently used whose spilling frees pages by itself,
    else any.
    """
    freeing = [h for h in handles if h.paged is not None and _frees(h.paged)]
    return min(freeing or handles, key=lambda h: (not h.leaving, h.last_used))


def _frees(paged: PagedState) -> bool:
    return paged.memory.num_exclusive + paged.window.num_exclusive > 0
