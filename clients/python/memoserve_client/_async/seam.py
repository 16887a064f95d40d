"""All that the asyncio client needs of gRPC; ``_sync/seam.py`` offers the same, blocking."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar, cast

import grpc
from grpc import aio
from grpc_health.v1 import health_pb2_grpc

from memoserve_client._channel import Endpoint
from memoserve_proto.v1 import memory_service_pb2_grpc as memory_grpc
from memoserve_proto.v1 import query_service_pb2_grpc as query_grpc
from memoserve_proto.v1 import server_service_pb2_grpc as server_grpc

if TYPE_CHECKING:
    from memoserve_proto.v1.memory_service_pb2_grpc import MemoryServiceAsyncStub
    from memoserve_proto.v1.query_service_pb2_grpc import QueryServiceAsyncStub
    from memoserve_proto.v1.server_service_pb2_grpc import ServerServiceAsyncStub

Channel = aio.Channel
UnaryUnary = aio.UnaryUnaryMultiCallable

T = TypeVar("T")

sleep = asyncio.sleep

# What reading a reply raises when the call is over before its end. CancelledError comes both from
# cancelling the call and from cancelling the task that reads.
CALL_ENDED: tuple[type[BaseException], ...] = (grpc.RpcError, asyncio.CancelledError)


@dataclass(frozen=True)
class Stubs:
    """The services behind one channel."""

    memories: MemoryServiceAsyncStub
    queries: QueryServiceAsyncStub
    server: ServerServiceAsyncStub
    health: Any


def open_channel(endpoint: Endpoint) -> Channel:
    """Connect lazily. Belongs to the running event loop."""
    if endpoint.credentials is None:
        return aio.insecure_channel(endpoint.target, endpoint.options)
    return aio.secure_channel(endpoint.target, endpoint.credentials, endpoint.options)


def open_stubs(channel: Channel) -> Stubs:
    """Stubs of the contract's services and of the standard health service."""
    return Stubs(
        cast("MemoryServiceAsyncStub", memory_grpc.MemoryServiceStub(channel)),
        cast("QueryServiceAsyncStub", query_grpc.QueryServiceStub(channel)),
        cast("ServerServiceAsyncStub", server_grpc.ServerServiceStub(channel)),
        health_pb2_grpc.HealthStub(channel),
    )


class ServerStatus:
    """Keeps the status that the server ended a call with.

    A write that fails because the server has just ended the call makes grpc.aio replace the
    server's status by an INTERNAL of its own (grpc/grpc#36066); every status is seen here first.
    """

    _OVERWRITTEN = "Internal error from Core"

    def __init__(self, call: Any) -> None:
        self._kept: aio.AioRpcError | None = None
        call.add_done_callback(self._keep)

    def behind(self, error: grpc.RpcError) -> grpc.RpcError | None:
        """The error that the server meant; None when it ended the call well."""
        if self._kept is None or error.details() != self._OVERWRITTEN:
            return error
        return None if self._kept.code() is grpc.StatusCode.OK else self._kept

    def _keep(self, call: Any) -> None:
        details = _at_once(call.details())
        if details != self._OVERWRITTEN:
            trailing = _at_once(call.trailing_metadata())
            self._kept = aio.AioRpcError(_at_once(call.code()), aio.Metadata(), trailing, details)


def _at_once(coroutine: Coroutine[Any, Any, T]) -> T:
    """Result of a coroutine that has nothing to wait for: the call it asks is done."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        return cast("T", stop.value)
    coroutine.close()
    raise RuntimeError("the call is not done")
