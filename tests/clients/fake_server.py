"""A server of the contract without an engine: canned replies, requests kept for the tests."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import grpc
from google.protobuf.any_pb2 import Any as PackedAny
from google.protobuf.message import Message
from google.rpc import status_pb2
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from memoserve_proto.v1 import common_pb2, memory_pb2, query_pb2, server_service_pb2
from memoserve_proto.v1 import memory_service_pb2 as ms
from memoserve_proto.v1.memory_service_pb2_grpc import (
    MemoryServiceServicer,
    add_MemoryServiceServicer_to_server,
)
from memoserve_proto.v1.query_service_pb2_grpc import (
    QueryServiceServicer,
    add_QueryServiceServicer_to_server,
)
from memoserve_proto.v1.server_service_pb2_grpc import (
    ServerServiceServicer,
    add_ServerServiceServicer_to_server,
)

REF = common_pb2.MemoryRef(
    name=common_pb2.MemoryName(namespace="default", memory_id="book"), version=2
)


@dataclass(frozen=True)
class Failure:
    """What the next calls answer instead of a reply; ``times`` None is for ever."""

    code: grpc.StatusCode
    message: str = "told so"
    details: tuple[Message, ...] = ()
    raw_details: bytes | None = None
    times: int | None = None

    def trailers(self) -> tuple[tuple[str, bytes], ...]:
        if self.raw_details is not None:
            return (("grpc-status-details-bin", self.raw_details),)
        if not self.details:
            return ()
        status = status_pb2.Status(code=self.code.value[0], message=self.message)
        for detail in self.details:
            packed = PackedAny()
            packed.Pack(detail)
            status.details.append(packed)
        return (("grpc-status-details-bin", status.SerializeToString()),)


@dataclass
class State:
    """What tests set and look at.

    ``fail_at``: requests until the failure; ``answer_after``: requests until Memorize answers.
    ``text_over`` is set when Memorize reads no more, ``text_complete`` when it has read an end;
    ``finished`` counts streams whose caller stayed to the very end.
    """

    failure: Failure | None = None
    failures_sent: int = 0
    fail_at: int = 1
    requests: list[Any] = field(default_factory=list)
    replies: list[Any] = field(default_factory=list)
    hang: bool = False
    linger_s: float = 0.0
    answer_after: int | None = None
    health_failures: int = 0
    cancelled: threading.Event = field(default_factory=threading.Event)
    text_over: threading.Event = field(default_factory=threading.Event)
    text_complete: bool = False
    finished: int = 0
    page: int = 2
    memories: list[str] = field(default_factory=lambda: ["a", "b", "c", "d", "e"])

    async def enter(self, request: Any, context: Any) -> None:
        """Keep the request; fail where a test asked for it."""
        self.requests.append(request)
        failure = self.failure
        if len(self.requests) < self.fail_at:
            return
        if failure and (failure.times is None or self.failures_sent < failure.times):
            self.failures_sent += 1
            await context.abort(failure.code, failure.message, failure.trailers())

    async def stream(self) -> AsyncIterator[Any]:
        """The canned replies; then hang until cancelled, where asked for."""
        try:
            for reply in self.replies:
                yield reply
            if self.hang:
                await asyncio.sleep(60)
            # Whoever leaves at the last reply is heard of here.
            await asyncio.sleep(self.linger_s)
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        self.finished += 1


def make_memory(memory_id: str = "book", **changes: Any) -> memory_pb2.Memory:
    """A memory with every field set."""
    memory = memory_pb2.Memory(
        name=common_pb2.MemoryName(namespace="default", memory_id=memory_id),
        version=2,
        etag="e2",
        model="tiny",
        ratio=4,
        ratios=[2, 4],
        window=64,
        language=common_pb2.LANGUAGE_EN,
        labels={"kind": "novel"},
        description="a book",
        tier=common_pb2.TIER_DEVICE,
        pinned=True,
        stats=memory_pb2.MemoryStats(raw_tokens=640, memory_rows=160, capacity_tokens=2048),
    )
    memory.create_time.FromJsonString("2025-01-02T03:04:05.250Z")
    memory.update_time.FromJsonString("2025-01-03T00:00:00Z")
    for name, value in changes.items():
        setattr(memory, name, value)
    return memory


class Memories(MemoryServiceServicer):
    def __init__(self, state: State) -> None:
        self.state = state

    async def CreateMemory(self, request: Any, context: Any) -> ms.CreateMemoryResponse:
        await self.state.enter(request, context)
        return ms.CreateMemoryResponse(memory=make_memory(request.name.memory_id, version=0))

    async def GetMemory(self, request: Any, context: Any) -> ms.GetMemoryResponse:
        await self.state.enter(request, context)
        if self.state.hang:
            await asyncio.sleep(60)
        return ms.GetMemoryResponse(memory=make_memory(request.name.memory_id))

    async def ListMemories(self, request: Any, context: Any) -> ms.ListMemoriesResponse:
        await self.state.enter(request, context)
        start = int(request.page_token or 0)
        end = start + (request.page_size or self.state.page)
        token = str(end) if end < len(self.state.memories) else ""
        page = [make_memory(name) for name in self.state.memories[start:end]]
        return ms.ListMemoriesResponse(memories=page, next_page_token=token)

    async def UpdateMemory(self, request: Any, context: Any) -> ms.UpdateMemoryResponse:
        await self.state.enter(request, context)
        memory = make_memory(request.memory.name.memory_id)
        request.update_mask.MergeMessage(request.memory, memory, replace_repeated_field=True)
        return ms.UpdateMemoryResponse(memory=memory)

    async def DeleteMemory(self, request: Any, context: Any) -> ms.DeleteMemoryResponse:
        await self.state.enter(request, context)
        return ms.DeleteMemoryResponse()

    async def SetResidency(self, request: Any, context: Any) -> ms.SetResidencyResponse:
        await self.state.enter(request, context)
        memory = make_memory(request.name.memory_id, tier=request.tier, pinned=request.pinned)
        return ms.SetResidencyResponse(memory=memory)

    async def Memorize(
        self, request_iterator: AsyncIterator[Any], context: Any
    ) -> AsyncIterator[Any]:
        try:
            async for request in request_iterator:
                await self.state.enter(request, context)
                self.state.text_complete = request.HasField("end")
                if len(self.state.requests) == self.state.answer_after:
                    break
            else:
                if not self.state.text_complete:
                    await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "no end")
        finally:
            self.state.text_over.set()
        async for reply in self.state.stream():
            yield reply


class Queries(QueryServiceServicer):
    def __init__(self, state: State) -> None:
        self.state = state

    async def _answer(self, request: Any, context: Any) -> AsyncIterator[Any]:
        await self.state.enter(request, context)
        async for reply in self.state.stream():
            yield reply

    Recall = Retrieve = Generate = _answer


class Facts(ServerServiceServicer):
    def __init__(self, state: State) -> None:
        self.state = state

    async def GetServerInfo(
        self, request: Any, context: Any
    ) -> server_service_pb2.GetServerInfoResponse:
        await self.state.enter(request, context)
        model = server_service_pb2.ModelInfo(name="tiny", ratios=[2, 4], window=64)
        return server_service_pb2.GetServerInfoResponse(
            info=server_service_pb2.ServerInfo(
                version="0.1.0", model=model, generators=["quote", "engine"], pages_free=7
            )
        )


class Health(health.aio.HealthServicer):  # type: ignore[misc]
    def __init__(self, state: State) -> None:
        super().__init__()
        self.state = state

    async def Check(self, request: Any, context: Any) -> Any:
        if self.state.health_failures:
            self.state.health_failures -= 1
            await context.abort(grpc.StatusCode.UNAVAILABLE, "not yet")
        return await super().Check(request, context)


class FakeServer:
    """Serves in a thread with an event loop of its own until ``close``."""

    def __init__(self, credentials: grpc.ServerCredentials | None = None) -> None:
        self.state = State()
        self.health = Health(self.state)
        self._credentials = credentials
        self._started = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self.port = 0
        self._thread = threading.Thread(target=self._run, name="fake server", daemon=True)
        self._thread.start()
        assert self._started.wait(10)

    @property
    def target(self) -> str:
        return f"127.0.0.1:{self.port}"

    def set_serving(self, serving: bool) -> None:
        status = health_pb2.HealthCheckResponse
        word = status.SERVING if serving else status.NOT_SERVING
        asyncio.run_coroutine_threadsafe(self.health.set("", word), self._loop).result(10)

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)

    def _run(self) -> None:
        self._loop.run_until_complete(self._serve())
        self._loop.close()

    async def _serve(self) -> None:
        server = grpc.aio.server()
        add_MemoryServiceServicer_to_server(Memories(self.state), server)
        add_QueryServiceServicer_to_server(Queries(self.state), server)
        add_ServerServiceServicer_to_server(Facts(self.state), server)
        health_pb2_grpc.add_HealthServicer_to_server(self.health, server)
        if self._credentials is None:
            self.port = server.add_insecure_port("127.0.0.1:0")
        else:
            self.port = server.add_secure_port("127.0.0.1:0", self._credentials)
        await server.start()
        self._started.set()
        await self._stop.wait()
        await server.stop(0)


def query_replies(response: type[Any]) -> list[Any]:
    """One reply for each event that ``response`` (RecallResponse, ...) can carry, Final last."""
    known: dict[str, Message] = {
        "stage": query_pb2.Stage(name=query_pb2.STAGE_NAME_RECALL),
        "clue": query_pb2.Clue(
            kind=query_pb2.CLUE_KIND_SPAN, text="the gate", memory=REF, dropped="short"
        ),
        "passage": query_pb2.Passage(
            memory=REF,
            index=3,
            source_id="s",
            text="It opened.",
            start_byte=5,
            end_byte=15,
            start_char=4,
            end_char=14,
            score=0.5,
            signals={"dense": 0.25},
        ),
        "token": query_pb2.Token(text="It"),
        "quote": query_pb2.Quote(memory=REF, source_id="s", text="It opened.", end_char=10),
        "notice": common_pb2.Notice(code="UNTRAINED", message="clues are noise"),
        "final": query_pb2.Final(
            text="It",
            finish_reason=query_pb2.FINISH_REASON_STOP,
            usage=query_pb2.Usage(prompt_tokens=9, queue_s=0.5, first_token_s=0.0),
            memories=[REF],
        ),
    }
    events = response.DESCRIPTOR.oneofs_by_name["event"].fields
    return [response(**{event.name: known[event.name]}) for event in events]


def memorize_replies() -> list[Any]:
    """One reply for each event of Memorize."""
    return [
        ms.MemorizeResponse(
            accepted=ms.MemorizeAccepted(memory=make_memory(), ratio=4, capacity_tokens=2048)
        ),
        ms.MemorizeResponse(progress=ms.MemorizeProgress(tokens_done=64, eta_s=1.5)),
        ms.MemorizeResponse(progress=ms.MemorizeProgress(tokens_done=128)),
        ms.MemorizeResponse(warning=common_pb2.Notice(code="LONG", message="long")),
        ms.MemorizeResponse(
            committed=ms.MemorizeCommitted(memory=make_memory(version=3), tokens_added=128)
        ),
    ]
