"""The end of a server: who is let finish, who is refused, and what they are told."""

from __future__ import annotations

import asyncio
import time

import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

import memoserve_client as client
from memoserve.pipeline.values import Token
from memoserve.rpc.options import RpcOptions
from memoserve.rpc.server import SERVICES, RpcServer, build_server
from memoserve_proto.v1 import memory_service_pb2, query_service_pb2
from tests.server.rpc.calls import (
    BOOK,
    END,
    REF,
    details_of,
    failure_of,
    header,
    memory_stub,
    query_stub,
)
from tests.server.rpc.fake_pipeline import FakePipeline

RECALL = query_service_pb2.RecallRequest(memories=[REF], query="q")
GET = memory_service_pb2.GetMemoryRequest(name=BOOK)
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


async def health_of(channel: grpc.aio.Channel, service: str) -> int:
    request = health_pb2.HealthCheckRequest(service=service)
    return int((await health_pb2_grpc.HealthStub(channel).Check(request)).status)


async def test_drain_lets_calls_finish_and_new_ones_go_elsewhere(
    server: RpcServer, channel: grpc.aio.Channel, pipeline: FakePipeline
) -> None:
    pipeline.events = (Token("x"),)
    pipeline.hang = True
    call = query_stub(channel).Recall(RECALL)
    await call.read()
    assert await server.drain(0.05) is False
    assert await health_of(channel, "") == NOT_SERVING
    await asyncio.sleep(0.05)
    assert await health_of(channel, SERVICES[0]) == NOT_SERVING
    error = await failure_of(query_stub(channel).Recall(RECALL))
    assert error.code() is grpc.StatusCode.UNAVAILABLE
    assert details_of(error)["ErrorInfo"].reason == "DRAINING"
    assert not pipeline.closed.is_set()
    call.cancel()
    assert await server.drain(5) is True


async def test_stop_cancels_what_outlasts_the_grace(
    server: RpcServer, channel: grpc.aio.Channel, pipeline: FakePipeline
) -> None:
    pipeline.events = (Token("x"),)
    pipeline.hang = True
    call = query_stub(channel).Recall(RECALL)
    await call.read()
    waiter = asyncio.create_task(server.wait())
    await server.stop(0.05)
    await asyncio.wait_for(pipeline.closed.wait(), 2)
    await asyncio.wait_for(waiter, 2)
    assert await call.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)


async def memorize_then_get(address: str) -> grpc.aio.AioRpcError:
    """What is said to a call that follows at once the one that the drain waited for."""
    # Alone on its connection, and the server's own word: no retries.
    options = [("grpc.enable_retries", 0), ("grpc.use_local_subchannel_pool", 1)]
    async with grpc.aio.insecure_channel(address, options) as channel:
        call = memory_stub(channel).Memorize()
        await call.write(header())
        await call.write(END)
        await call.done_writing()
        async for _ in call:
            pass
        return await failure_of(memory_stub(channel).GetMemory(GET))


@pytest.mark.parametrize("callers", [1, 3])
async def test_a_call_right_behind_the_last_one_is_refused_and_not_cancelled(
    server: RpcServer, pipeline: FakePipeline, callers: int
) -> None:
    pipeline.permits = asyncio.Semaphore(0)
    asking = [asyncio.create_task(memorize_then_get(server.address)) for _ in range(callers)]
    while len(pipeline.calls) < callers:
        await asyncio.sleep(0.005)
    stopping = asyncio.create_task(server.stop(30))
    await asyncio.sleep(0.01)
    for _ in asking:
        pipeline.permits.release()
    for error in await asyncio.gather(*asking):
        assert error.code() is grpc.StatusCode.UNAVAILABLE, error
        assert details_of(error)["ErrorInfo"].reason == "DRAINING"
    await stopping


async def delete_until_nobody_answers(address: str, told: set[str]) -> None:
    """``delete`` is sent once: what this client raises is what became of that one call."""
    options = [("grpc.use_local_subchannel_pool", 1)]
    async with client.AsyncClient(address, channel_options=options) as caller:
        while True:
            try:
                await caller.delete("book")
            except client.MemoserveError as error:
                told.add(type(error).__name__)
                if isinstance(error, client.errors.Unavailable) and not error.reason:
                    return


@pytest.mark.parametrize("_", range(3))
async def test_no_caller_hears_that_it_cancelled(pipeline: FakePipeline, _: int) -> None:
    """Some of these calls arrive in the midst of gRPC's own shutdown."""
    server = build_server(pipeline, RpcOptions(max_calls=100))
    await server.start()
    told: set[str] = set()
    asking = [
        asyncio.create_task(delete_until_nobody_answers(server.address, told)) for _ in range(8)
    ]
    while len(pipeline.calls) < 32:
        await asyncio.sleep(0.005)
    await server.stop(30)
    await asyncio.gather(*asking)
    assert told == {"Unavailable"}


async def test_a_health_watch_does_not_hold_the_stop(
    server: RpcServer, channel: grpc.aio.Channel
) -> None:
    watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
    await watch.read()
    started = time.monotonic()
    await server.stop(60)
    assert time.monotonic() - started < 30
    assert (await watch.read()).status == NOT_SERVING
