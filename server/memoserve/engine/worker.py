"""The one thread that owns the device; other threads hold tickets of their requests."""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

from memoserve.engine.engine import Engine
from memoserve.engine.sequence import Failed, MemoryHandle, SequenceRequest
from memoserve.engine.ticket import Ticket
from memoserve.errors import Unavailable
from memoserve.memory.memory import HostState

log = logging.getLogger(__name__)
T = TypeVar("T")

# A blocked queue (pages held by others) is looked at again this often.
RETRY_S = 0.02


class EngineWorker:
    """Runs an engine on its own thread. Every method may be called from any thread."""

    def __init__(self, engine: Engine) -> None:
        self.rules = engine.rules
        self.page_size = engine.pool.page_size
        self.memory_page_size = engine.pool.memory_page_size
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

    def read(self, handle: MemoryHandle, first_row: int = 0) -> Future[HostState]:
        """A memory's rows from ``first_row`` on, read out in slices while other requests go on.

        Fails as ``Engine.read``, with Unavailable where the engine is down, or ResourceExhausted.
        """
        answer: Future[HostState] = Future()

        def asked(call: Future[None]) -> None:
            error = call.exception()
            if error is not None and answer.set_running_or_notify_cancel():
                answer.set_exception(error)

        self.call(lambda engine: engine.start_reading(handle, first_row, answer)).add_done_callback(
            asked
        )
        return answer

    # -- the thread ---------------------------------------------------------------------------

    def _main(self) -> None:
        try:
            self._engine.device.make_current()
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


def _log_failure(future: Future[object]) -> None:
    error = future.exception()
    if error is not None and not isinstance(error, Unavailable):
        log.error("a command to the engine failed", exc_info=error)
