from __future__ import annotations

import asyncio
import itertools
from typing import Any

import grpc.aio
import pytest

from memoserve.errors import OutOfRange
from memoserve.pipeline.values import (
    Accepted,
    Committed,
    Language,
    MemorizeHeader,
    MemoryName,
    Notice,
    Progress,
    TextPiece,
    WriteMode,
)
from memoserve.rpc.server import RpcServer
from memoserve_proto.v1 import common_pb2
from memoserve_proto.v1 import memory_service_pb2 as pb2
from tests.server.rpc.calls import (
    END,
    details_of,
    failure_of,
    field_of,
    header,
    memorize_failure,
    memory_stub,
    piece,
)
from tests.server.rpc.fake_pipeline import FakePipeline, make_view

NAME = MemoryName("team", "book")
MIB = 1024 * 1024


async def test_a_text_in_pieces(channel: grpc.aio.Channel, pipeline: FakePipeline) -> None:
    text = [piece("grüße".encode(), "a"), piece(b"", "a"), piece("记忆".encode(), "b")]
    sent = [header(), *text, END]
    responses = [response async for response in memory_stub(channel).Memorize(iter(sent))]
    assert pipeline.calls[0] == ("memorize", MemorizeHeader(NAME))
    assert pipeline.pieces == [TextPiece("a", "grüße"), TextPiece("a", ""), TextPiece("b", "记忆")]
    assert [response.WhichOneof("event") for response in responses] == ["committed"]
    assert not pipeline.cancelled


async def test_the_header_passes_every_field(
    channel: grpc.aio.Channel, pipeline: FakePipeline
) -> None:
    first = header(
        mode=pb2.WRITE_MODE_REPLACE,
        request_id="r1",
        expected_version=0,
        expected_tokens=9,
        ratio=0,
        language=common_pb2.LANGUAGE_ZH,
        create_missing=False,
        allow_extrapolation=True,
        index=False,
    )
    async for _ in memory_stub(channel).Memorize(iter([first, END])):
        pass
    told = MemorizeHeader(NAME, WriteMode.REPLACE, "r1", 0, 9, 0, Language.ZH, False, True, False)
    assert pipeline.calls[0] == ("memorize", told)


async def test_every_event(channel: grpc.aio.Channel, pipeline: FakePipeline) -> None:
    view = make_view()
    pipeline.written = (
        Accepted(view, 8, 4096),
        Progress(1, 2, 3.5, 4, 5, None),
        Progress(1, 2, 3.5, 4, 5, 0.0),
        Notice("EXTRAPOLATED", "beyond the capacity"),
        Committed(view, 1.5, 7, True),
    )
    call = memory_stub(channel).Memorize(iter([header(), END]))
    accepted, unknown, known, notice, committed = [response async for response in call]
    assert accepted.accepted.memory.etag == "e3"
    assert (accepted.accepted.ratio, accepted.accepted.capacity_tokens) == (8, 4096)
    progress = unknown.progress
    assert (progress.tokens_done, progress.tokens_received, progress.tokens_per_s) == (1, 2, 3.5)
    assert (progress.memory_rows, progress.passages, progress.HasField("eta_s")) == (4, 5, False)
    assert known.progress.HasField("eta_s")
    assert (notice.warning.code, notice.warning.message) == ("EXTRAPOLATED", "beyond the capacity")
    assert committed.committed.memory.etag == "e3"
    assert (committed.committed.seconds, committed.committed.tokens_added) == (1.5, 7)
    assert committed.committed.replayed


@pytest.mark.parametrize(
    ("sent", "field"),
    [
        ([], "header"),
        ([piece(b"text")], "header"),
        ([pb2.MemorizeRequest()], "header"),
        ([END], "header"),
        ([header(), header()], "header"),
        ([header(), piece(b"a"), header()], "header"),
        ([header(), pb2.MemorizeRequest()], "text"),
        ([header()], "end"),
        ([header(), piece(b"a")], "end"),
        ([header(), piece(b"ok"), piece(b"\xff\xfe")], "text.text_utf8"),
        ([header(), piece("é".encode()[:1]), piece("é".encode()[1:])], "text.text_utf8"),
        ([header(), piece(b"\xed\xa0\x80")], "text.text_utf8"),
        ([header(), piece(b"a\0b")], "text.text_utf8"),
        ([header(), piece(b"a" * (MIB + 1))], "text.text_utf8"),
        ([header(), piece(b"a", "s" * 257)], "text.source_id"),
        ([header(), piece(b"a", "\0")], "text.source_id"),
        ([header(name=None)], "header.name"),
        ([header(mode=7)], "header.mode"),
        ([header(language=9)], "header.language"),
        ([header(request_id="r" * 129)], "header.request_id"),
        ([header(expected_version=-1)], "header.expected_version"),
        ([header(expected_tokens=0)], "header.expected_tokens"),
    ],
)
async def test_what_is_refused(
    server: RpcServer, pipeline: FakePipeline, sent: list[Any], field: str
) -> None:
    assert field_of(await memorize_failure(server.address, sent)) == field
    assert pipeline.text_ended == 0


@pytest.mark.parametrize(
    "late", [END, piece(b"b"), header(), pb2.MemorizeRequest()], ids=["end", "text", "header", "-"]
)
async def test_nothing_may_follow_the_end(
    server: RpcServer, pipeline: FakePipeline, late: pb2.MemorizeRequest
) -> None:
    error = await memorize_failure(server.address, [header(), piece(b"a"), END, late])
    assert field_of(error) == "end"
    assert details_of(error)["ErrorInfo"].reason == "WRONG_ORDER"
    assert pipeline.pieces == [TextPiece("", "a")]
    assert pipeline.text_ended == 0


async def test_a_stream_that_closes_without_end_is_told_so(
    channel: grpc.aio.Channel, pipeline: FakePipeline
) -> None:
    sent = [header(), piece(b"a"), piece(b"b")]
    error = await failure_of(memory_stub(channel).Memorize(iter(sent)))
    assert field_of(error) == "end"
    assert details_of(error)["ErrorInfo"].reason == "REQUIRED"
    assert len(pipeline.pieces) == 2
    assert pipeline.text_ended == 0


async def test_the_largest_piece_is_taken(
    channel: grpc.aio.Channel, pipeline: FakePipeline
) -> None:
    sent = [header(), piece(b"a" * MIB, "s" * 256), END]
    async for _ in memory_stub(channel).Memorize(iter(sent)):
        pass
    assert [len(taken.text) for taken in pipeline.pieces] == [MIB]


async def test_a_fast_writer_is_held_back(
    channel: grpc.aio.Channel, pipeline: FakePipeline
) -> None:
    pipeline.permits = asyncio.Semaphore(1)
    call = memory_stub(channel).Memorize()
    written = 0

    async def write_all() -> None:
        nonlocal written
        await call.write(header())
        for _ in range(64):
            await call.write(piece(b"a" * (MIB // 2)))
            written += 1
        await call.write(END)
        await call.done_writing()

    writer = asyncio.create_task(write_all())
    while len(pipeline.pieces) < 1:
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.3)
    stuck_at = written
    await asyncio.sleep(0.3)
    assert written == stuck_at < 32
    assert len(pipeline.pieces) == 1
    for _ in range(64):
        pipeline.permits.release()
    await writer
    assert [response.WhichOneof("event") async for response in call] == ["committed"]
    assert len(pipeline.pieces) == 64


async def test_an_error_of_the_pipeline_ends_a_stream_that_still_sends(
    server: RpcServer, pipeline: FakePipeline
) -> None:
    pipeline.takes = 2
    pipeline.written = ()
    pipeline.failure = OutOfRange("too long", capacity=4096)
    sent = itertools.chain([header()], itertools.repeat(piece(b"a" * 1000)))
    error = await memorize_failure(server.address, sent)
    assert len(pipeline.pieces) == 2
    assert error.code() is grpc.StatusCode.OUT_OF_RANGE
