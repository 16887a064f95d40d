"""One interceptor around every call of ours: errors to statuses, metrics, and a sure end.

Responses are written one by one from the call's own task, so that a cancel always lands in that
task and the servicer's generator is closed at once, not when the garbage collector finds it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import Any, Never, TypeAlias, TypeVar, cast

import grpc
from google.protobuf.message import DecodeError
from google.rpc import status_pb2

from memoserve.errors import InvalidArgument, MemoserveError
from memoserve.metrics import Metrics
from memoserve.rpc.gate import Gate
from memoserve.rpc.status import DETAILS_KEY, internal_status, to_code, to_status

OURS = "/memoserve."

# A write to a vanished client can fail just before the cancel arrives. The cancel is awaited, lest
# it interrupt the pipeline while that gives its pages back.
CANCEL_ARRIVES_S = 0.25

Context = grpc.aio.ServicerContext[Any, Any]
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
T = TypeVar("T")

_WORD = {False: "unary", True: "stream"}


class _Vanished(asyncio.CancelledError):
    """The client went away while a response was being written."""


class _Malformed:
    """Stands for request bytes that are no message of the right type."""


class CallInterceptor(grpc.aio.ServerInterceptor):
    """Wraps the methods of memoserve's services; the standard services pass untouched."""

    def __init__(self, gate: Gate, metrics: Metrics) -> None:
        self._gate = gate
        self._metrics = metrics

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        """Return the handler of a method, guarded; None for a method that does not exist."""
        handler = await continuation(handler_call_details)
        method = handler_call_details.method
        if handler is None or not method.startswith(OURS):
            return handler
        return _wrap(handler, _Guard(method, self._gate, self._metrics))


class _Guard:
    """Runs one method's calls."""

    def __init__(self, method: str, gate: Gate, metrics: Metrics) -> None:
        self._method = method
        self._gate = gate
        self._metrics = metrics

    async def run(self, context: Context, work: Callable[[], Awaitable[T]]) -> T:
        """Await ``work`` inside the gate; what it raises ends the call with its status."""
        started = time.monotonic()
        code = grpc.StatusCode.CANCELLED
        try:
            try:
                with self._gate.admit():
                    result = await work()
                code = grpc.StatusCode.OK
                return result
            except (Exception, asyncio.CancelledError) as error:
                code = _passed_or_cancelled(context)
                status = self._status_of(error)
            try:
                await _abort(context, status)
            except grpc.aio.AbortError:
                code = to_code(status)  # it was sent; to a vanished client nothing is
                raise
        finally:
            labels = self._metrics.rpc_seconds.labels(self._method, code.name)
            labels.observe(time.monotonic() - started)

    def _status_of(self, error: BaseException) -> status_pb2.Status:
        """Return the status that ends the call; a real cancel is raised again instead.

        A CancelledError that nobody asked for (some inner future was cancelled) is a bug: gRPC
        would send no status for it, and the client would wait for ever.
        """
        if isinstance(error, MemoserveError):
            return to_status(error)
        if isinstance(error, _Vanished) or (
            isinstance(error, asyncio.CancelledError) and _cancel_was_asked()
        ):
            raise error
        return internal_status(self._method, error)


def _cancel_was_asked() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _wrap(handler: Handler, guard: _Guard) -> Handler:
    """Return a handler of the same shape whose calls run inside ``guard``."""
    shape = (handler.request_streaming, handler.response_streaming)
    behaviour: Callable[..., Any] = getattr(handler, "_".join(_WORD[side] for side in shape))
    take = _checked_stream if handler.request_streaming else _checked

    async def reply(request: Any, context: Context) -> Any:
        async def work() -> Any:
            return await behaviour(take(request), context)

        return await guard.run(context, work)

    async def stream(request: Any, context: Context) -> None:
        async def work() -> None:
            async with aclosing(behaviour(take(request), context)) as responses:
                async for response in responses:
                    await _write(context, response)

        await guard.run(context, work)

    make = {
        (False, False): grpc.unary_unary_rpc_method_handler,
        (False, True): grpc.unary_stream_rpc_method_handler,
        (True, False): grpc.stream_unary_rpc_method_handler,
        (True, True): grpc.stream_stream_rpc_method_handler,
    }[shape]
    wrapped = make(
        cast("Any", stream if handler.response_streaming else reply),
        request_deserializer=_tolerant(handler.request_deserializer),
        response_serializer=handler.response_serializer,
    )
    return wrapped


def _tolerant(parse: Callable[[bytes], Any] | None) -> Callable[[bytes], Any]:
    """Return a parser that marks bad bytes: raised here they would be INTERNAL, as if ours."""

    def parse_or_mark(raw: bytes) -> Any:
        try:
            return parse(raw) if parse else raw
        except DecodeError:
            return _Malformed()

    return parse_or_mark


def _checked(request: Any) -> Any:
    if isinstance(request, _Malformed):
        raise InvalidArgument(
            "request",
            "the bytes are not a message of this method, or a string in it is not UTF-8",
            reason="MALFORMED_MESSAGE",
        )
    return request


async def _checked_stream(requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
    """Yield requests as they are asked for, never ahead.

    Its end says nothing: a call whose client vanished may look closed until the cancel arrives.
    """
    async for request in requests:
        yield _checked(request)


async def _write(context: Context, response: Any) -> None:
    try:
        await context.write(response)
    except grpc.aio.InternalError as error:
        await asyncio.sleep(CANCEL_ARRIVES_S)
        raise _Vanished from error


async def _abort(context: Context, status: status_pb2.Status) -> Never:
    details = ((DETAILS_KEY, status.SerializeToString()),)
    try:
        await context.abort(to_code(status), status.message, details)
    except grpc.aio.InternalError as error:
        raise _Vanished from error


def _passed_or_cancelled(context: Context) -> grpc.StatusCode:
    """Tell a deadline that passed from a client that left; both arrive as a cancel."""
    remaining = time_remaining(context)
    passed = remaining is not None and remaining <= 0
    return grpc.StatusCode.DEADLINE_EXCEEDED if passed else grpc.StatusCode.CANCELLED


def time_remaining(context: Context) -> float | None:
    """Return seconds until the caller's deadline, None where there is none."""
    return cast("float | None", context.time_remaining())


def deadline_of(context: Context) -> float | None:
    """Return the caller's deadline on ``time.monotonic``'s clock, None where there is none."""
    remaining = time_remaining(context)
    return None if remaining is None else time.monotonic() + remaining
