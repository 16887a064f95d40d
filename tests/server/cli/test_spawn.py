"""Waiting for a server process: it is ready, it ends, it hangs, it talks for ever."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from memoserve.cli.ready import READY
from memoserve.cli.spawn import ready_address

Start = Callable[[str], subprocess.Popen[str]]


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts Python on a piece of code; whatever still runs is ended."""
    started: list[subprocess.Popen[str]] = []

    def run(code: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-u", "-c", code]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        started.append(process)
        return process

    yield run
    for process in started:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "server.log"
    path.write_text("first\n" + "line\n" * 9 + "the last word\n", encoding="utf-8")
    return path


def test_the_address_stands_behind_ready_and_later_lines_do_not_block(
    start: Start, log: Path
) -> None:
    more = "[print('x' * 1000) for _ in range(1000)]"
    process = start(f"print('metrics'); print({READY!r} + '127.0.0.1:7'); {more}")
    assert ready_address(process, log, 30) == "127.0.0.1:7"
    assert process.wait(30) == 0


def test_a_server_that_ends_is_told_with_the_end_of_its_log(start: Start, log: Path) -> None:
    with pytest.raises(OSError, match="did not start") as caught:
        ready_address(start("print('hello')"), log, 30)
    said = str(caught.value).splitlines()
    assert (said[-1], len(said)) == ("the last word", 6)


@pytest.mark.parametrize(
    "code",
    ["import time; time.sleep(60)", "import time\nwhile True: print('busy'); time.sleep(0.01)"],
    ids=["silent", "talking"],
)
def test_a_server_that_hangs_is_not_waited_for(start: Start, log: Path, code: str) -> None:
    began = time.monotonic()
    with pytest.raises(TimeoutError, match=r"not ready within 0\.5 s"):
        ready_address(start(code), log, 0.5)
    assert time.monotonic() - began < 20
