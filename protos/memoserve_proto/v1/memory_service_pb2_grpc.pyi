"""Types of the services in memoserve_proto/v1/memory_service.proto. Generated, do not edit."""

from collections.abc import AsyncIterator
from typing import type_check_only

import grpc
import grpc.aio

from memoserve_proto.v1 import memory_service_pb2

class MemoryServiceStub:
    def __init__(self, channel: grpc.Channel | grpc.aio.Channel) -> None: ...
    CreateMemory: grpc.UnaryUnaryMultiCallable[
        memory_service_pb2.CreateMemoryRequest, memory_service_pb2.CreateMemoryResponse
    ]
    GetMemory: grpc.UnaryUnaryMultiCallable[
        memory_service_pb2.GetMemoryRequest, memory_service_pb2.GetMemoryResponse
    ]
    ListMemories: grpc.UnaryUnaryMultiCallable[
        memory_service_pb2.ListMemoriesRequest, memory_service_pb2.ListMemoriesResponse
    ]
    UpdateMemory: grpc.UnaryUnaryMultiCallable[
        memory_service_pb2.UpdateMemoryRequest, memory_service_pb2.UpdateMemoryResponse
    ]
    DeleteMemory: grpc.UnaryUnaryMultiCallable[
        memory_service_pb2.DeleteMemoryRequest, memory_service_pb2.DeleteMemoryResponse
    ]
    Memorize: grpc.StreamStreamMultiCallable[
        memory_service_pb2.MemorizeRequest, memory_service_pb2.MemorizeResponse
    ]
    SetResidency: grpc.UnaryUnaryMultiCallable[
        memory_service_pb2.SetResidencyRequest, memory_service_pb2.SetResidencyResponse
    ]
    ExportMemory: grpc.UnaryStreamMultiCallable[
        memory_service_pb2.ExportMemoryRequest, memory_service_pb2.ExportMemoryResponse
    ]
    ImportMemory: grpc.StreamUnaryMultiCallable[
        memory_service_pb2.ImportMemoryRequest, memory_service_pb2.ImportMemoryResponse
    ]

@type_check_only
class MemoryServiceAsyncStub:
    CreateMemory: grpc.aio.UnaryUnaryMultiCallable[
        memory_service_pb2.CreateMemoryRequest, memory_service_pb2.CreateMemoryResponse
    ]
    GetMemory: grpc.aio.UnaryUnaryMultiCallable[
        memory_service_pb2.GetMemoryRequest, memory_service_pb2.GetMemoryResponse
    ]
    ListMemories: grpc.aio.UnaryUnaryMultiCallable[
        memory_service_pb2.ListMemoriesRequest, memory_service_pb2.ListMemoriesResponse
    ]
    UpdateMemory: grpc.aio.UnaryUnaryMultiCallable[
        memory_service_pb2.UpdateMemoryRequest, memory_service_pb2.UpdateMemoryResponse
    ]
    DeleteMemory: grpc.aio.UnaryUnaryMultiCallable[
        memory_service_pb2.DeleteMemoryRequest, memory_service_pb2.DeleteMemoryResponse
    ]
    Memorize: grpc.aio.StreamStreamMultiCallable[
        memory_service_pb2.MemorizeRequest, memory_service_pb2.MemorizeResponse
    ]
    SetResidency: grpc.aio.UnaryUnaryMultiCallable[
        memory_service_pb2.SetResidencyRequest, memory_service_pb2.SetResidencyResponse
    ]
    ExportMemory: grpc.aio.UnaryStreamMultiCallable[
        memory_service_pb2.ExportMemoryRequest, memory_service_pb2.ExportMemoryResponse
    ]
    ImportMemory: grpc.aio.StreamUnaryMultiCallable[
        memory_service_pb2.ImportMemoryRequest, memory_service_pb2.ImportMemoryResponse
    ]

class MemoryServiceServicer:
    async def CreateMemory(
        self,
        request: memory_service_pb2.CreateMemoryRequest,
        context: grpc.aio.ServicerContext[memory_service_pb2.CreateMemoryRequest, memory_service_pb2.CreateMemoryResponse],
    ) -> memory_service_pb2.CreateMemoryResponse: ...
    async def GetMemory(
        self,
        request: memory_service_pb2.GetMemoryRequest,
        context: grpc.aio.ServicerContext[memory_service_pb2.GetMemoryRequest, memory_service_pb2.GetMemoryResponse],
    ) -> memory_service_pb2.GetMemoryResponse: ...
    async def ListMemories(
        self,
        request: memory_service_pb2.ListMemoriesRequest,
        context: grpc.aio.ServicerContext[memory_service_pb2.ListMemoriesRequest, memory_service_pb2.ListMemoriesResponse],
    ) -> memory_service_pb2.ListMemoriesResponse: ...
    async def UpdateMemory(
        self,
        request: memory_service_pb2.UpdateMemoryRequest,
        context: grpc.aio.ServicerContext[memory_service_pb2.UpdateMemoryRequest, memory_service_pb2.UpdateMemoryResponse],
    ) -> memory_service_pb2.UpdateMemoryResponse: ...
    async def DeleteMemory(
        self,
        request: memory_service_pb2.DeleteMemoryRequest,
        context: grpc.aio.ServicerContext[memory_service_pb2.DeleteMemoryRequest, memory_service_pb2.DeleteMemoryResponse],
    ) -> memory_service_pb2.DeleteMemoryResponse: ...
    def Memorize(
        self,
        request_iterator: AsyncIterator[memory_service_pb2.MemorizeRequest],
        context: grpc.aio.ServicerContext[memory_service_pb2.MemorizeRequest, memory_service_pb2.MemorizeResponse],
    ) -> AsyncIterator[memory_service_pb2.MemorizeResponse]: ...
    async def SetResidency(
        self,
        request: memory_service_pb2.SetResidencyRequest,
        context: grpc.aio.ServicerContext[memory_service_pb2.SetResidencyRequest, memory_service_pb2.SetResidencyResponse],
    ) -> memory_service_pb2.SetResidencyResponse: ...
    def ExportMemory(
        self,
        request: memory_service_pb2.ExportMemoryRequest,
        context: grpc.aio.ServicerContext[memory_service_pb2.ExportMemoryRequest, memory_service_pb2.ExportMemoryResponse],
    ) -> AsyncIterator[memory_service_pb2.ExportMemoryResponse]: ...
    async def ImportMemory(
        self,
        request_iterator: AsyncIterator[memory_service_pb2.ImportMemoryRequest],
        context: grpc.aio.ServicerContext[memory_service_pb2.ImportMemoryRequest, memory_service_pb2.ImportMemoryResponse],
    ) -> memory_service_pb2.ImportMemoryResponse: ...

def add_MemoryServiceServicer_to_server(
    servicer: MemoryServiceServicer, server: grpc.aio.Server
) -> None: ...
