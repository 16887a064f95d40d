"""A running server over a fake pipeline, and a channel to it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import grpc.aio
import pytest

from memoserve.metrics import Metrics
from memoserve.rpc.options import RpcOptions
from memoserve.rpc.server import RpcServer, build_server
from tests.server.rpc.fake_pipeline import FakePipeline


@pytest.fixture
async def pipeline() -> FakePipeline:
    return FakePipeline()


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
def options() -> RpcOptions:
    return RpcOptions(health_period_s=0.01, max_calls=3)


@pytest.fixture
async def server(
    pipeline: FakePipeline, metrics: Metrics, options: RpcOptions
) -> AsyncIterator[RpcServer]:
    running = build_server(pipeline, options, metrics)
    await running.start()
    yield running
    await running.stop()


@pytest.fixture
async def channel(server: RpcServer) -> AsyncIterator[grpc.aio.Channel]:
    async with grpc.aio.insecure_channel(
        server.address, [("grpc.max_send_message_length", -1)]
    ) as opened:
        yield opened
