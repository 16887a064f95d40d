"""QueryService: unwrap, call the pipeline, wrap."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import grpc.aio

from memoserve.pipeline.api import Pipeline
from memoserve.rpc.interceptors import deadline_of
from memoserve.rpc.query_requests import read_generate, read_recall, read_retrieve
from memoserve.rpc.query_responses import (
    to_generate_response,
    to_recall_response,
    to_retrieve_response,
)
from memoserve_proto.v1 import query_service_pb2 as pb2
from memoserve_proto.v1 import query_service_pb2_grpc as pb2_grpc

Context = grpc.aio.ServicerContext[Any, Any]


class QueryService(pb2_grpc.QueryServiceServicer):
    """Asks memories."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline

    async def Recall(
        self, request: pb2.RecallRequest, context: Context
    ) -> AsyncIterator[pb2.RecallResponse]:
        """Draw clues from memories."""
        asked = self._pipeline.recall(read_recall(request), deadline=deadline_of(context))
        async with aclosing(asked) as events:
            async for event in events:
                yield to_recall_response(event)

    async def Retrieve(
        self, request: pb2.RetrieveRequest, context: Context
    ) -> AsyncIterator[pb2.RetrieveResponse]:
        """Search the passages of memories."""
        asked = self._pipeline.retrieve(read_retrieve(request), deadline=deadline_of(context))
        async with aclosing(asked) as events:
            async for event in events:
                yield to_retrieve_response(event)

    async def Generate(
        self, request: pb2.GenerateRequest, context: Context
    ) -> AsyncIterator[pb2.GenerateResponse]:
        """Answer a question, or sum memories up."""
        asked = self._pipeline.generate(read_generate(request), deadline=deadline_of(context))
        async with aclosing(asked) as events:
            async for event in events:
                yield to_generate_response(event)
