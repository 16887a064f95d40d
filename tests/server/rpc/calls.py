"""Stubs with their asyncio types, the requests most tests start from, and errors taken apart."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, cast

import grpc
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from memoserve_proto.v1 import (
    common_pb2,
    memory_service_pb2,
    memory_service_pb2_grpc,
    query_service_pb2_grpc,
    server_service_pb2_grpc,
)

if TYPE_CHECKING:
    from memoserve_proto.v1.memory_service_pb2_grpc import MemoryServiceAsyncStub
    from memoserve_proto.v1.query_service_pb2_grpc import QueryServiceAsyncStub
    from memoserve_proto.v1.server_service_pb2_grpc import ServerServiceAsyncStub

BOOK = common_pb2.MemoryName(namespace="team", memory_id="book")
REF = common_pb2.MemoryRef(name=BOOK)


def memory_stub(channel: grpc.aio.Channel) -> MemoryServiceAsyncStub:
    return cast("MemoryServiceAsyncStub", memory_service_pb2_grpc.MemoryServiceStub(channel))


def query_stub(channel: grpc.aio.Channel) -> QueryServiceAsyncStub:
    return cast("QueryServiceAsyncStub", query_service_pb2_grpc.QueryServiceStub(channel))


def server_stub(channel: grpc.aio.Channel) -> ServerServiceAsyncStub:
    return cast("ServerServiceAsyncStub", server_service_pb2_grpc.ServerServiceStub(channel))


def header(**fields: Any) -> memory_service_pb2.MemorizeRequest:
    """The first message of a Memorize into ``team/book``."""
    return memory_service_pb2.MemorizeRequest(
        header=memory_service_pb2.MemorizeHeader(**({"name": BOOK} | fields))
    )


def piece(text: bytes, source_id: str = "") -> memory_service_pb2.MemorizeRequest:
    """A message of a Memorize between the first and the last."""
    return memory_service_pb2.MemorizeRequest(
        text=memory_service_pb2.TextPiece(source_id=source_id, text_utf8=text)
    )


END = memory_service_pb2.MemorizeRequest(end=memory_service_pb2.MemorizeEnd())


async def failure_of(call: Any) -> grpc.aio.AioRpcError:
    """Run a call of any shape to its end, which must be an error."""
    try:
        if hasattr(call, "__aiter__"):
            async for _ in call:
                pass
        else:
            await call
    except grpc.aio.AioRpcError as error:
        return error
    raise AssertionError("the call did not fail")


def details_of(error: grpc.aio.AioRpcError) -> dict[str, Any]:
    """The details of a status by the name of their type; its code and text match the call's."""
    trailing = dict(cast("Any", error.trailing_metadata()))
    status = status_pb2.Status.FromString(trailing["grpc-status-details-bin"])
    assert status.code == error.code().value[0]
    assert status.message == error.details()
    found: dict[str, Message] = {}
    for packed in status.details:
        kind = packed.TypeName().rpartition(".")[2]
        make: Callable[[], Message] = getattr(error_details_pb2, kind)
        found[kind] = make()
        assert packed.Unpack(found[kind])
    return found


async def memorize_failure(address: str, sent: Iterable[Any]) -> grpc.aio.AioRpcError:
    """Run a Memorize that must fail while it may still be sending.

    The asyncio client of gRPC replaces the server's status by its own INTERNAL when a write
    fails before that status has been read; the blocking one does not, so it is asked here.
    """

    def run() -> grpc.aio.AioRpcError:
        with grpc.insecure_channel(address) as channel:
            stub = memory_service_pb2_grpc.MemoryServiceStub(channel)
            try:
                list(cast("Any", stub.Memorize(iter(sent))))
            except grpc.RpcError as error:
                return cast("grpc.aio.AioRpcError", error)
        raise AssertionError("the call did not fail")

    return await asyncio.to_thread(run)


async def refused_field(call: Any) -> str:
    """Run a call that must end in INVALID_ARGUMENT; returns the field that it names."""
    return field_of(await failure_of(call))


def field_of(error: grpc.aio.AioRpcError) -> str:
    """The field that an INVALID_ARGUMENT names."""
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT, error
    (violation,) = details_of(error)["BadRequest"].field_violations
    assert violation.description
    return cast("str", violation.field)
