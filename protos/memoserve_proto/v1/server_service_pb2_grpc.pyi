"""Types of the services in memoserve_proto/v1/server_service.proto. Generated, do not edit."""

from collections.abc import AsyncIterator
from typing import type_check_only

import grpc
import grpc.aio

from memoserve_proto.v1 import server_service_pb2

class ServerServiceStub:
    def __init__(self, channel: grpc.Channel | grpc.aio.Channel) -> None: ...
    GetServerInfo: grpc.UnaryUnaryMultiCallable[
        server_service_pb2.GetServerInfoRequest, server_service_pb2.GetServerInfoResponse
    ]

@type_check_only
class ServerServiceAsyncStub:
    GetServerInfo: grpc.aio.UnaryUnaryMultiCallable[
        server_service_pb2.GetServerInfoRequest, server_service_pb2.GetServerInfoResponse
    ]

class ServerServiceServicer:
    async def GetServerInfo(
        self,
        request: server_service_pb2.GetServerInfoRequest,
        context: grpc.aio.ServicerContext[server_service_pb2.GetServerInfoRequest, server_service_pb2.GetServerInfoResponse],
    ) -> server_service_pb2.GetServerInfoResponse: ...

def add_ServerServiceServicer_to_server(
    servicer: ServerServiceServicer, server: grpc.aio.Server
) -> None: ...
