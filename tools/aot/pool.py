"""Runs each compilation in a process of its own: an aborting compiler is that case's failure."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerProcess
from typing import Any, Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class Failure:
    """A task that gave no result, in words."""

    message: str


@dataclass(frozen=True)
class _Running(Generic[T]):
    task: T
    process: ForkServerProcess
    started: float


def run_each(
    function: Callable[[T], R],
    tasks: Iterable[T],
    workers: int,
    timeout: float,
    preload: Sequence[str] = (),
) -> Iterator[tuple[T, R | Failure]]:
    """``function`` of every task, each in a fresh process, ``workers`` at a time, as they end.

    A task that raises, dies, or takes more than ``timeout`` seconds yields a Failure. Function,
    tasks and results are pickled. ``preload`` names modules that every process finds imported.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(preload))
    waiting = list(reversed(list(tasks)))
    running: dict[Connection, _Running[T]] = {}
    try:
        while waiting or running:
            while waiting and len(running) < workers:
                ours, theirs = context.Pipe(duplex=False)
                process = context.Process(target=_work, args=(theirs, function, waiting[-1]))
                process.start()
                theirs.close()
                running[ours] = _Running(waiting.pop(), process, time.monotonic())
            for end in _ready(running, timeout):
                one = running.pop(end)
                yield one.task, _result(end, one.process, timeout)
    finally:
        for one in running.values():
            one.process.kill()
            one.process.join()


def _work(end: Connection, function: Callable[[T], R], task: T) -> None:
    result: R | Failure
    try:
        result = function(task)
    except Exception as error:
        result = Failure(f"{type(error).__name__}: {error}")
    end.send(result)
    end.close()


def _ready(running: dict[Connection, _Running[Any]], timeout: float) -> list[Connection]:
    """Ends with a result, of a dead process, or past their time; at least one."""
    first = min(one.started for one in running.values()) + timeout
    ready = [
        end
        for end in wait(running, timeout=max(0.0, first - time.monotonic()))
        if isinstance(end, Connection)
    ]
    late = time.monotonic() - timeout
    return ready or [end for end, one in running.items() if one.started <= late]


def _result(end: Connection, process: ForkServerProcess, timeout: float) -> Any:
    try:
        if not end.poll():
            process.kill()
            return Failure(f"took more than {timeout:g} s")
        return end.recv()
    except EOFError:
        process.join()
        return Failure(f"its process ended with {process.exitcode} and said nothing")
    finally:
        process.join()
        end.close()
