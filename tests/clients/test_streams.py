"""Streams: closing cancels, a failing source writes nothing, newer servers are understood."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator

import pytest

import memoserve_client as mc
from memoserve_proto.v1 import query_pb2
from memoserve_proto.v1 import query_service_pb2 as qs
from tests.clients.caller import Caller
from tests.clients.fake_server import FakeServer, memorize_replies, query_replies


async def test_closing_cancels_the_call(server: FakeServer, caller: Caller) -> None:
    server.state.replies, server.state.hang = query_replies(qs.GenerateResponse)[:1], True
    events = caller.client.generate("book", "q")
    assert isinstance(await caller.next(events), mc.Stage)
    assert not server.state.cancelled.is_set()
    await caller.close(events)
    assert await asyncio.to_thread(server.state.cancelled.wait, 5)
    with pytest.raises(StopAsyncIteration):
        await caller.next(events)
    await caller.close(events)


async def test_leaving_the_block_cancels_the_call(server: FakeServer, caller: Caller) -> None:
    server.state.replies, server.state.hang = memorize_replies()[:1], True
    if caller.is_async:
        async with caller.client.memorize_events("book", "text") as events:
            await anext(events)
    else:
        with caller.client.memorize_events("book", "text") as events:
            await asyncio.to_thread(next, events)
    assert await asyncio.to_thread(server.state.cancelled.wait, 5)


async def test_cancel_ends_one_who_waits(server: FakeServer, caller: Caller) -> None:
    server.state.hang = True
    events = caller.client.recall("book", "q")
    waiting = asyncio.create_task(caller.next(events))
    await asyncio.sleep(0.2)
    assert server.state.requests and not waiting.done()
    events.cancel()
    with pytest.raises(StopAsyncIteration):
        await asyncio.wait_for(waiting, 5)


async def test_a_stream_that_is_over_stays_over(server: FakeServer, caller: Caller) -> None:
    server.state.replies = query_replies(qs.RetrieveResponse)
    events = caller.client.retrieve("book", "q")
    for _ in server.state.replies:
        await caller.next(events)
    for _ in range(2):
        with pytest.raises(StopAsyncIteration):
            await caller.next(events)


class BrokenSource:
    """A file that fails after some text."""

    def __init__(self) -> None:
        self.reads = 0

    def read(self, size: int, /) -> str:
        self.reads += 1
        if self.reads > 2:
            raise OSError("the disk is gone")
        return "text " * 10


async def test_a_failing_source_is_raised_and_writes_nothing(
    server: FakeServer, caller: Caller
) -> None:
    server.state.replies = memorize_replies()
    with pytest.raises(OSError, match="the disk is gone"):
        await caller.call("memorize", "book", BrokenSource())
    assert await asyncio.to_thread(server.state.text_over.wait, 5)
    assert len(server.state.requests) > 1 and not server.state.text_complete


async def test_text_that_is_no_unicode_is_raised(server: FakeServer, caller: Caller) -> None:
    server.state.replies = memorize_replies()
    with pytest.raises(UnicodeEncodeError):
        await caller.call("memorize", "book", "a lone \ud800 surrogate")
    # The call may have been cancelled before it reached the server at all.
    await asyncio.to_thread(server.state.text_over.wait, 0.5)
    assert not server.state.text_complete


async def test_memorize_leaves_only_when_the_call_has_ended(
    server: FakeServer, caller: Caller
) -> None:
    server.state.replies, server.state.linger_s = memorize_replies(), 0.1
    for turn in range(1, 4):
        committed = await caller.call("memorize", "book", "text")
        assert isinstance(committed, mc.Committed)
        assert server.state.finished == turn
    assert server.state.text_complete
    assert not server.state.cancelled.is_set()


async def test_what_was_committed_stays_so_however_the_call_ends(
    server: FakeServer, caller: Caller
) -> None:
    server.state.replies, server.state.hang = memorize_replies(), True
    committed = await caller.call("memorize", "book", "text", timeout=0.5)
    assert committed.memory.version == 3


async def test_draining_does_not_cancel(server: FakeServer, caller: Caller) -> None:
    server.state.replies = query_replies(qs.RecallResponse)
    server.state.linger_s = 0.1
    events = caller.client.recall("book", "q")
    await caller.next(events)
    await caller.drain(events)
    with pytest.raises(StopAsyncIteration):
        await caller.next(events)
    assert server.state.finished == 1
    assert not server.state.cancelled.is_set()


async def test_events_and_words_of_a_newer_server(server: FakeServer, caller: Caller) -> None:
    newer = qs.GenerateResponse.FromString(b"\xa2\x06\x02\x08\x01")  # field 100
    odd = qs.GenerateResponse(stage=query_pb2.Stage(name=77))  # type: ignore[arg-type]
    server.state.replies = [newer, odd, newer, *query_replies(qs.GenerateResponse)[-1:]]
    events = await caller.collect("generate", "book", "q")
    assert events[0] == mc.Stage(mc.StageName.UNKNOWN)
    assert [type(event) for event in events] == [mc.Stage, mc.Final]


def test_a_blocking_memorize_sends_while_it_is_told(server: FakeServer) -> None:
    """A text that waits for the first event must not lock up: both sides run at once."""
    may_go_on = threading.Event()

    def text() -> Iterator[str]:
        yield "first"
        assert may_go_on.wait(5)
        yield "second"

    server.state.replies = memorize_replies()
    with mc.Client(server.target) as client, client.memorize_events("book", text()) as events:
        while len(server.state.requests) < 2:
            threading.Event().wait(0.01)
        may_go_on.set()
        assert isinstance(list(events)[-1], mc.Committed)
