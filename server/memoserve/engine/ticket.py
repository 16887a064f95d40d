"""A request to the engine as its asyncio owner holds it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterable
from concurrent.futures import Future
from dataclasses import replace
from typing import TYPE_CHECKING

from memoserve.engine.sequence import (
    Done,
    Event,
    Failed,
    Fed,
    MemoryHandle,
    Sequence,
    SequenceRequest,
)
from memoserve.errors import MemoserveError, Unavailable

if TYPE_CHECKING:
    from memoserve.engine.engine import Engine
    from memoserve.engine.worker import EngineWorker

# Input that may lie unread in the engine; beyond it the sender is held back.
MAX_BACKLOG_WINDOWS = 2


class Ticket:
    """A submitted request as its asyncio owner sees it.

    Use as an async context manager: leaving it cancels what still runs, and releases the memory
    the sequence ended in unless ``take_memory`` took it.
    """

    def __init__(self, worker: EngineWorker, request: SequenceRequest) -> None:
        self._worker = worker
        self._loop = asyncio.get_running_loop()
        self._events: asyncio.Queue[Event | BaseException] = asyncio.Queue()
        self._fed = 0
        self._sent = len(request.tokens)
        self._drained = asyncio.Event()
        self._ended = asyncio.Event()
        self._limit = MAX_BACKLOG_WINDOWS * worker.rules.window
        # The next two belong to the engine's thread.
        self._sequence: Sequence | None = None
        self._memory: MemoryHandle | None = None
        self._request = replace(request, on_event=self.tell)

    # -- on the engine's thread -----------------------------------------------------------------

    def enter(self, engine: Engine) -> None:
        """Queue the sequence."""
        self._sequence = engine.submit(self._request)

    def entered(self, submission: Future[None]) -> None:
        """Pass on why the sequence was not queued, if so."""
        error = submission.exception()
        if isinstance(error, MemoserveError):
            self.tell(Failed(error))
        elif error is not None:
            self._pass_on(error)

    def tell(self, event: Event) -> None:
        """Pass an event to the owner's loop."""
        if isinstance(event, Done):
            # Noted on the engine's thread, where leaving looks, or a memory could slip between.
            self._memory = event.memory
        self._pass_on(event)

    def _pass_on(self, event: Event | BaseException) -> None:
        with contextlib.suppress(RuntimeError):  # the owner's loop is closed: nobody listens
            self._loop.call_soon_threadsafe(self._arrived, event)

    def _leave(self, engine: Engine) -> None:
        if self._sequence is not None:
            self._sequence.cancelled = True
        memory, self._memory = self._memory, None
        if memory is not None:
            engine.release(memory)

    # -- on the owner's loop --------------------------------------------------------------------

    def _arrived(self, event: Event | BaseException) -> None:
        if isinstance(event, Fed):
            self._fed = event.tokens
        if isinstance(event, Done | Failed | BaseException):
            self._ended.set()
        if self._ended.is_set() or self._sent - self._fed < self._limit:
            self._drained.set()
        self._events.put_nowait(event)

    async def __aenter__(self) -> Ticket:
        return self

    async def __aexit__(self, *_: object) -> None:
        left = self._worker.call(self._leave)
        # Both are waited for, so that the pages are back when the caller goes on.
        try:
            with contextlib.suppress(Unavailable):
                await asyncio.shield(asyncio.wrap_future(left))
                await self._ended.wait()
        finally:
            self._worker.forget(self)

    def take_memory(self) -> MemoryHandle:
        """The memory the sequence ended in; from now on the caller releases it."""
        memory, self._memory = self._memory, None
        if memory is None:
            raise ValueError("the sequence has not ended in a memory")
        return memory

    async def feed(self, tokens: Iterable[int], *, last: bool = False) -> None:
        """Send input; waits while the engine is far behind."""
        batch = list(tokens)
        self._sent += len(batch)

        def give(engine: Engine) -> None:
            if self._sequence is not None:
                engine.feed(self._sequence, batch, last=last)

        self._worker.tell(give)
        if self._sent - self._fed >= self._limit and not self._ended.is_set():
            self._drained.clear()
            await self._drained.wait()

    async def events(self) -> AsyncIterator[Event]:
        """Events up to and including Done; raises the error of a Failed one."""
        while True:
            event = await self._events.get()
            if isinstance(event, Failed):
                raise event.error
            if isinstance(event, BaseException):
                raise event
            yield event
            if isinstance(event, Done):
                return
