from __future__ import annotations

import asyncio
import logging
from typing import Any

import grpc.aio
import pytest

from memoserve import errors
from memoserve.errors import MemoserveError
from memoserve_proto.v1 import memory_service_pb2, query_service_pb2
from tests.server.rpc.calls import BOOK, REF, details_of, failure_of, memory_stub, query_stub
from tests.server.rpc.fake_pipeline import FakePipeline

GET = memory_service_pb2.GetMemoryRequest(name=BOOK)
RECALL = query_service_pb2.RecallRequest(memories=[REF], query="q")


def subclasses(base: type[MemoserveError]) -> set[type[MemoserveError]]:
    below = set(base.__subclasses__())
    return below.union(*map(subclasses, below))


EVERY: list[MemoserveError] = [
    errors.InvalidArgument("template", "has no {input}", reason="BAD_TEMPLATE"),
    errors.NotFound("memory", "team/book"),
    errors.AlreadyExists("memory", "team/book"),
    errors.FailedPrecondition("team/book", "was never written", reason="EMPTY_MEMORY"),
    errors.OutOfRange("too long", capacity=4096, ratio_that_fits=8),
    errors.ResourceExhausted("no pages", retry_after_s=1.5, needed=7, free=3),
    errors.Aborted("another writer"),
    errors.Cancelled("gone"),
    errors.DeadlineExceeded("late"),
    errors.DataLoss("a damaged file"),
    errors.Unimplemented("not yet"),
    errors.Unavailable("loading", reason="LOADING"),
]


def test_every_kind_of_error_is_tried() -> None:
    kinds = (kind for kind in subclasses(MemoserveError) if kind.__module__ == errors.__name__)
    public = {kind for kind in kinds if not kind.__name__.startswith("_")}
    assert {type(error) for error in EVERY} == public


@pytest.mark.parametrize("error", EVERY, ids=lambda error: type(error).__name__)
async def test_unary_and_streaming_tell_the_same(
    channel: grpc.aio.Channel, pipeline: FakePipeline, error: MemoserveError
) -> None:
    pipeline.failure = error
    calls: list[Any] = [
        memory_stub(channel).GetMemory(GET),
        query_stub(channel).Recall(RECALL),
    ]
    for call in calls:
        failure = await failure_of(call)
        assert failure.code().name == error.status
        assert failure.details() == error.message
        info = details_of(failure)["ErrorInfo"]
        assert (info.reason, info.domain) == (error.reason, "memoserve")
        assert dict(info.metadata) == error.metadata


async def details(channel: grpc.aio.Channel, pipeline: FakePipeline, error: Any) -> dict[str, Any]:
    pipeline.failure = error
    return details_of(await failure_of(memory_stub(channel).GetMemory(GET)))


async def test_bad_request(channel: grpc.aio.Channel, pipeline: FakePipeline) -> None:
    found = await details(channel, pipeline, EVERY[0])
    assert set(found) == {"ErrorInfo", "BadRequest"}
    (violation,) = found["BadRequest"].field_violations
    assert violation.field == "template"
    assert violation.description == "has no {input}"
    assert violation.reason == "BAD_TEMPLATE"


@pytest.mark.parametrize("error", EVERY[1:3], ids=lambda error: type(error).__name__)
async def test_resource_info(
    channel: grpc.aio.Channel, pipeline: FakePipeline, error: errors.NotFound
) -> None:
    found = await details(channel, pipeline, error)
    assert set(found) == {"ErrorInfo", "ResourceInfo"}
    resource = found["ResourceInfo"]
    assert (resource.resource_type, resource.resource_name) == ("memory", "team/book")
    assert resource.description == error.message


async def test_precondition_failure(channel: grpc.aio.Channel, pipeline: FakePipeline) -> None:
    found = await details(channel, pipeline, EVERY[3])
    assert set(found) == {"ErrorInfo", "PreconditionFailure"}
    (violation,) = found["PreconditionFailure"].violations
    assert (violation.type, violation.subject) == ("EMPTY_MEMORY", "team/book")
    assert violation.description == "was never written"


async def test_quota_failure_and_when_to_retry(
    channel: grpc.aio.Channel, pipeline: FakePipeline
) -> None:
    found = await details(channel, pipeline, EVERY[5])
    assert set(found) == {"ErrorInfo", "QuotaFailure", "RetryInfo"}
    assert found["RetryInfo"].retry_delay.ToMilliseconds() == 1500
    (violation,) = found["QuotaFailure"].violations
    assert (violation.subject, violation.description) == ("OUT_OF_PAGES", "no pages")
    hopeless = await details(channel, pipeline, errors.ResourceExhausted("never fits"))
    assert set(hopeless) == {"ErrorInfo", "QuotaFailure"}


BUGS = [ValueError("secret path /etc"), KeyError("secret"), asyncio.CancelledError("secret")]


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: type(bug).__name__)
async def test_a_bug_is_logged_under_an_id_and_not_told(
    channel: grpc.aio.Channel,
    pipeline: FakePipeline,
    bug: BaseException,
    caplog: pytest.LogCaptureFixture,
) -> None:
    pipeline.failure = bug
    for ask in (
        lambda: memory_stub(channel).GetMemory(GET, timeout=5),
        lambda: query_stub(channel).Recall(RECALL, timeout=5),
    ):
        caplog.clear()
        failure = await failure_of(ask())
        assert failure.code() is grpc.StatusCode.INTERNAL
        assert "secret" not in f"{failure.details()} {failure.trailing_metadata()}"
        info = details_of(failure)["ErrorInfo"]
        assert info.reason == "INTERNAL"
        (record,) = [entry for entry in caplog.records if entry.name == "memoserve.rpc.status"]
        assert record.levelno == logging.ERROR
        assert info.metadata["error_id"] in record.getMessage()
        assert record.exc_info
        assert record.exc_info[1] is bug


HOSTILE = {
    "long": "x" * 100_000,
    "wide": "记" * 50_000,
    "surrogates": "\ud800" * 9,
    "lines": "a\r\nb",
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE.keys())
async def test_an_error_that_quotes_the_request_still_arrives(
    channel: grpc.aio.Channel, pipeline: FakePipeline, text: str
) -> None:
    metadata = {f"key{n}": text for n in range(40)}
    for error in (
        errors.InvalidArgument(text, text, **metadata),
        errors.NotFound(text[:60], text, text, **metadata),
        errors.FailedPrecondition(text, text, **metadata),
    ):
        pipeline.failure = error
        failure = await failure_of(memory_stub(channel).GetMemory(GET))
        assert failure.code().name == error.status
        assert details_of(failure)["ErrorInfo"].reason == error.reason
        assert len((failure.details() or "").encode()) <= 512


async def test_a_short_message_is_told_whole(
    channel: grpc.aio.Channel, pipeline: FakePipeline
) -> None:
    text = "é" * 256
    pipeline.failure = errors.Aborted(text)
    assert (await failure_of(memory_stub(channel).GetMemory(GET))).details() == text
