"""A server process of one's own: started, waited for, ended."""

from __future__ import annotations

import queue
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from memoserve.cli.ready import READY
from memoserve_client import Client

START_S = 180.0
STOP_S = 30.0
LOG_LINES = 5


@contextmanager
def own_server(store: Path, log: Path) -> Iterator[Client]:
    """A client of a new server on a free loopback port; the server ends with the block.

    Raises OSError with the end of ``log`` when the server ends before it is ready, TimeoutError
    when it is not ready in time.
    """
    command = [sys.executable, "-m", "memoserve.cli", "serve", "--port", "0"]
    command += ["--data-dir", str(store)]
    with log.open("a", encoding="utf-8") as errors:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors, text=True
        )
    try:
        with Client(ready_address(process, log, START_S)) as client:
            client.wait_ready(START_S)
            yield client
    finally:
        _end(process)


def ready_address(process: subprocess.Popen[str], log: Path, timeout_s: float) -> str:
    """What the server prints behind ``READY``; its later lines are read and dropped."""
    lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
    # A read cannot be given a timeout, waiting for another thread can.
    threading.Thread(target=_pump, args=(process, lines), daemon=True).start()
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            line = lines.get(timeout=max(deadline - time.monotonic(), 0.0))
        except queue.Empty:
            raise TimeoutError(
                f"the server was not ready within {timeout_s:g} s{_tail(log)}"
            ) from None
        if line is None:
            raise OSError(f"the server did not start{_tail(log)}")
        if line.startswith(READY):
            return line.removeprefix(READY).strip()


def _pump(process: subprocess.Popen[str], lines: queue.SimpleQueue[str | None]) -> None:
    """Pass the lines on up to the address, then keep the pipe from running full."""
    waiting = True
    for line in process.stdout or ():
        if waiting:
            lines.put(line)
            waiting = not line.startswith(READY)
    lines.put(None)


def _tail(log: Path) -> str:
    tail = log.read_text(encoding="utf-8", errors="replace").splitlines()[-LOG_LINES:]
    return ":\n" + "\n".join(tail) if tail else ""


def _end(process: subprocess.Popen[str]) -> None:
    process.terminate()
    try:
        process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
