"""Memories between pages and host tensors, so many bytes a step: decodes go on meanwhile.

Copies are whole when they return, or, where the device does them on a stream of its own, looked at
again a step later. Pages are given back, and rows used, when their last copy is done.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from typing import Final, TypeVar

from memoserve.engine.faults import is_shortage, shortage
from memoserve.engine.uploads import Uploads
from memoserve.memory.kv_cache import KVCache
from memoserve.memory.memory import HostState, PagedState
from memoserve.memory.page_pool import PagePool
from memoserve.memory.transfer import Arriving, Holder, Leaving, Pending, Transfer

T = TypeVar("T")

COPY_BYTES: Final = 64 << 20
"""Bytes that go each way in a step, where nobody says otherwise."""
MOST_FLYING: Final = 2
"""Copies of one state under way at a time: one runs, the next is ready."""


@dataclass(eq=False)
class Reading:
    """A state that is read out for somebody; its own references keep the pages as they are."""

    leaving: Leaving
    answer: Future[HostState]
    take: Callable[[Leaving], HostState]


class HostTier:
    """Moves states in slices. Belongs to the engine's thread.

    In a step ``copy_bytes`` bytes go to and from the host for admission, and as many for readings.
    """

    def __init__(self, cache: KVCache, pool: PagePool, uploads: Uploads, copy_bytes: int) -> None:
        self._cache = cache
        self._pool = pool
        self.device = uploads.device
        self._uploads = uploads
        self._copy_bytes = copy_bytes
        self._left = self._left_to_read = copy_bytes
        self._flying: dict[Transfer, list[Pending]] = {}
        self.readings: list[Reading] = []
        self.progressed = False

    # -- a step ---------------------------------------------------------------------------------

    def begin_step(self) -> None:
        """A new budget; readings go on first."""
        self._left = self._left_to_read = self._copy_bytes
        self.progressed = False
        for reading in list(self.readings):
            self._read_on(reading)

    def end_step(self, *, idle: bool) -> None:
        """Where nothing was computed, wait for a copy: nothing else would end the waiting."""
        if idle and not self.progressed:
            flying = (one for flying in self._flying.values() for one in flying)
            pending = next((one for one in flying if not one.done()), None)
            if pending is not None:
                pending.wait()
                self.progressed = True

    # -- holders ----------------------------------------------------------------------------------

    def leave(self, holder: Holder) -> bool:
        """Go on with moving a state out of its pages; True once it is out and they are free.

        Where that raises the state is where it was.
        """
        if holder.paged is None:
            return True
        moving = holder.moving
        try:
            if not isinstance(moving, Leaving):
                moving = self._start_leaving(holder.paged)
                holder.moving = moving
            if not self._move(moving):
                return False
        except BaseException:
            self.undo(holder)
            raise
        holder.paged.release()
        holder.paged, holder.host, holder.moving = None, moving.host, None
        return True

    def arrive(self, holder: Holder) -> bool:
        """Go on with bringing a state into pages; True once it may be used.

        Raises OutOfPages, or what a copy raises; the state is then on the host as before.
        """
        if holder.paged is not None:
            return True
        if holder.host is None:
            raise ValueError("the memory was dropped while it was used")
        moving = holder.moving
        try:
            if not isinstance(moving, Arriving):
                moving = Arriving(self._cache, self._pool, holder.host)
                holder.moving = moving
            if not self._move(moving):
                return False
        except BaseException:
            self.undo(holder)
            raise
        holder.paged, holder.host, holder.moving = moving.paged, None, None
        return True

    def arrive_whole(self, holder: Holder) -> None:
        """Bring a state into pages at once, however long that takes; raises as ``arrive``."""
        while not self.arrive(holder):
            self._land(holder.moving)
            self._left = self._copy_bytes

    def undo(self, holder: Holder) -> None:
        """Forget about a move under way: the state stays where it was."""
        moving, holder.moving = holder.moving, None
        if moving is None:
            return
        flying = self._flying.pop(moving, [])
        if isinstance(moving, Arriving):
            for pending in flying:
                pending.wait()  # or it would write into pages that are somebody else's by then
            moving.paged.release()

    def _move(self, moving: Transfer) -> bool:
        """Launch what the budget allows; True once the last copy is done."""
        done, spent = self._advance(moving, self._left)
        self._left -= spent
        return done

    # -- readings ---------------------------------------------------------------------------------

    def start_reading(
        self,
        paged: PagedState,
        first_row: int,
        answer: Future[HostState],
        take: Callable[[Leaving], HostState],
    ) -> None:
        """Read a state out, slice by slice; ``take`` makes the answer of what has left, or raises.

        Whoever cancels the answer ends it.
        """
        kept = paged.fork()
        try:
            leaving = self._start_leaving(kept, first_row)
        except Exception as error:
            kept.release()
            tell(answer, error)
            return
        self.readings.append(Reading(leaving, answer, take))

    def read_whole(self, paged: PagedState, first_row: int) -> Leaving:
        """Read a state out at once, however long that takes."""
        leaving = self._start_leaving(paged, first_row)
        try:
            while not self._advance(leaving, self._copy_bytes)[0]:
                self._land(leaving)
        finally:
            self._flying.pop(leaving, None)
        return leaving

    def end_readings(self, error: Exception) -> None:
        """Fail everybody who waits for one."""
        for reading in list(self.readings):
            self._end(reading, error)

    def _read_on(self, reading: Reading) -> None:
        if reading.answer.cancelled():
            self._end(reading, None)
            return
        try:
            done, spent = self._advance(reading.leaving, self._left_to_read)
        except Exception as error:
            self._end(reading, error)
            return
        self._left_to_read -= spent
        if done:
            self._end(reading, None)

    def _end(self, reading: Reading, error: Exception | None) -> None:
        self.readings.remove(reading)
        self._flying.pop(reading.leaving, None)
        reading.leaving.paged.release()
        self.progressed = True
        tell(reading.answer, error or partial(reading.take, reading.leaving))

    # -- copies -----------------------------------------------------------------------------------

    def _start_leaving(self, paged: PagedState, first_row: int = 0) -> Leaving:
        return self._twice(lambda: Leaving(self._cache, self.device, paged, first_row))

    def _advance(self, moving: Transfer, budget: int) -> tuple[bool, int]:
        """Launch copies of at most ``budget`` bytes; whether all are done, and bytes launched."""
        spent = 0
        flying = self._flying.setdefault(moving, [])
        flying[:] = [one for one in flying if not one.done()]
        while not moving.launched and spent < budget and len(flying) < MOST_FLYING:
            if spent and moving.next_row_bytes > budget - spent:
                break  # a row would still go, in a copy of its own
            launch = partial(moving.launch, self.device, self._uploads.upload, budget - spent)
            pending, size = self._twice(launch)
            spent += size
            self.progressed = True
            # On the stream that steps run on, what follows follows.
            if self.device.options.async_copies and not pending.done():
                flying.append(pending)
        if not moving.launched or flying:
            return False, spent
        del self._flying[moving]
        return True, spent

    def _land(self, moving: Transfer | None) -> None:
        """Wait for the copies under way of a state."""
        for pending in self._flying.get(moving, []) if moving is not None else []:
            pending.wait()

    def _twice(self, attempt: Callable[[], T]) -> T:
        """Once more where memory was lacking, after the allocator gave back what it keeps."""
        try:
            return attempt()
        except Exception as error:
            if not is_shortage(error):
                raise
        # Outside the handler, which keeps alive what the failed attempt had allocated.
        self.device.empty_cache()
        return attempt()


def tell(answer: Future[HostState], outcome: Callable[[], HostState] | Exception) -> None:
    """Answer with an error, or with what is made here; nobody may listen any more."""
    if not answer.set_running_or_notify_cancel():
        return
    try:
        if isinstance(outcome, Exception):
            raise outcome
        made = outcome()
    except Exception as failure:
        lacking = is_shortage(failure)
        answer.set_exception(shortage("reading a memory out") if lacking else failure)
    else:
        answer.set_result(made)
