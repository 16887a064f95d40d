"""ServerService: what this server is and can do."""

from __future__ import annotations

from typing import Any

import grpc.aio

from memoserve.pipeline.api import Pipeline
from memoserve.rpc.responses import to_server_info
from memoserve_proto.v1 import server_service_pb2 as pb2
from memoserve_proto.v1 import server_service_pb2_grpc as pb2_grpc


class ServerService(pb2_grpc.ServerServiceServicer):
    """Tells the server's facts."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline

    async def GetServerInfo(
        self, request: pb2.GetServerInfoRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb2.GetServerInfoResponse:
        """Return the server's facts."""
        return pb2.GetServerInfoResponse(info=to_server_info(self._pipeline.info()))
