"""Types of the services in memoserve_proto/v1/query_service.proto. Generated, do not edit."""

from collections.abc import AsyncIterator
from typing import type_check_only

import grpc
import grpc.aio

from memoserve_proto.v1 import query_service_pb2

class QueryServiceStub:
    def __init__(self, channel: grpc.Channel | grpc.aio.Channel) -> None: ...
    Recall: grpc.UnaryStreamMultiCallable[
        query_service_pb2.RecallRequest, query_service_pb2.RecallResponse
    ]
    Retrieve: grpc.UnaryStreamMultiCallable[
        query_service_pb2.RetrieveRequest, query_service_pb2.RetrieveResponse
    ]
    Generate: grpc.UnaryStreamMultiCallable[
        query_service_pb2.GenerateRequest, query_service_pb2.GenerateResponse
    ]

@type_check_only
class QueryServiceAsyncStub:
    Recall: grpc.aio.UnaryStreamMultiCallable[
        query_service_pb2.RecallRequest, query_service_pb2.RecallResponse
    ]
    Retrieve: grpc.aio.UnaryStreamMultiCallable[
        query_service_pb2.RetrieveRequest, query_service_pb2.RetrieveResponse
    ]
    Generate: grpc.aio.UnaryStreamMultiCallable[
        query_service_pb2.GenerateRequest, query_service_pb2.GenerateResponse
    ]

class QueryServiceServicer:
    def Recall(
        self,
        request: query_service_pb2.RecallRequest,
        context: grpc.aio.ServicerContext[query_service_pb2.RecallRequest, query_service_pb2.RecallResponse],
    ) -> AsyncIterator[query_service_pb2.RecallResponse]: ...
    def Retrieve(
        self,
        request: query_service_pb2.RetrieveRequest,
        context: grpc.aio.ServicerContext[query_service_pb2.RetrieveRequest, query_service_pb2.RetrieveResponse],
    ) -> AsyncIterator[query_service_pb2.RetrieveResponse]: ...
    def Generate(
        self,
        request: query_service_pb2.GenerateRequest,
        context: grpc.aio.ServicerContext[query_service_pb2.GenerateRequest, query_service_pb2.GenerateResponse],
    ) -> AsyncIterator[query_service_pb2.GenerateResponse]: ...

def add_QueryServiceServicer_to_server(
    servicer: QueryServiceServicer, server: grpc.aio.Server
) -> None: ...
