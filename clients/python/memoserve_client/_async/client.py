"""The client: a method a call, values in and out.

Names are ``"id"`` (in the client's namespace), ``"namespace/id"`` or MemoryName; queries also take
``"id@version"``. ``timeout`` is in seconds; None lets a streaming call run as long as it takes.
Every method raises the errors of memoserve_client.errors.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Self, TypeVar, Unpack

import grpc
from grpc_health.v1 import health_pb2

from memoserve_client import _decode, _encode
from memoserve_client._async.seam import Channel, UnaryUnary, open_channel, open_stubs, sleep
from memoserve_client._async.stream import AsyncEventStream, Upload
from memoserve_client._channel import ChannelOption, endpoint
from memoserve_client._status import translated
from memoserve_client.errors import DeadlineExceeded, Internal, Unavailable
from memoserve_client.events import GenerateEvent, RecallEvent, RetrieveEvent
from memoserve_client.options import (
    GenerateOptions,
    MemorizeOptions,
    RecallOptions,
    RetrieveOptions,
)
from memoserve_client.text import AsyncText
from memoserve_client.types import (
    DEFAULT_NAMESPACE,
    Committed,
    Language,
    MemorizeEvent,
    Memory,
    NameLike,
    RefLike,
    ServerInfo,
    Tier,
    as_name,
)
from memoserve_proto.v1 import memory_service_pb2, server_service_pb2

DEFAULT_TIMEOUT_S = 60.0
HEALTH_POLL_S = 0.1

Request = TypeVar("Request")
Response = TypeVar("Response")


class AsyncClient:
    """A connection to one server. Make it inside a running event loop and close it there.

    ``target`` is a gRPC target such as ``127.0.0.1:50051``. This machine is spoken to in plaintext,
    any other one by TLS with ``root_certificates`` (PEM; default: the system's), unless
    ``insecure``. ``channel_options`` go before this package's own.
    """

    def __init__(
        self,
        target: str,
        *,
        namespace: str = DEFAULT_NAMESPACE,
        root_certificates: bytes | None = None,
        insecure: bool = False,
        channel_options: Sequence[ChannelOption] = (),
    ) -> None:
        self._namespace = namespace
        self._channel: Channel = open_channel(
            endpoint(
                target,
                root_certificates=root_certificates,
                insecure=insecure,
                channel_options=channel_options,
            )
        )
        self._stubs = open_stubs(self._channel)

    async def aclose(self) -> None:
        """Close the connection; calls that still run are cancelled."""
        await self._channel.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    # --- the server

    async def wait_ready(self, timeout: float = DEFAULT_TIMEOUT_S, *, service: str = "") -> None:
        """Return once the server says SERVING. Raises DeadlineExceeded after ``timeout``."""
        deadline = time.monotonic() + timeout
        request = health_pb2.HealthCheckRequest(service=service)
        while (left := deadline - time.monotonic()) > 0:
            try:
                reply = await self._stubs.health.Check(request, timeout=left, wait_for_ready=True)
            except grpc.RpcError as error:
                failure = translated(error)
                if not isinstance(failure, Unavailable):
                    raise failure from error
            else:
                if reply.status == health_pb2.HealthCheckResponse.SERVING:
                    return
            await sleep(HEALTH_POLL_S)
        raise DeadlineExceeded(f"the server is not serving after {timeout:g} s")

    async def info(self, *, timeout: float = DEFAULT_TIMEOUT_S) -> ServerInfo:
        """What the server is and can do."""
        request = server_service_pb2.GetServerInfoRequest()
        reply = await self._ask(self._stubs.server.GetServerInfo, request, timeout)
        return _decode.server_info(reply.info)

    # --- memories

    async def create(
        self,
        name: NameLike,
        *,
        ratio: int | None = None,
        language: Language = Language.AUTO,
        labels: Mapping[str, str] | None = None,
        description: str = "",
        timeout: float = DEFAULT_TIMEOUT_S,
    ) -> Memory:
        """Create an empty memory. Raises AlreadyExists."""
        request = memory_service_pb2.CreateMemoryRequest(
            name=_encode.wire_name(as_name(name, self._namespace)),
            description=description,
            **_encode.wire_fields({"ratio": ratio, "language": language, "labels": labels}),
        )
        reply = await self._ask(self._stubs.memories.CreateMemory, request, timeout)
        return _decode.memory(reply.memory)

    async def get(self, name: NameLike, *, timeout: float = DEFAULT_TIMEOUT_S) -> Memory:
        """One memory as it is now. Raises NotFound."""
        request = memory_service_pb2.GetMemoryRequest(
            name=_encode.wire_name(as_name(name, self._namespace))
        )
        reply = await self._ask(self._stubs.memories.GetMemory, request, timeout)
        return _decode.memory(reply.memory)

    async def list(
        self,
        *,
        namespace: str | None = None,
        filter: str = "",
        page_size: int = 0,
        timeout: float = DEFAULT_TIMEOUT_S,
    ) -> AsyncIterator[Memory]:
        """All memories of a namespace in the order of their ids; pages are fetched as needed.

        ``filter`` is like ``labels.lang = "en" AND labels.year = "2024"``; a server that cannot
        filter yet raises Unimplemented. ``page_size`` 0 takes the server's; ``timeout`` is for
        each page.
        """
        token = ""
        while True:
            request = memory_service_pb2.ListMemoriesRequest(
                namespace=self._namespace if namespace is None else namespace,
                page_size=page_size,
                page_token=token,
                filter=filter,
            )
            reply = await self._ask(self._stubs.memories.ListMemories, request, timeout)
            for memory in reply.memories:
                yield _decode.memory(memory)
            token = reply.next_page_token
            if not token:
                return

    async def update(
        self,
        name: NameLike,
        *,
        labels: Mapping[str, str] | None = None,
        description: str | None = None,
        etag: str = "",
        timeout: float = DEFAULT_TIMEOUT_S,
    ) -> Memory:
        """Replace labels or description where not None. Raises NotFound, Aborted (``etag``)."""
        full_name = as_name(name, self._namespace)
        request = _encode.update(full_name, labels, description, etag)
        reply = await self._ask(self._stubs.memories.UpdateMemory, request, timeout)
        return _decode.memory(reply.memory)

    async def delete(
        self, name: NameLike, *, etag: str = "", timeout: float = DEFAULT_TIMEOUT_S
    ) -> None:
        """Delete a memory; who reads it now may finish. Raises NotFound, Aborted (``etag``)."""
        request = memory_service_pb2.DeleteMemoryRequest(
            name=_encode.wire_name(as_name(name, self._namespace)), etag=etag
        )
        await self._ask(self._stubs.memories.DeleteMemory, request, timeout)

    async def set_residency(
        self,
        name: NameLike,
        tier: Tier,
        *,
        pinned: bool | None = None,
        timeout: float = DEFAULT_TIMEOUT_S,
    ) -> Memory:
        """Move a memory to ``tier`` and pin or unpin it there; None leaves that as it is."""
        request = memory_service_pb2.SetResidencyRequest(
            name=_encode.wire_name(as_name(name, self._namespace)),
            **_encode.wire_fields({"tier": tier, "pinned": pinned}),
        )
        reply = await self._ask(self._stubs.memories.SetResidency, request, timeout)
        return _decode.memory(reply.memory)

    def memorize_events(
        self,
        name: NameLike,
        text: AsyncText,
        *,
        source_id: str = "",
        timeout: float | None = None,
        **options: Unpack[MemorizeOptions],
    ) -> AsyncEventStream[MemorizeEvent]:
        """Write ``text`` into a memory and tell how it goes: Accepted first, Committed last.

        ``text`` is a str, UTF-8 bytes, an open file, or an iterable of str and Source; what has no
        source of its own is of ``source_id``. Nothing is written unless Committed is told.
        """
        header = _encode.memorize_header(as_name(name, self._namespace), options)
        upload = Upload(header, text, source_id)
        call = self._stubs.memories.Memorize(upload.messages(), timeout=timeout)
        return AsyncEventStream(call, _decode.memorize_event, upload)

    async def memorize(
        self,
        name: NameLike,
        text: AsyncText,
        *,
        source_id: str = "",
        on_event: Callable[[MemorizeEvent], object] | None = None,
        timeout: float | None = None,
        **options: Unpack[MemorizeOptions],
    ) -> Committed:
        """The same at once: ``on_event`` is called with every event, Committed is returned."""
        async with self.memorize_events(
            name, text, source_id=source_id, timeout=timeout, **options
        ) as events:
            async for event in events:
                if on_event is not None:
                    on_event(event)
                if isinstance(event, Committed):
                    await events.drain()
                    return event
        raise Internal("the server ended the call without a commit")

    # --- queries

    def recall(
        self,
        memories: RefLike | Sequence[RefLike],
        query: str = "",
        *,
        timeout: float | None = None,
        **options: Unpack[RecallOptions],
    ) -> AsyncEventStream[RecallEvent]:
        """Ask memories for clues."""
        refs = _encode.wire_refs(memories, self._namespace)
        request = _encode.recall(refs, query, options)
        call = self._stubs.queries.Recall(request, timeout=timeout)
        return AsyncEventStream(call, _decode.recall_event)

    def retrieve(
        self,
        memories: RefLike | Sequence[RefLike],
        query: str = "",
        *,
        timeout: float | None = None,
        **options: Unpack[RetrieveOptions],
    ) -> AsyncEventStream[RetrieveEvent]:
        """Search the passages of memories."""
        refs = _encode.wire_refs(memories, self._namespace)
        request = _encode.retrieve(refs, query, options)
        call = self._stubs.queries.Retrieve(request, timeout=timeout)
        return AsyncEventStream(call, _decode.retrieve_event)

    def generate(
        self,
        memories: RefLike | Sequence[RefLike],
        query: str = "",
        *,
        timeout: float | None = None,
        **options: Unpack[GenerateOptions],
    ) -> AsyncEventStream[GenerateEvent]:
        """Answer a question from memories, or sum them up."""
        refs = _encode.wire_refs(memories, self._namespace)
        request = _encode.generate(refs, query, options)
        call = self._stubs.queries.Generate(request, timeout=timeout)
        return AsyncEventStream(call, _decode.generate_event)

    async def _ask(
        self, method: UnaryUnary[Request, Response], request: Request, timeout: float
    ) -> Response:
        try:
            return await method(request, timeout=timeout)
        except grpc.RpcError as error:
            raise translated(error) from error
