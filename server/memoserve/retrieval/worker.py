"""One thread that computes on one core, whatever the rest of the process does.

Two OpenMP pools on the same cores slow each other down many times over, so the embedder must not
open a second one beside the engine's. PyTorch keeps the thread count per thread once that thread
has computed: ``torch.set_num_threads`` called in this worker leaves the other threads as they
are. Only a thread that touches torch for the first time afterwards inherits the newest value, so
it is put back for those (``_restore_default``).
"""

from __future__ import annotations

import itertools
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from enum import IntEnum
from typing import TypeVar

import torch

from memoserve.errors import Unavailable

T = TypeVar("T")


class Priority(IntEnum):
    """Waiting jobs run lowest value first, equals in order of arrival."""

    QUERY = 0
    DOCUMENT = 1
    CLOSE = 2


@dataclass(order=True)
class _Job:
    priority: Priority
    number: int
    run: Callable[[], None] = field(compare=False)


class SingleCoreWorker:
    """Runs jobs one after another on its own thread, with one compute thread."""

    def __init__(self, name: str) -> None:
        self._jobs: queue.PriorityQueue[_Job] = queue.PriorityQueue()
        self._numbers = itertools.count()
        self._lock = threading.Lock()
        self._closed = False
        default = torch.get_num_threads()
        self._thread = threading.Thread(target=self._loop, name=name, daemon=True)
        self._thread.start()
        self.submit(Priority.QUERY, _use_one_core).result()
        _restore_default(default)

    def submit(self, priority: Priority, work: Callable[[], T]) -> Future[T]:
        """Queue ``work``; its result or exception arrives in the future.

        Raises:
            Unavailable: the worker was closed.
        """
        future: Future[T] = Future()

        def run() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                future.set_result(work())
            except BaseException as error:  # handed to the waiter, the thread lives on
                future.set_exception(error)

        with self._lock:
            if self._closed:
                raise Unavailable("the embedder is closed", reason="EMBEDDER_CLOSED")
            self._jobs.put(_Job(priority, next(self._numbers), run))
        return future

    def close(self) -> None:
        """Finish what is queued, then end the thread. A second call does nothing."""
        with self._lock:
            if not self._closed:
                self._closed = True
                self._jobs.put(_Job(Priority.CLOSE, next(self._numbers), lambda: None))
        self._thread.join()

    def _loop(self) -> None:
        while True:
            job = self._jobs.get()
            if job.priority is Priority.CLOSE:
                return
            job.run()


def _use_one_core() -> None:
    torch.get_num_threads()  # a thread takes the default at first use: let that be now
    torch.set_num_threads(1)


def _restore_default(num_threads: int) -> None:
    """Make ``num_threads`` what threads new to torch start with again.

    The setter changes its own thread too, hence a thread that has nothing else to do.
    """
    setter = threading.Thread(target=torch.set_num_threads, args=(num_threads,))
    setter.start()
    setter.join()
