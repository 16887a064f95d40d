"""The one thread that owns the device, and the tickets other threads hold."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import queue
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterable
from concurrent.futures import Future
from dataclasses import replace
from typing import TypeVar

from memoserve.engine.engine import Engine
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

log = logging.getLogger(__name__)
T = TypeVar("T")

# A blocked queue (pages held by others) is looked at again this often.
RETRY_S = 0.02
# Input that may lie unread in the engine; beyond it the sender is held back.
MAX_BACKLOG_WINDOWS = 2


class EngineWorker:
    """Runs an engine on its own thread. Every method may be called from any thread."""

    def __init__(self, engine: Engine) -> None:
        self.rules = engine.rules
        self.page_size = engine.pool.page_size
        self.num_pages = engine.pool.num_pages
        self._engine = engine
        self._inbox: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._open = False
        self._stopping = False
        self._progressed = True
        self._tickets: set[Ticket] = set()
        self._thread = threading.Thread(target=self._main, name="memoserve-engine", daemon=True)

    @property
    def alive(self) -> bool:
        """The engine takes work."""
        return self._open

    @property
    def num_free_pages(self) -> int:
        """Free pages, as of a moment ago."""
        return self._engine.pool.num_free

    def start(self) -> None:
        """Start the thread."""
        self._open = True
        self._engine.metrics.engine_up.set(1)
        self._thread.start()

    def stop(self) -> None:
        """End every sequence and join the thread; later calls are refused."""
        if self._thread.is_alive():
            with contextlib.suppress(Unavailable):
                self._post(self._ask_to_stop)
            self._thread.join()

    def _ask_to_stop(self) -> None:
        self._stopping = True

    def _post(self, command: Callable[[], None]) -> None:
        with self._lock:
            if not self._open:
                raise Unavailable("the engine is down")
            self._inbox.put(command)

    def call(self, function: Callable[[Engine], T]) -> Future[T]:
        """Run a function on the engine's thread between two steps, in the order of the calls.

        The future fails with Unavailable where the engine is down.
        """
        future: Future[T] = Future()

        def command() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                future.set_result(function(self._engine))
            except Exception as error:
                future.set_exception(error)

        try:
            self._post(command)
        except Unavailable as error:
            future.set_exception(error)
        return future

    def tell(self, function: Callable[[Engine], object]) -> None:
        """As ``call`` where nobody waits: a failure is logged, and an engine that is down none."""
        self.call(function).add_done_callback(_log_failure)

    # -- the thread ---------------------------------------------------------------------------

    def _main(self) -> None:
        try:
            while not self._stopping:
                self._take_commands()
                if self._engine.busy or self._is_late():
                    self._progressed = self._engine.step()
        except Exception:
            log.exception("the engine failed")
        finally:
            self._go_down()

    def _is_late(self) -> bool:
        deadline = self._engine.next_deadline
        return deadline is not None and time.monotonic() >= deadline

    def _take_commands(self) -> None:
        """Run all waiting commands; with nothing to do, wait for one."""
        timeout: float | None = 0.0
        if not self._engine.busy:
            deadline = self._engine.next_deadline
            timeout = None if deadline is None else max(deadline - time.monotonic(), 0.0)
        elif not self._progressed:
            timeout = RETRY_S
        try:
            if timeout == 0.0:
                command = self._inbox.get_nowait()
            else:
                command = self._inbox.get(timeout=timeout)
            while True:
                command()
                command = self._inbox.get_nowait()
        except queue.Empty:
            return

    def _go_down(self) -> None:
        """Refuse what comes from now on, and end all that was asked before, whatever broke."""
        with self._lock:
            self._open = False
        self._engine.metrics.engine_up.set(0)
        with contextlib.suppress(queue.Empty):
            while True:
                self._inbox.get_nowait()()
        down = Unavailable("the engine is down")
        try:
            self._engine.fail_all(down)
        except Exception:
            log.exception("the engine's sequences could not be ended")
        with self._lock:
            open_tickets, self._tickets = self._tickets, set()
        for ticket in open_tickets:
            ticket.tell(Failed(down))

    # -- tickets ------------------------------------------------------------------------------

    def submit(self, request: SequenceRequest) -> Ticket:
        """Queue a request from a running event loop; its ``on_event`` is replaced."""
        ticket = Ticket(self, request)
        with self._lock:
            self._tickets.add(ticket)
        self.call(ticket.enter).add_done_callback(ticket.entered)
        return ticket

    def forget(self, ticket: Ticket) -> None:
        """The ticket's owner has left."""
        with self._lock:
            self._tickets.discard(ticket)


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


def _log_failure(future: Future[object]) -> None:
    error = future.exception()
    if error is not None and not isinstance(error, Unavailable):
        log.error("a command to the engine failed", exc_info=error)
