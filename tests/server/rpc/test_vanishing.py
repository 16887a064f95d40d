"""Callers that leave: the pipeline's work is closed at once, whatever it was doing."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import grpc.aio
import pytest

from memoserve.metrics import Metrics
from memoserve.pipeline.values import Token
from memoserve.rpc.options import RpcOptions
from memoserve.rpc.server import RpcServer
from memoserve_proto.v1 import memory_service_pb2, query_service_pb2
from tests.server.rpc.calls import BOOK, REF, failure_of, header, memory_stub, piece, query_stub
from tests.server.rpc.fake_pipeline import FakePipeline

RECALL = query_service_pb2.RecallRequest(memories=[REF], query="q")
PROMPTLY_S = 2.0


def count(metrics: Metrics, method: str, code: str) -> float:
    labels = {"method": f"/memoserve.v1.{method}", "code": code}
    return metrics.registry.get_sample_value("memoserve_rpc_seconds_count", labels) or 0.0


async def eventually(metrics: Metrics, method: str, code: str, times: int = 1) -> None:
    for _ in range(200):
        if count(metrics, method, code) == times:
            return
        await asyncio.sleep(0.01)
    raise AssertionError(f"{method} never ended with {code}")


@pytest.mark.parametrize("where", ["waiting", "writing"])
@pytest.mark.parametrize("how", ["cancel", "hang up"])
async def test_a_query(
    server: RpcServer, pipeline: FakePipeline, metrics: Metrics, where: str, how: str
) -> None:
    """Writing: nobody reads the endless events, so the server waits for room on the wire."""
    pipeline.events = (Token("x" * 10_000),)
    pipeline.hang = where == "waiting"
    pipeline.endless = where == "writing"
    channel = grpc.aio.insecure_channel(server.address)
    call = query_stub(channel).Recall(RECALL)
    await call.read()
    await asyncio.sleep(0.1)
    assert not pipeline.closed.is_set()
    if how == "cancel":
        call.cancel()
    else:
        await channel.close()
    await asyncio.wait_for(pipeline.closed.wait(), PROMPTLY_S)
    assert pipeline.cancelled
    await eventually(metrics, "QueryService/Recall", "CANCELLED")
    await channel.close()


async def test_a_unary_call(
    channel: grpc.aio.Channel, pipeline: FakePipeline, metrics: Metrics
) -> None:
    pipeline.hang = True
    call = memory_stub(channel).GetMemory(memory_service_pb2.GetMemoryRequest(name=BOOK))
    asked = asyncio.create_task(call.code())
    await pipeline.started.wait()
    call.cancel()
    await asyncio.wait_for(pipeline.closed.wait(), PROMPTLY_S)
    await eventually(metrics, "MemoryService/GetMemory", "CANCELLED")
    assert await asked is grpc.StatusCode.CANCELLED


async def test_a_memorize_that_waits_for_text(
    channel: grpc.aio.Channel, pipeline: FakePipeline, metrics: Metrics
) -> None:
    call = memory_stub(channel).Memorize()
    await call.write(header())
    await call.write(piece(b"a"))
    await pipeline.started.wait()
    call.cancel()
    await eventually(metrics, "MemoryService/Memorize", "CANCELLED")
    assert pipeline.text_ended == 0


@pytest.mark.parametrize("how", ["cancel", "hang up"])
@pytest.mark.parametrize("options", [RpcOptions(max_calls=100)], ids=[""])
async def test_a_text_cut_off_never_passes_for_a_whole_one(
    server: RpcServer, pipeline: FakePipeline, metrics: Metrics, how: str
) -> None:
    """Most of these calls look closed before they look cancelled.

    Some are left while the pipeline waits for text, some while the server has not read all that
    was sent, and some while it is busy, so that end and cancel come to it together.
    """
    for turn in range(90):
        pipeline.started.clear()
        async with grpc.aio.insecure_channel(server.address) as channel:
            call = memory_stub(channel).Memorize()
            await call.write(header())
            for _ in range(1 + turn % 4):
                await call.write(piece(b"a"))
            await pipeline.started.wait()
            if turn % 3:
                await asyncio.sleep(0.003)
            if how == "cancel":
                call.cancel()
                await asyncio.sleep(0)
        if turn % 3 == 2:
            time.sleep(0.002)
    await eventually(metrics, "MemoryService/Memorize", "CANCELLED", times=90)
    assert len(pipeline.pieces) > 0
    assert pipeline.text_ended == 0


async def test_a_deadline_that_passes(
    channel: grpc.aio.Channel, pipeline: FakePipeline, metrics: Metrics
) -> None:
    pipeline.hang = True
    failure = await failure_of(query_stub(channel).Recall(RECALL, timeout=1.0))
    assert failure.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    await asyncio.wait_for(pipeline.closed.wait(), PROMPTLY_S)
    assert pipeline.cancelled
    await eventually(metrics, "QueryService/Recall", "DEADLINE_EXCEEDED")


async def test_metrics_count_every_call_by_its_code(
    channel: grpc.aio.Channel, pipeline: FakePipeline, metrics: Metrics
) -> None:
    stub = memory_stub(channel)
    await stub.GetMemory(memory_service_pb2.GetMemoryRequest(name=BOOK))
    await failure_of(stub.GetMemory(memory_service_pb2.GetMemoryRequest()))
    async for _ in query_stub(channel).Recall(RECALL):
        pass
    unknown: Any = channel.unary_unary("/memoserve.v1.MemoryService/Nonsense")
    assert (await failure_of(unknown(b""))).code() is grpc.StatusCode.UNIMPLEMENTED
    assert count(metrics, "MemoryService/GetMemory", "OK") == 1
    assert count(metrics, "MemoryService/GetMemory", "INVALID_ARGUMENT") == 1
    assert count(metrics, "QueryService/Recall", "OK") == 1
    (series,) = metrics.rpc_seconds.collect()
    assert "Nonsense" not in str(series)
