"""MemoryService: unwrap, call the pipeline, wrap."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any, Never

import grpc.aio

from memoserve.errors import InvalidArgument, Unimplemented
from memoserve.pipeline.api import MAX_MESSAGE_BYTES, Pipeline
from memoserve.pipeline.values import MemoryRef, TextPiece
from memoserve.rpc.interceptors import deadline_of
from memoserve.rpc.requests import (
    read_create,
    read_etag,
    read_header,
    read_name,
    read_page,
    read_piece,
    read_update,
)
from memoserve.rpc.responses import to_memorize_response, to_memory
from memoserve_proto.v1 import memory_service_pb2 as pb2
from memoserve_proto.v1 import memory_service_pb2_grpc as pb2_grpc

Context = grpc.aio.ServicerContext[Any, Any]


class MemoryService(pb2_grpc.MemoryServiceServicer):
    """Makes memories, writes them and looks after them."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline

    async def CreateMemory(
        self, request: pb2.CreateMemoryRequest, context: Context
    ) -> pb2.CreateMemoryResponse:
        """Create an empty memory."""
        view = await self._pipeline.create(read_create(request))
        return pb2.CreateMemoryResponse(memory=to_memory(view))

    async def GetMemory(
        self, request: pb2.GetMemoryRequest, context: Context
    ) -> pb2.GetMemoryResponse:
        """Read one memory."""
        view = await self._pipeline.get(MemoryRef(read_name(request)))
        return pb2.GetMemoryResponse(memory=to_memory(view))

    async def ListMemories(
        self, request: pb2.ListMemoriesRequest, context: Context
    ) -> pb2.ListMemoriesResponse:
        """List a page, a shorter one where many long labels would not fit into a message."""
        namespace, page_size, token, terms = read_page(request)
        while True:
            views, next_token = await self._pipeline.list(namespace, page_size, token, terms)
            response = pb2.ListMemoriesResponse(
                memories=map(to_memory, views), next_page_token=next_token
            )
            if len(views) < 2 or response.ByteSize() <= MAX_MESSAGE_BYTES // 2:
                return response
            page_size = len(views) // 2

    async def UpdateMemory(
        self, request: pb2.UpdateMemoryRequest, context: Context
    ) -> pb2.UpdateMemoryResponse:
        """Change labels or description."""
        name, labels, description, etag = read_update(request)
        view = await self._pipeline.update(name, labels, description, etag)
        return pb2.UpdateMemoryResponse(memory=to_memory(view))

    async def DeleteMemory(
        self, request: pb2.DeleteMemoryRequest, context: Context
    ) -> pb2.DeleteMemoryResponse:
        """Delete a memory."""
        await self._pipeline.delete(read_name(request), read_etag("etag", request.etag))
        return pb2.DeleteMemoryResponse()

    async def Memorize(
        self, request_iterator: AsyncIterator[pb2.MemorizeRequest], context: Context
    ) -> AsyncIterator[pb2.MemorizeResponse]:
        """Write text into a memory; the next piece is read when the pipeline asks for it."""
        header = read_header(await anext(request_iterator, None))
        pieces = _pieces(request_iterator)
        written = self._pipeline.memorize(header, pieces, deadline=deadline_of(context))
        async with aclosing(written) as events:
            async for event in events:
                yield to_memorize_response(event)

    async def SetResidency(
        self, request: pb2.SetResidencyRequest, context: Context
    ) -> pb2.SetResidencyResponse:
        """Not built yet."""
        _not_built("SetResidency")

    def ExportMemory(
        self, request: pb2.ExportMemoryRequest, context: Context
    ) -> AsyncIterator[pb2.ExportMemoryResponse]:
        """Not built yet."""
        _not_built("ExportMemory")

    async def ImportMemory(
        self, request_iterator: AsyncIterator[pb2.ImportMemoryRequest], context: Context
    ) -> pb2.ImportMemoryResponse:
        """Not built yet."""
        _not_built("ImportMemory")


async def _pieces(requests: AsyncIterator[pb2.MemorizeRequest]) -> AsyncIterator[TextPiece]:
    """Yield the text, and end only where the client has said that it is complete.

    Requests that just stop prove nothing: those of a cancelled call stop in the same way, and the
    cancel is heard later.
    """
    async for request in requests:
        if request.HasField("end"):
            break
        yield read_piece(request)
    else:
        raise InvalidArgument(
            "end", "is missing: the text may be cut off, nothing is committed", reason="REQUIRED"
        )
    if await anext(requests, None) is not None:
        raise InvalidArgument("end", "must be the last message", reason="WRONG_ORDER")


def _not_built(method: str) -> Never:
    raise Unimplemented(f"{method} is part of the contract but not built yet", method=method)
