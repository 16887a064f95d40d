"""Every limit of the contract, by the field that its refusal names."""

from __future__ import annotations

import math
from typing import Any

import grpc.aio
import pytest
from google.protobuf.field_mask_pb2 import FieldMask

from memoserve_proto.v1 import common_pb2, memory_pb2, query_pb2
from memoserve_proto.v1 import memory_service_pb2 as memory
from memoserve_proto.v1 import query_service_pb2 as query
from tests.server.rpc.calls import (
    BOOK,
    REF,
    details_of,
    failure_of,
    memory_stub,
    query_stub,
    refused_field,
)
from tests.server.rpc.fake_pipeline import FakePipeline

KIB = 1024


def create(**fields: Any) -> memory.CreateMemoryRequest:
    return memory.CreateMemoryRequest(**({"name": BOOK} | fields))


def recall(**fields: Any) -> query.RecallRequest:
    return query.RecallRequest(**({"memories": [REF], "query": "q"} | fields))


def retrieve(**fields: Any) -> query.RetrieveRequest:
    return query.RetrieveRequest(**({"memories": [REF], "query": "q"} | fields))


def generate(**fields: Any) -> query.GenerateRequest:
    return query.GenerateRequest(**({"memories": [REF], "query": "q"} | fields))


def named(namespace: str, memory_id: str) -> memory.GetMemoryRequest:
    return memory.GetMemoryRequest(
        name=common_pb2.MemoryName(namespace=namespace, memory_id=memory_id)
    )


def update(*paths: str, **fields: Any) -> memory.UpdateMemoryRequest:
    changed = memory_pb2.Memory(**({"name": BOOK} | fields))
    return memory.UpdateMemoryRequest(memory=changed, update_mask=FieldMask(paths=paths))


def sampled(**fields: Any) -> query.GenerateRequest:
    return generate(sampling=query_pb2.SamplingOptions(**fields))


def refs(count: int) -> list[common_pb2.MemoryRef]:
    return [
        common_pb2.MemoryRef(name=common_pb2.MemoryName(memory_id=f"m{n}")) for n in range(count)
    ]


def send(channel: grpc.aio.Channel, request: Any) -> Any:
    method = type(request).__name__.removesuffix("Request")
    is_query = type(request).__module__ == query.__name__
    stub = query_stub(channel) if is_query else memory_stub(channel)
    return getattr(stub, method)(request)


MANY_LABELS = {f"k{n}": "v" for n in range(65)}

REFUSED: list[tuple[Any, str]] = [
    (memory.GetMemoryRequest(), "name"),
    (named("", ""), "name.memory_id"),
    (named("", ".hidden"), "name.memory_id"),
    (named("", "../etc"), "name.memory_id"),
    (named("", "a/b"), "name.memory_id"),
    (named("", "a\0"), "name.memory_id"),
    (named("", "a\n"), "name.memory_id"),
    (named("", "ü"), "name.memory_id"),
    (named("", "a" * 129), "name.memory_id"),
    (named("..", "a"), "name.namespace"),
    (named("a" * 129, "a"), "name.namespace"),
    (create(language=9), "language"),
    (create(labels=MANY_LABELS), "labels"),
    (create(labels={"": "v"}), "labels"),
    (create(labels={"k" * 64: "v"}), "labels"),
    (create(labels={"k": "v" * 257}), "labels"),
    (create(labels={"k": "\0"}), "labels"),
    (create(description="é" * 2049), "description"),
    (create(description="\0"), "description"),
    (memory.DeleteMemoryRequest(), "name"),
    (memory.DeleteMemoryRequest(name=BOOK, etag="e" * 257), "etag"),
    (memory.ListMemoriesRequest(namespace="a b"), "namespace"),
    (memory.ListMemoriesRequest(page_size=-1), "page_size"),
    (memory.ListMemoriesRequest(page_token="t" * 4097), "page_token"),
    (memory.ListMemoriesRequest(filter="f" * 4097), "filter"),
    (memory.UpdateMemoryRequest(update_mask=FieldMask(paths=["labels"])), "memory"),
    (update("labels", name=None), "memory.name"),
    (update(), "update_mask"),
    (update("labels", "ratio"), "update_mask"),
    (update("labels", labels={"": "v"}), "memory.labels"),
    (update("description", description="d" * 4097), "memory.description"),
    (update("description", etag="\0"), "memory.etag"),
    (recall(memories=[]), "memories"),
    (recall(memories=refs(17)), "memories"),
    (recall(memories=[*refs(2), *refs(1)]), "memories[2]"),
    (recall(memories=[REF, common_pb2.MemoryRef()]), "memories[1].name"),
    (recall(memories=[common_pb2.MemoryRef(name=BOOK, version=0)]), "memories[0].version"),
    (recall(query=""), "query"),
    (recall(query=" \n"), "query"),
    (recall(query="q\0"), "query"),
    (recall(query="é" * (32 * KIB + 1)), "query"),
    (recall(kinds=[0]), "kinds[0]"),
    (recall(kinds=[1, 5]), "kinds[1]"),
    (recall(kinds=[1, 2, 1]), "kinds"),
    (recall(query="", kinds=[4, 1]), "query"),
    (recall(language=4), "language"),
    (retrieve(query=""), "query"),
    (retrieve(clues=["c"] * 65), "clues"),
    (retrieve(clues=["c", ""]), "clues[1]"),
    (retrieve(clues=["c" * (64 * KIB + 1)]), "clues[0]"),
    (retrieve(top_k=0), "top_k"),
    (retrieve(top_k=1001), "top_k"),
    (retrieve(fusion=3), "fusion"),
    (generate(query=""), "query"),
    (generate(task=5), "task"),
    (generate(task=-1), "task"),
    (generate(generator="g" * 129), "generator"),
    (generate(template="t" * (64 * KIB + 1)), "template"),
    (generate(template="\0"), "template"),
    (generate(top_k=0), "top_k"),
    (generate(fusion=3), "fusion"),
    (generate(kinds=[0]), "kinds[0]"),
    (generate(language=4), "language"),
    (sampled(max_tokens=0), "sampling.max_tokens"),
    (sampled(temperature=-0.1), "sampling.temperature"),
    (sampled(temperature=math.nan), "sampling.temperature"),
    (sampled(temperature=math.inf), "sampling.temperature"),
    (sampled(top_p=0.0), "sampling.top_p"),
    (sampled(top_p=1.01), "sampling.top_p"),
    (sampled(top_p=math.nan), "sampling.top_p"),
    (sampled(repetition_penalty=0.0), "sampling.repetition_penalty"),
    (sampled(repetition_penalty=math.inf), "sampling.repetition_penalty"),
    (sampled(repetition_penalty=0.009), "sampling.repetition_penalty"),
    (sampled(repetition_penalty=101), "sampling.repetition_penalty"),
    (sampled(temperature=101), "sampling.temperature"),
    (sampled(seed=-1), "sampling.seed"),
    (sampled(stop=["s"] * 17), "sampling.stop"),
    (sampled(stop=["s", ""]), "sampling.stop[1]"),
    (sampled(stop=["s" * 1025]), "sampling.stop[0]"),
]


@pytest.mark.parametrize(
    ("request_", "field"),
    REFUSED,
    ids=[f"{n}-{type(request).__name__}-{field}" for n, (request, field) in enumerate(REFUSED)],
)
async def test_refused(
    channel: grpc.aio.Channel, pipeline: FakePipeline, request_: Any, field: str
) -> None:
    assert await refused_field(send(channel, request_)) == field
    assert pipeline.calls == []


TAKEN: list[Any] = [
    named("A-z_0.9", "a" * 128),
    create(labels={f"k{n}": "v" * 256 for n in range(63)} | {"k" * 63: ""}),
    create(description="é" * 2048, ratio=2**32 - 1),
    recall(memories=refs(16), query="é" * (32 * KIB)),
    recall(query="", kinds=[4]),
    retrieve(query="", clues=["c" * (64 * KIB), "d"] + ["e"] * 62, top_k=1000),
    generate(task=4, query="", template="{" * (64 * KIB)),
    sampled(max_tokens=1, temperature=100, top_p=1, repetition_penalty=0.01, seed=2**63 - 1),
    sampled(stop=["\n"] * 16),
]


@pytest.mark.parametrize("request_", TAKEN, ids=range(len(TAKEN)))
async def test_taken_at_the_limit(
    channel: grpc.aio.Channel, pipeline: FakePipeline, request_: Any
) -> None:
    call = send(channel, request_)
    if hasattr(call, "__aiter__"):
        assert [response async for response in call] == []
    else:
        await call
    assert len(pipeline.calls) == 1


RAW = {
    "truncated": b"\x0a\x7f",
    "a string that is not UTF-8": b"\x0a\x04\x0a\x02\xff\xfe",
}


@pytest.mark.parametrize("raw", RAW.values(), ids=RAW.keys())
async def test_malformed_bytes_are_the_callers_fault(
    channel: grpc.aio.Channel, pipeline: FakePipeline, raw: bytes
) -> None:
    unary: Any = channel.unary_unary("/memoserve.v1.MemoryService/GetMemory")
    assert await refused_field(unary(raw)) == "request"
    server_stream: Any = channel.unary_stream("/memoserve.v1.QueryService/Recall")
    assert await refused_field(server_stream(raw)) == "request"
    bidirectional: Any = channel.stream_stream("/memoserve.v1.MemoryService/Memorize")
    assert await refused_field(bidirectional(iter([raw]))) == "request"
    assert pipeline.calls == []


async def test_a_message_beyond_4_mib_is_refused(channel: grpc.aio.Channel) -> None:
    too_large = generate(query="q" * (4 * KIB * KIB))
    error = await failure_of(query_stub(channel).Generate(too_large))
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_a_bomb_is_refused(channel: grpc.aio.Channel, pipeline: FakePipeline) -> None:
    bomb = generate(query="q" * (32 * KIB * KIB))
    call = query_stub(channel).Generate(bomb, compression=grpc.Compression.Gzip)
    assert (await failure_of(call)).code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert pipeline.calls == []


async def test_a_refusal_quotes_no_more_than_fits_a_trailer(channel: grpc.aio.Channel) -> None:
    error = await failure_of(query_stub(channel).Generate(generate(task=2**31 - 1)))
    assert "2147483647" in (error.details() or "")
    assert details_of(error)["ErrorInfo"].reason == "UNKNOWN_ENUM_VALUE"
