"""Every method of both clients: what it sends, and what it makes of the reply."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator
from datetime import UTC, datetime

import pytest

import memoserve_client as mc
from memoserve_proto.v1 import common_pb2, query_pb2
from memoserve_proto.v1 import memory_service_pb2 as ms
from memoserve_proto.v1 import query_service_pb2 as qs
from tests.clients.caller import Caller
from tests.clients.fake_server import FakeServer, memorize_replies, query_replies

BOOK = mc.MemoryName("default", "book")
BOOK_REF = mc.MemoryRef(BOOK, 2)


async def test_create_sends_what_is_given(server: FakeServer, caller: Caller) -> None:
    memory = await caller.call("create", "x", ratio=0, labels={"a": "b"}, description="d")
    request = server.state.requests[0]
    assert (request.name.namespace, request.name.memory_id) == ("default", "x")
    assert request.HasField("ratio") and request.ratio == 0
    assert dict(request.labels) == {"a": "b"} and request.description == "d"
    assert request.language == common_pb2.LANGUAGE_AUTO
    assert memory.name == mc.MemoryName("default", "x") and memory.version == 0


async def test_create_without_ratio_leaves_it_to_the_server(
    server: FakeServer, caller: Caller
) -> None:
    await caller.call("create", "x")
    assert not server.state.requests[0].HasField("ratio")


async def test_get_reads_every_field(server: FakeServer, caller: Caller) -> None:
    memory = await caller.call("get", "team/book")
    assert server.state.requests[0].name.namespace == "team"
    stats = dict.fromkeys(mc.MemoryStats.__dataclass_fields__, 0)
    stats |= {"raw_tokens": 640, "memory_rows": 160, "capacity_tokens": 2048}
    assert memory == mc.Memory(
        name=BOOK,
        version=2,
        etag="e2",
        model="tiny",
        ratio=4,
        ratios=(2, 4),
        window=64,
        language=mc.Language.EN,
        labels={"kind": "novel"},
        description="a book",
        create_time=datetime(2025, 1, 2, 3, 4, 5, 250_000, tzinfo=UTC),
        update_time=datetime(2025, 1, 3, tzinfo=UTC),
        tier=mc.Tier.DEVICE,
        pinned=True,
        stats=mc.MemoryStats(**stats),
    )


async def test_list_follows_the_pages(server: FakeServer, caller: Caller) -> None:
    memories = await caller.collect("list", filter='labels.kind = "novel"')
    assert [memory.name.memory_id for memory in memories] == ["a", "b", "c", "d", "e"]
    assert [request.page_token for request in server.state.requests] == ["", "2", "4"]
    assert {request.filter for request in server.state.requests} == {'labels.kind = "novel"'}


async def test_list_of_nothing_asks_once(server: FakeServer, caller: Caller) -> None:
    server.state.memories = []
    assert await caller.collect("list", namespace="team", page_size=7) == []
    assert [request.page_size for request in server.state.requests] == [7]
    assert server.state.requests[0].namespace == "team"


@pytest.mark.parametrize(
    ("changes", "paths"),
    [
        ({"labels": {}}, ["labels"]),
        ({"description": ""}, ["description"]),
        ({"labels": {"x": "y"}, "description": "z"}, ["labels", "description"]),
    ],
)
async def test_update_names_what_is_not_none(
    server: FakeServer, caller: Caller, changes: dict[str, object], paths: list[str]
) -> None:
    memory = await caller.call("update", "book", etag="e2", **changes)
    request = server.state.requests[0]
    assert list(request.update_mask.paths) == paths and request.memory.etag == "e2"
    expected = {"labels": {"kind": "novel"}, "description": "a book"} | changes
    assert {"labels": dict(memory.labels), "description": memory.description} == expected


async def test_delete_sends_the_etag(server: FakeServer, caller: Caller) -> None:
    assert await caller.call("delete", "book", etag="e2") is None
    assert server.state.requests[0].etag == "e2"


@pytest.mark.parametrize("pinned", [None, False, True])
async def test_set_residency(server: FakeServer, caller: Caller, pinned: bool | None) -> None:
    memory = await caller.call("set_residency", "book", mc.Tier.HOST, pinned=pinned)
    assert server.state.requests[0].HasField("pinned") == (pinned is not None)
    assert memory.tier is mc.Tier.HOST and memory.pinned == bool(pinned)


async def test_info(caller: Caller) -> None:
    info = await caller.call("info")
    assert info.generators == ("quote", "engine") and info.pages_free == 7
    assert info.model.name == "tiny" and info.model.ratios == (2, 4)


async def test_memorize_sends_header_pieces_and_end(server: FakeServer, caller: Caller) -> None:
    server.state.replies = memorize_replies()
    told: list[object] = []
    committed = await caller.call(
        "memorize",
        "book",
        ["one", mc.Source("s2", b"two"), mc.Source("s3", io.StringIO("three"))],
        source_id="s1",
        on_event=told.append,
        mode=mc.WriteMode.REPLACE,
        request_id="r1",
        expected_version=0,
        ratio=0,
        create_missing=False,
    )
    header = server.state.requests[0].header
    assert header.mode == ms.WRITE_MODE_REPLACE and header.request_id == "r1"
    assert header.HasField("expected_version") and header.HasField("ratio")
    assert header.HasField("create_missing") and not header.create_missing
    assert not header.HasField("expected_tokens") and not header.HasField("index")
    assert [request.WhichOneof("part") for request in server.state.requests[1:]] == [
        "text",
        "text",
        "text",
        "end",
    ]
    pieces = [(sent.text.source_id, sent.text.text_utf8) for sent in server.state.requests[1:-1]]
    assert pieces == [("s1", b"one"), ("s2", b"two"), ("s3", b"three")]
    assert [type(event) for event in told] == [
        mc.Accepted,
        mc.Progress,
        mc.Progress,
        mc.Notice,
        mc.Committed,
    ]
    assert [event.eta_s for event in told if isinstance(event, mc.Progress)] == [1.5, None]
    assert isinstance(committed, mc.Committed) and committed is told[-1]
    assert (committed.memory.version, committed.tokens_added) == (3, 128)


async def test_memorize_events_are_iterated(server: FakeServer, caller: Caller) -> None:
    server.state.replies = memorize_replies()
    events = await caller.collect("memorize_events", "book", "text")
    assert isinstance(events[0], mc.Accepted) and isinstance(events[-1], mc.Committed)
    assert events[0].capacity_tokens == 2048


async def test_a_memorize_without_commit_is_an_error(server: FakeServer, caller: Caller) -> None:
    server.state.replies = memorize_replies()[:-1]
    with pytest.raises(mc.errors.Internal, match="without a commit"):
        await caller.call("memorize", "book", "text")


async def test_async_memorize_takes_an_asynchronous_source(server: FakeServer) -> None:
    async def words() -> AsyncIterator[str]:
        for word in ("one ", "two"):
            await asyncio.sleep(0)
            yield word

    server.state.replies = memorize_replies()
    async with mc.AsyncClient(server.target) as client:
        await client.memorize("book", words())
    *pieces, end = server.state.requests[1:]
    assert [piece.text.text_utf8 for piece in pieces] == [b"one ", b"two"]
    assert end.HasField("end")


async def test_recall(server: FakeServer, caller: Caller) -> None:
    server.state.replies = query_replies(qs.RecallResponse)
    events = await caller.collect(
        "recall",
        ["book", "team/other@3"],
        "who?",
        kinds=[mc.ClueKind.KEY_POINT],
        sampling=mc.SamplingOptions(max_tokens=7, temperature=0.0, stop=("x",)),
        return_dropped=True,
    )
    request = server.state.requests[0]
    assert [ref.name.memory_id for ref in request.memories] == ["book", "other"]
    assert not request.memories[0].HasField("version") and request.memories[1].version == 3
    assert list(request.kinds) == [query_pb2.CLUE_KIND_KEY_POINT] and request.return_dropped
    assert request.sampling.HasField("temperature") and not request.sampling.HasField("top_p")
    assert list(request.sampling.stop) == ["x"]
    assert [type(event) for event in events] == [
        mc.Stage,
        mc.Clue,
        mc.Token,
        mc.Notice,
        mc.Final,
    ]
    assert events[0] == mc.Stage(mc.StageName.RECALL)
    assert events[1] == mc.Clue(mc.ClueKind.SPAN, "the gate", BOOK_REF, "short")
    assert events[2] == mc.Token("It", None)


async def test_retrieve(server: FakeServer, caller: Caller) -> None:
    server.state.replies = query_replies(qs.RetrieveResponse)
    events = await caller.collect(
        "retrieve", mc.MemoryRef(BOOK), "who?", clues=["gate"], top_k=5, fusion=mc.Fusion.RRF
    )
    request = server.state.requests[0]
    assert (request.top_k, list(request.clues)) == (5, ["gate"])
    assert request.fusion == query_pb2.FUSION_RRF
    assert events[1] == mc.Passage(
        BOOK_REF, 3, "s", "It opened.", 5, 15, 4, 14, 0.5, {"dense": 0.25}
    )


async def test_generate(server: FakeServer, caller: Caller) -> None:
    server.state.replies = query_replies(qs.GenerateResponse)
    events = await caller.collect(
        "generate", BOOK, "who?", task=mc.Task.RETRIEVAL_ONLY, use_clues=False, top_k=None
    )
    request = server.state.requests[0]
    assert request.task == qs.GENERATE_TASK_RETRIEVAL_ONLY
    assert request.HasField("use_clues") and not request.HasField("top_k")
    assert [type(event).__name__ for event in events] == [
        "Stage",
        "Clue",
        "Passage",
        "Token",
        "Quote",
        "Notice",
        "Final",
    ]
    final = events[-1]
    assert final.finish_reason is mc.FinishReason.STOP and final.memories == (BOOK_REF,)
    assert final.usage.first_token_s == 0.0 and final.usage.first_clue_s is None


async def test_a_client_has_a_namespace(server: FakeServer) -> None:
    async with mc.AsyncClient(server.target, namespace="team") as client:
        await client.get("book")
        await client.get("other/book")
        assert [event async for event in client.recall("book")] == []
    requests = server.state.requests
    assert [request.name.namespace for request in requests[:2]] == ["team", "other"]
    assert requests[2].memories[0].name.namespace == "team"


async def test_wait_ready_waits_for_serving(server: FakeServer, caller: Caller) -> None:
    server.set_serving(False)
    with pytest.raises(mc.errors.DeadlineExceeded):
        await caller.call("wait_ready", 0.3)
    waiting = asyncio.create_task(caller.call("wait_ready", 10.0))
    await asyncio.sleep(0.2)
    assert not waiting.done()
    await asyncio.to_thread(server.set_serving, True)
    await asyncio.wait_for(waiting, 10)


async def test_wait_ready_outlasts_a_lost_connection(server: FakeServer, caller: Caller) -> None:
    server.state.health_failures = 2
    await caller.call("wait_ready", 10.0)
    assert server.state.health_failures == 0
    with pytest.raises(mc.errors.NotFound):
        await caller.call("wait_ready", 10.0, service="no.such.Service")
