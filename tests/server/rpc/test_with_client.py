"""The Python client and the server, each as it is shipped, with only the pipeline faked."""

from __future__ import annotations

import asyncio

import pytest

import memoserve_client as client
from memoserve import errors
from memoserve.pipeline.values import (
    Accepted,
    Clue,
    ClueKind,
    Committed,
    CreateSpec,
    Final,
    GenerateQuery,
    MemorizeHeader,
    MemoryName,
    MemoryRef,
    Notice,
    Passage,
    Progress,
    Quote,
    Stage,
    StageName,
    TextPiece,
    Token,
    Usage,
)
from memoserve.rpc.server import RpcServer
from tests.server.rpc.fake_pipeline import FakePipeline, make_view

NAME = MemoryName("team", "book")
REF = MemoryRef(NAME, 3)
EVENTS = (
    Stage(StageName.RECALL),
    Clue(ClueKind.SPAN, "a clue", REF),
    Passage(REF, 1, "s", "text", 2, 6, 3, 7, 0.5, {"dense": 0.25}),
    Token("wo"),
    Quote(REF, "s", "text", 2, 6, 3, 7, 0.5),
    Notice("UNTRUSTED_CLUES", "clues are not used"),
    Final("the answer", "stop", Usage(), (REF,)),
)


async def test_the_asyncio_client_makes_every_call(
    server: RpcServer, pipeline: FakePipeline
) -> None:
    view = make_view()
    pipeline.events = EVENTS
    pipeline.written = (
        Accepted(view, 8, 4096),
        Progress(1, 2, 3.5, 4, 5, None),
        Notice("EXTRAPOLATED", "beyond the capacity"),
        Committed(view, 1.5, 7),
    )
    async with client.AsyncClient(server.address, namespace="team") as caller:
        await caller.wait_ready(5)
        assert (await caller.info()).model.name == "tiny"
        assert (await caller.create("book", ratio=0)).etag == "e3"
        assert (await caller.get("book")).stats.capacity_tokens == 13
        assert [memory.version async for memory in caller.list()] == [3]
        await caller.update("book", labels={"a": "b"}, etag="e3")
        await caller.delete("book", etag="e3")
        seen: list[str] = []
        text: list[str | client.Source] = ["grüße ", client.Source("b", "记忆")]
        committed = await caller.memorize(
            "book", text, source_id="a", on_event=lambda event: seen.append(type(event).__name__)
        )
        assert (committed.tokens_added, committed.memory.version) == (7, 3)
        assert seen == ["Accepted", "Progress", "Notice", "Committed"]
        events = [type(event).__name__ async for event in caller.generate("book@3", "why?")]
        assert events == [type(event).__name__ for event in EVENTS]
    assert [call for call in pipeline.calls if call] == [
        ("info",),
        ("create", CreateSpec(NAME, 0)),
        ("get", MemoryRef(NAME)),
        ("list", "team", 100, "", ""),
        ("update", NAME, {"a": "b"}, None, "e3"),
        ("delete", NAME, "e3"),
        ("memorize", MemorizeHeader(NAME)),
        ("generate", GenerateQuery((REF,), "why?")),
    ]
    assert pipeline.pieces == [TextPiece("a", "grüße "), TextPiece("b", "记忆")]


async def test_the_blocking_client_streams(server: RpcServer, pipeline: FakePipeline) -> None:
    pipeline.events = (Token("wo"), EVENTS[-1])

    def ask() -> str:
        with client.Client(server.address, namespace="team") as caller:
            assert caller.memorize("book", "a text").tokens_added == 7
            events = caller.recall("book", "why?", stream_tokens=True)
            return "".join(event.text for event in events if isinstance(event, client.Token))

    assert await asyncio.to_thread(ask) == "wo"


async def test_the_client_reads_what_a_refusal_says(
    server: RpcServer, pipeline: FakePipeline
) -> None:
    async with client.AsyncClient(server.address) as caller:
        pipeline.failure = errors.ResourceExhausted("no pages", retry_after_s=1.5, needed=7)
        with pytest.raises(client.errors.ResourceExhausted) as exhausted:
            await caller.get("book")
        assert exhausted.value.retry_after_s == 1.5
        assert exhausted.value.details.metadata["needed"] == "7"
        pipeline.failure = None
        with pytest.raises(client.errors.InvalidArgument) as invalid:
            await caller.memorize("book", b"\xff" + b"a" * 2_000_000)
        (violation,) = invalid.value.details.field_violations
        assert violation.field == "text.text_utf8"
        assert pipeline.text_ended == 0
