"""All that the blocking client needs of gRPC; ``_async/seam.py`` offers the same for asyncio."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import grpc
from grpc_health.v1 import health_pb2_grpc

from memoserve_client._channel import Endpoint
from memoserve_proto.v1.memory_service_pb2_grpc import MemoryServiceStub
from memoserve_proto.v1.query_service_pb2_grpc import QueryServiceStub
from memoserve_proto.v1.server_service_pb2_grpc import ServerServiceStub

Channel = grpc.Channel
UnaryUnary = grpc.UnaryUnaryMultiCallable

sleep = time.sleep

# What reading a reply raises when the call is over before its end.
CALL_ENDED: tuple[type[BaseException], ...] = (grpc.RpcError,)


@dataclass(frozen=True)
class Stubs:
    """The services behind one channel."""

    memories: MemoryServiceStub
    queries: QueryServiceStub
    server: ServerServiceStub
    health: Any


def open_channel(endpoint: Endpoint) -> Channel:
    """Connect lazily."""
    if endpoint.credentials is None:
        return grpc.insecure_channel(endpoint.target, endpoint.options)
    return grpc.secure_channel(endpoint.target, endpoint.credentials, endpoint.options)


def open_stubs(channel: Channel) -> Stubs:
    """Stubs of the contract's services and of the standard health service."""
    return Stubs(
        MemoryServiceStub(channel),
        QueryServiceStub(channel),
        ServerServiceStub(channel),
        health_pb2_grpc.HealthStub(channel),
    )


class ServerStatus:
    """Keeps the status that the server ended a call with: gRPC's blocking side does so itself."""

    def __init__(self, call: Any) -> None:
        pass

    def behind(self, error: grpc.RpcError) -> grpc.RpcError | None:
        """The error that the server meant; None when it ended the call well."""
        return error
