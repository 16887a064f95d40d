"""Stop strings, merged streams, deadlines, and work that is not left half done."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memoserve.errors import Aborted, DeadlineExceeded
from memoserve.pipeline.merging import merged
from memoserve.pipeline.stop import StopStrings
from memoserve.pipeline.tasks import in_thread, settled, until, unwrapped

# -- stop strings


def cut_at_first(text: str, stops: list[str]) -> str:
    found = [text.find(stop) for stop in stops if stop and stop in text]
    return text[: min(found)] if found else text


@given(
    st.lists(st.text("ab", max_size=3), max_size=10),
    st.lists(st.text("ab", max_size=4), max_size=3),
)
def test_any_split_stops_where_the_whole_text_does(pieces: list[str], stops: list[str]) -> None:
    stopper = StopStrings(stops)
    out = "".join(stopper.feed(piece) for piece in pieces)
    stopped = stopper.stopped
    out += stopper.flush()
    whole = "".join(pieces)
    ends = [at for at in range(len(whole) + 1) if any(s and s in whole[:at] for s in stops)]
    # A stop string counts once it is complete: the earliest end, of those the earliest start.
    if ends:
        seen = next(end for end in _ends(pieces) if end >= ends[0])
        assert out == cut_at_first(whole[:seen], stops)
    else:
        assert out == whole
    assert stopped == bool(ends)


def _ends(pieces: list[str]) -> list[int]:
    ends, total = [], 0
    for piece in pieces:
        total += len(piece)
        ends.append(total)
    return ends


@given(st.text("ab", max_size=12), st.lists(st.text("ab", min_size=1, max_size=4), max_size=3))
def test_nothing_is_released_that_could_begin_a_stop_string(text: str, stops: list[str]) -> None:
    stopper = StopStrings(stops)
    out = ""
    for at, character in enumerate(text, start=1):
        out += stopper.feed(character)
        if stopper.stopped:
            break
        held = text[len(out) : at]
        assert held == max(
            (s[:n] for s in stops for n in range(len(s)) if text[:at].endswith(s[:n])),
            key=len,
            default="",
        )


def test_after_a_stop_nothing_comes() -> None:
    stopper = StopStrings(["END"])
    assert stopper.feed("one EN") == "one "
    assert stopper.feed("D two END") == ""
    assert stopper.feed("three") == ""
    assert stopper.flush() == ""


# -- merged


async def count(name: str, number: int, log: list[str]) -> AsyncGenerator[str, None]:
    try:
        for at in range(number):
            await asyncio.sleep(0)
            yield f"{name}{at}"
    finally:
        log.append(name)


async def test_all_items_come_each_stream_in_its_order() -> None:
    log: list[str] = []
    items = [item async for item in merged([count("a", 100, log), count("b", 3, log)])]
    assert [i for i in items if i[0] == "a"] == [f"a{n}" for n in range(100)]
    assert [i for i in items if i[0] == "b"] == ["b0", "b1", "b2"]
    assert sorted(log) == ["a", "b"]


async def test_the_first_error_ends_all_and_is_told_as_it_is() -> None:
    log: list[str] = []

    async def fail() -> AsyncGenerator[str, None]:
        yield "x"
        raise Aborted("no")

    with pytest.raises(Aborted):
        async for _ in merged([count("a", 10_000, log), fail()]):
            pass
    assert log == ["a"]


async def test_closing_early_closes_every_stream() -> None:
    log: list[str] = []
    stream = merged([count("a", 10_000, log), count("b", 10_000, log)])
    await anext(stream)
    await stream.aclose()
    assert sorted(log) == ["a", "b"]


# -- deadlines


async def wait_for_ever(log: list[str]) -> AsyncGenerator[int, None]:
    try:
        yield 1
        await asyncio.Event().wait()
        yield 2
    finally:
        log.append("closed")


async def test_a_deadline_ends_a_stream_that_waits() -> None:
    log: list[str] = []
    stream = until(wait_for_ever(log), time.monotonic() + 0.05)
    assert await anext(stream) == 1
    with pytest.raises(DeadlineExceeded):
        await anext(stream)
    assert log == ["closed"]


async def test_without_a_deadline_items_pass() -> None:
    log: list[str] = []
    assert [i async for i in until(count("a", 3, log), None)] == ["a0", "a1", "a2"]


async def test_closing_a_limited_stream_closes_what_is_inside() -> None:
    log: list[str] = []
    stream = until(wait_for_ever(log), time.monotonic() + 60)
    await anext(stream)
    await stream.aclose()
    assert log == ["closed"]


async def test_a_timeout_of_the_stream_itself_is_not_the_callers() -> None:
    async def fail() -> AsyncGenerator[int, None]:
        for number in range(2):
            if number:
                raise TimeoutError("the disk")
            yield number

    stream = until(fail(), time.monotonic() + 60)
    await anext(stream)
    with pytest.raises(TimeoutError, match="disk"):
        await anext(stream)


# -- work to its end


async def test_a_cancelled_waiter_leaves_only_when_the_work_is_done() -> None:
    done: list[bool] = []

    def work() -> None:
        time.sleep(0.1)
        done.append(True)

    waiter = asyncio.create_task(in_thread(work))
    for _ in range(3):
        await asyncio.sleep(0.01)
        waiter.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiter
    assert done == [True]


async def test_settled_hands_on_results_and_errors() -> None:
    async def give() -> int:
        return 7

    async def fail() -> int:
        raise Aborted("no")

    assert await settled(asyncio.create_task(give())) == 7
    with pytest.raises(Aborted):
        await settled(asyncio.create_task(fail()))


def test_a_group_is_told_as_its_first_error_for_callers() -> None:
    inner = ExceptionGroup("b", [KeyError("bug"), Aborted("mine")])
    with pytest.raises(Aborted), unwrapped():
        raise ExceptionGroup("a", [ValueError("bug"), inner])
    with pytest.raises(ValueError, match="bug"), unwrapped():
        raise ExceptionGroup("a", [ValueError("bug")])
