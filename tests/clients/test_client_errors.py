"""What becomes of a failed call: the class, and every detail the server gives."""

from __future__ import annotations

import asyncio
import socket

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2 as rpc

import memoserve_client as mc
from memoserve import errors as server_errors
from memoserve.engine.faults import SequenceFault
from memoserve_client import errors
from memoserve_client._status import BY_STATUS, translated
from tests.clients.caller import Caller
from tests.clients.fake_server import Failure, FakeServer, memorize_replies

CODES = [code for code in grpc.StatusCode if code is not grpc.StatusCode.OK]
INFO = rpc.ErrorInfo(reason="SOME_REASON", domain="memoserve", metadata={"pages": "7"})


@pytest.mark.parametrize("code", CODES, ids=lambda code: code.name)
async def test_each_status_has_its_class(
    server: FakeServer, caller: Caller, code: grpc.StatusCode
) -> None:
    server.state.failure = Failure(code, "told so", (INFO,))
    expected = BY_STATUS.get(code.name, errors.Unknown)
    with pytest.raises(mc.MemoserveError) as unary:
        await caller.call("delete", "book")
    with pytest.raises(mc.MemoserveError) as stream:
        await caller.collect("generate", "book", "q")
    for raised in (unary.value, stream.value):
        assert type(raised) is expected
        assert raised.message == str(raised) == "told so"
        assert raised.reason == "SOME_REASON" and raised.details.metadata == {"pages": "7"}


def test_each_server_error_has_its_twin() -> None:
    def tree(base: type[Exception]) -> list[type[Exception]]:
        return [sub for one in base.__subclasses__() for sub in [one, *tree(one)]]

    ours = {cls.__name__: cls for cls in tree(errors.MemoserveError)}
    all_theirs = tree(server_errors.MemoserveError)
    assert SequenceFault in all_theirs
    assert BY_STATUS[SequenceFault.status] is errors.Internal
    for theirs in all_theirs:
        if theirs.__name__.startswith("_"):
            continue
        status = vars(theirs)["status"]
        # An error that one part of the server has for itself is told by its status alone.
        assert status in BY_STATUS
        if theirs.__module__ == server_errors.__name__:
            assert BY_STATUS[status] is ours[theirs.__name__]


async def test_details_of_each_kind(server: FakeServer, caller: Caller) -> None:
    server.state.failure = Failure(
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        details=(
            INFO,
            rpc.BadRequest(
                field_violations=[{"field": "header.ratio", "description": "no ratio of the model"}]
            ),
            rpc.PreconditionFailure(
                violations=[{"type": "STATE", "subject": "default/book", "description": "empty"}]
            ),
            rpc.QuotaFailure(violations=[{"subject": "pages", "description": "7 of 9"}]),
            rpc.ResourceInfo(resource_type="memory", resource_name="default/book"),
            rpc.RetryInfo(retry_delay=Duration(seconds=1, nanos=500_000_000)),
            rpc.Help(),
        ),
    )
    with pytest.raises(errors.ResourceExhausted) as caught:
        await caller.call("get", "book")
    details = caught.value.details
    assert details.field_violations == (
        errors.FieldViolation("header.ratio", "no ratio of the model"),
    )
    assert details.precondition_violations == (
        errors.PreconditionViolation("STATE", "default/book", "empty"),
    )
    assert caught.value.violations == (errors.QuotaViolation("pages", "7 of 9"),)
    assert (details.resource_type, details.resource_name) == ("memory", "default/book")
    assert caught.value.retry_after_s == 1.5


async def test_an_error_without_details(server: FakeServer, caller: Caller) -> None:
    server.state.failure = Failure(grpc.StatusCode.NOT_FOUND, "")
    with pytest.raises(errors.NotFound) as caught:
        await caller.call("get", "book")
    assert caught.value.message == "NOT_FOUND" and caught.value.details == errors.ErrorDetails()
    assert caught.value.retry_after_s is None and caught.value.resource_name == ""


@pytest.mark.parametrize("raw", [b"\xff\xff\xff", b"", b"\x1a\x02\x0a\x00"])
async def test_damaged_details_do_not_hide_the_error(
    server: FakeServer, caller: Caller, raw: bytes
) -> None:
    server.state.failure = Failure(grpc.StatusCode.ABORTED, raw_details=raw)
    with pytest.raises(errors.Aborted, match="told so") as caught:
        await caller.call("get", "book")
    assert caught.value.reason == ""


@pytest.mark.parametrize("round_", range(5))
@pytest.mark.parametrize("read", [1, 20])
async def test_a_memorize_refused_while_it_sends(
    server: FakeServer, caller: Caller, read: int, round_: int
) -> None:
    """What the server says must win over the write that fails because the call has ended."""
    failure = Failure(
        grpc.StatusCode.INVALID_ARGUMENT,
        details=(rpc.BadRequest(field_violations=[{"field": "header.name"}]),),
    )
    server.state.failure, server.state.fail_at = failure, read
    with pytest.raises(errors.InvalidArgument) as caught:
        await caller.call("memorize", "book", ["x" * 1000] * 2000)
    assert [violation.field for violation in caught.value.violations] == ["header.name"]


@pytest.mark.parametrize("round_", range(5))
async def test_a_memorize_answered_while_it_sends(
    server: FakeServer, caller: Caller, round_: int
) -> None:
    """A request_id that was committed before is answered without reading the text."""
    server.state.replies, server.state.answer_after = memorize_replies(), 1
    events = await caller.collect("memorize_events", "book", ["x" * 1000] * 2000)
    assert len(events) == len(server.state.replies)
    assert isinstance(events[-1], mc.Committed)


@pytest.mark.parametrize("kind", ["async", "sync"])
async def test_nobody_answers(kind: str) -> None:
    with socket.socket() as taken:
        # Bound but not listening: a connection is refused, and nobody else can take the port.
        taken.bind(("127.0.0.1", 0))
        async with Caller(kind, f"127.0.0.1:{taken.getsockname()[1]}") as caller:
            with pytest.raises(errors.Unavailable):
                await caller.call("delete", "book")
            with pytest.raises(errors.DeadlineExceeded):
                await caller.call("wait_ready", 0.3)


async def test_a_cancel_that_nobody_asked_for_is_a_server_gone(
    server: FakeServer, caller: Caller
) -> None:
    """What a call hears that meets gRPC's own shutdown of a server."""
    server.state.failure = Failure(grpc.StatusCode.CANCELLED, "CANCELLED")
    with pytest.raises(errors.Unavailable, match="the server stopped"):
        await caller.call("delete", "book")
    with pytest.raises(errors.Unavailable, match="the server stopped"):
        await caller.collect("generate", "book", "q")
    server.state.failure = Failure(grpc.StatusCode.CANCELLED, "CANCELLED", times=2)
    server.state.failures_sent = 0
    assert (await caller.call("get", "book")).version == 2


async def test_closing_a_client_cancels_its_calls(server: FakeServer) -> None:
    server.state.hang = True
    client = mc.Client(server.target)
    asking = asyncio.create_task(asyncio.to_thread(client.get, "book"))
    while not server.state.requests:
        await asyncio.sleep(0.01)
    client.close()
    with pytest.raises(errors.Cancelled):
        await asking


async def test_timeouts(server: FakeServer, caller: Caller) -> None:
    server.state.hang = True
    server.state.replies = memorize_replies()[:-1]
    with pytest.raises(errors.DeadlineExceeded):
        await caller.call("get", "book", timeout=0.2)
    with pytest.raises(errors.DeadlineExceeded):
        await caller.call("memorize", "book", "text", timeout=0.2)
    with pytest.raises(errors.DeadlineExceeded):
        await caller.collect("memorize_events", "book", "text", timeout=0.2)


async def test_reads_are_sent_again_and_writes_are_not(server: FakeServer, caller: Caller) -> None:
    server.state.failure = Failure(grpc.StatusCode.UNAVAILABLE, times=2)
    assert (await caller.call("get", "book")).version == 2
    assert len(server.state.requests) == 3
    server.state.failures_sent = 0
    with pytest.raises(errors.Unavailable):
        await caller.call("delete", "book")
    assert len(server.state.requests) == 4


def test_an_error_of_a_caller_without_trailers() -> None:
    class Bare(grpc.RpcError):
        def code(self) -> grpc.StatusCode:
            return grpc.StatusCode.DATA_LOSS

        def details(self) -> str | None:
            return None

        def trailing_metadata(self) -> None:  # type: ignore[override]
            return None

    assert isinstance(translated(Bare()), errors.DataLoss)


async def test_cancelling_a_task_stays_a_cancelled_task(server: FakeServer) -> None:
    server.state.hang = True
    async with mc.AsyncClient(server.target) as client:

        async def consume() -> None:
            async for _ in client.generate("book", "q"):
                pass

        task = asyncio.create_task(consume())
        while not server.state.requests:
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert await asyncio.to_thread(server.state.cancelled.wait, 5)
