"""Progress: a bar on a terminal that ends full, a few plain lines elsewhere."""

from __future__ import annotations

import io
import time

import pytest

from memoserve.cli.progress import FIRST_LINE_S, Bar
from memoserve_client import Committed, Notice, Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def at(tokens: int, passages: int = 0) -> Progress:
    return Progress(tokens, tokens + 10, 1000.0, tokens // 4, passages, None)


class Clock:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        monkeypatch.setattr(time, "monotonic", lambda: self.now)


def run(bar: Bar, clock: Clock, seconds: int) -> None:
    for second in range(seconds):
        clock.now = float(second)
        bar(at(second * 1000, second))
    bar.close()


def test_elsewhere_the_lines_are_few_and_plain(monkeypatch: pytest.MonkeyPatch) -> None:
    out, clock = io.StringIO(), Clock(monkeypatch)
    run(Bar(10_000, out=out), clock, 600)
    lines = out.getvalue().splitlines()
    assert 5 <= len(lines) <= 12
    assert "\r" not in out.getvalue()
    assert lines[0] == "memorize: 2,000 tokens (1,000/s), 500 beacons, 2 passages"


def test_a_short_text_needs_no_line(monkeypatch: pytest.MonkeyPatch) -> None:
    out, clock = io.StringIO(), Clock(monkeypatch)
    run(Bar(10_000, out=out), clock, int(FIRST_LINE_S))
    assert out.getvalue() == ""


@pytest.mark.parametrize("text_bytes", [None, 30, 3_000_000])
def test_a_terminal_gets_a_bar_that_ends_full(text_bytes: int | None) -> None:
    out = Terminal()
    bar = Bar(text_bytes, out=out)
    for step in range(5):
        bar(at(step * 1000, step))
    bar.close()
    bar.close()
    last = out.getvalue().rstrip().splitlines()[-1].split("\r")[-1]
    assert "4.00k" in last
    if text_bytes is not None:
        assert "100%" in last


def test_quiet_is_quiet_but_for_notices() -> None:
    for out in (io.StringIO(), Terminal()):
        bar = Bar(100, quiet=True, out=out)
        bar(at(5))
        bar(Notice("BEYOND_CAPACITY", "too long"))
        bar.close()
        assert out.getvalue() == "BEYOND_CAPACITY: too long\n"


def test_a_commit_closes_the_bar() -> None:
    out = Terminal()
    bar = Bar(None, out=out)
    bar(at(5))
    bar(Committed.__new__(Committed))
    assert out.getvalue().endswith("\n")
