"""A call has ended only when the pipeline's work has: closed, not left to the collector."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc.aio
import pytest

from memoserve.metrics import Metrics
from memoserve.pipeline.values import Accepted, Stage, StageName, Token
from memoserve.rpc.gate import Gate
from memoserve.rpc.interceptors import CallInterceptor
from memoserve.rpc.memory_service import MemoryService
from memoserve.rpc.query_service import QueryService
from memoserve_proto.v1 import query_service_pb2
from tests.server.rpc.calls import END, REF, header
from tests.server.rpc.fake_pipeline import FakePipeline, make_view


class DeadContext:
    """A call whose client is gone, as gRPC tells when a write comes before the cancel."""

    def time_remaining(self) -> None:
        return None

    async def write(self, message: object) -> None:
        raise grpc.aio.InternalError("the call is dead")


async def _no_text() -> AsyncIterator[Any]:
    yield header()
    yield END


STREAMS: dict[str, Callable[[FakePipeline], Any]] = {
    "Memorize": lambda fake: MemoryService(fake).Memorize(_no_text(), _context()),
    "Recall": lambda fake: QueryService(fake).Recall(
        query_service_pb2.RecallRequest(memories=[REF], query="q"), _context()
    ),
    "Retrieve": lambda fake: QueryService(fake).Retrieve(
        query_service_pb2.RetrieveRequest(memories=[REF], query="q"), _context()
    ),
    "Generate": lambda fake: QueryService(fake).Generate(
        query_service_pb2.GenerateRequest(memories=[REF], query="q"), _context()
    ),
}


def _context() -> Any:
    return DeadContext()


@pytest.mark.parametrize("method", STREAMS)
async def test_closing_a_service_stream_closes_the_pipelines(
    pipeline: FakePipeline, method: str
) -> None:
    pipeline.written = (Accepted(make_view(), 8, 4096),)
    pipeline.events = (Stage(StageName.RETRIEVE),)
    stream = STREAMS[method](pipeline)
    await anext(stream)
    assert not pipeline.closed.is_set()
    await stream.aclose()
    assert pipeline.closed.is_set()
    assert pipeline.cancelled


async def guarded_recall(pipeline: FakePipeline, gate: Gate, metrics: Metrics) -> Any:
    inner: Any = grpc.unary_stream_rpc_method_handler(QueryService(pipeline).Recall)

    async def found(_: object) -> Any:
        return inner

    details: Any = type("Details", (), {"method": "/memoserve.v1.QueryService/Recall"})()
    return await CallInterceptor(gate, metrics).intercept_service(found, details)


async def test_a_write_to_a_vanished_client_is_a_cancel(
    pipeline: FakePipeline, metrics: Metrics, caplog: pytest.LogCaptureFixture
) -> None:
    pipeline.events = (Token("x"),)
    gate = Gate(1)
    handler = await guarded_recall(pipeline, gate, metrics)
    request = query_service_pb2.RecallRequest(memories=[REF], query="q")
    with pytest.raises(asyncio.CancelledError):
        await handler.unary_stream(request, DeadContext())
    assert pipeline.closed.is_set()
    assert gate.open_calls == 0
    labels = {"method": "/memoserve.v1.QueryService/Recall", "code": "CANCELLED"}
    assert metrics.registry.get_sample_value("memoserve_rpc_seconds_count", labels) == 1
    assert caplog.records == []


class DyingContext(DeadContext):
    """The same, and the cancel arrives just behind the failed write."""

    async def write(self, message: object) -> None:
        task = asyncio.current_task()
        assert task is not None
        asyncio.get_running_loop().call_later(0.01, task.cancel)
        await super().write(message)


async def test_the_cancel_behind_a_failed_write_does_not_interrupt_the_closing(
    pipeline: FakePipeline, metrics: Metrics
) -> None:
    pipeline.events = (Token("x"),)
    handler = await guarded_recall(pipeline, Gate(1), metrics)
    request = query_service_pb2.RecallRequest(memories=[REF], query="q")
    task = asyncio.create_task(handler.unary_stream(request, DyingContext()))
    with pytest.raises(asyncio.CancelledError):
        await task
    assert pipeline.closed.is_set()
