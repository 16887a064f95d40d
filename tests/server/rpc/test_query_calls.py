from __future__ import annotations

import time
from typing import Any

import grpc.aio
import pytest
from google.protobuf.json_format import MessageToDict

from memoserve.pipeline.values import (
    Clue,
    ClueKind,
    Final,
    GenerateQuery,
    Language,
    MemoryName,
    MemoryRef,
    Notice,
    Passage,
    QueryEvent,
    Quote,
    RecallQuery,
    RetrieveQuery,
    SamplingOptions,
    Stage,
    StageName,
    Task,
    Token,
    Usage,
)
from memoserve_proto.v1 import common_pb2, query_pb2
from memoserve_proto.v1 import query_service_pb2 as pb2
from tests.server.rpc.calls import BOOK, REF, failure_of, query_stub
from tests.server.rpc.fake_pipeline import FakePipeline

PINNED = MemoryRef(MemoryName("team", "book"), 3)
NEWEST = MemoryRef(MemoryName("team", "book"))
REF3 = common_pb2.MemoryRef(name=BOOK, version=3)

SAMPLING_PB = query_pb2.SamplingOptions(
    max_tokens=5, temperature=0.5, top_k=0, top_p=0.9, repetition_penalty=1.1, seed=0, stop=["\n"]
)
SAMPLING = SamplingOptions(5, 0.5, 0, 0.9, 1.1, 0, ("\n",))

STAGE = Stage(StageName.GENERATE)
CLUE = Clue(ClueKind.KEY_POINT, "a clue", PINNED, "too short")
PASSAGE = Passage(PINNED, 1, "s", "text", 2, 6, 3, 7, 0.5, {"dense": 0.25})
TOKEN = Token("wo", ClueKind.DRAFT_ANSWER)
QUOTE = Quote(PINNED, "s", "text", 2, 6, 3, 7, 0.5)
NOTICE = Notice("UNTRUSTED_CLUES", "clues are not used")
USAGE = Usage(1, 2, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6)
FINAL = Final("the answer", "evidence", USAGE, (PINNED,))


def as_dict(response: Any) -> dict[str, Any]:
    return MessageToDict(response, preserving_proto_field_name=True)


REF_DICT = {"name": {"namespace": "team", "memory_id": "book"}, "version": "3"}
PLACE = {"source_id": "s", "text": "text", "memory": REF_DICT, "score": 0.5} | {
    "start_byte": "2",
    "end_byte": "6",
    "start_char": "3",
    "end_char": "7",
}
EXPECTED: list[tuple[QueryEvent, dict[str, Any]]] = [
    (STAGE, {"stage": {"name": "STAGE_NAME_GENERATE"}}),
    (
        CLUE,
        {
            "clue": {
                "kind": "CLUE_KIND_KEY_POINT",
                "text": "a clue",
                "memory": REF_DICT,
                "dropped": "too short",
            }
        },
    ),
    (PASSAGE, {"passage": PLACE | {"index": "1", "signals": {"dense": 0.25}}}),
    (TOKEN, {"token": {"text": "wo", "clue_kind": "CLUE_KIND_DRAFT_ANSWER"}}),
    (QUOTE, {"quote": PLACE}),
    (NOTICE, {"notice": {"code": "UNTRUSTED_CLUES", "message": "clues are not used"}}),
    (
        FINAL,
        {
            "final": {
                "text": "the answer",
                "finish_reason": "FINISH_REASON_EVIDENCE",
                "memories": [REF_DICT],
                "usage": {
                    "prompt_tokens": "1",
                    "generated_tokens": "2",
                    "queue_s": 0.1,
                    "recall_s": 0.2,
                    "retrieve_s": 0.3,
                    "generate_s": 0.4,
                    "first_token_s": 0.5,
                    "first_clue_s": 0.6,
                },
            }
        },
    ),
]


async def test_generate_streams_every_event(
    channel: grpc.aio.Channel, pipeline: FakePipeline
) -> None:
    pipeline.events = tuple(event for event, _ in EXPECTED)
    call = query_stub(channel).Generate(pb2.GenerateRequest(memories=[REF], query="why?"))
    assert [as_dict(response) async for response in call] == [shown for _, shown in EXPECTED]
    assert not pipeline.cancelled


@pytest.mark.parametrize(
    ("reason", "shown"),
    [
        ("", "FINISH_REASON_UNSPECIFIED"),
        ("stop", "FINISH_REASON_STOP"),
        ("length", "FINISH_REASON_LENGTH"),
    ],
)
async def test_finish_reasons(
    channel: grpc.aio.Channel, pipeline: FakePipeline, reason: str, shown: str
) -> None:
    pipeline.events = (Final("", reason, Usage(), ()),)
    call = query_stub(channel).Generate(pb2.GenerateRequest(memories=[REF], query="why?"))
    (response,) = [response async for response in call]
    assert query_pb2.FinishReason.Name(response.final.finish_reason) == shown
    assert not response.final.usage.HasField("first_token_s")
    assert not response.final.usage.HasField("first_clue_s")


async def test_generate_passes_every_field(
    channel: grpc.aio.Channel, pipeline: FakePipeline
) -> None:
    request = pb2.GenerateRequest(
        memories=[REF3],
        query="why?",
        task=pb2.GENERATE_TASK_MEMORY_ONLY,
        generator="quote",
        template="{context} {input}",
        sampling=SAMPLING_PB,
        language=common_pb2.LANGUAGE_ZH,
        kinds=[query_pb2.CLUE_KIND_DRAFT_ANSWER],
        top_k=9,
        max_passages=4,
        max_evidence_tokens=700,
        fusion=query_pb2.FUSION_RRF,
        use_clues=False,
    )
    assert [response async for response in query_stub(channel).Generate(request)] == []
    query = GenerateQuery(
        memories=(PINNED,),
        query="why?",
        task=Task.MEMORY_ONLY,
        generator="quote",
        template="{context} {input}",
        sampling=SAMPLING,
        language=Language.ZH,
        kinds=(ClueKind.DRAFT_ANSWER,),
        top_k=9,
        max_passages=4,
        max_tokens=700,
        fusion="rrf",
        use_clues=False,
    )
    assert pipeline.calls == [("generate", query)]


async def test_absent_fields_take_the_defaults(
    channel: grpc.aio.Channel, pipeline: FakePipeline
) -> None:
    stub = query_stub(channel)
    recall = stub.Recall(pb2.RecallRequest(memories=[REF], query="q"))
    assert [response async for response in recall] == []
    retrieve = stub.Retrieve(pb2.RetrieveRequest(memories=[REF], query="q"))
    assert [response async for response in retrieve] == []
    generate = stub.Generate(pb2.GenerateRequest(memories=[REF], query="q"))
    assert [response async for response in generate] == []
    assert pipeline.calls == [
        ("recall", RecallQuery((NEWEST,), "q")),
        ("retrieve", RetrieveQuery((NEWEST,), "q")),
        ("generate", GenerateQuery((NEWEST,), "q")),
    ]


async def test_recall_passes_every_field(channel: grpc.aio.Channel, pipeline: FakePipeline) -> None:
    pipeline.events = (STAGE, CLUE, TOKEN, NOTICE, FINAL)
    request = pb2.RecallRequest(
        memories=[REF3],
        kinds=[query_pb2.CLUE_KIND_KEY_POINT],
        sampling=SAMPLING_PB,
        language=common_pb2.LANGUAGE_EN,
        return_dropped=True,
        stream_tokens=True,
    )
    shown = [as_dict(response) async for response in query_stub(channel).Recall(request)]
    assert shown == [show for event, show in EXPECTED if event in pipeline.events]
    kinds = (ClueKind.KEY_POINT,)
    query = RecallQuery((PINNED,), "", kinds, SAMPLING, Language.EN, True, True)
    assert pipeline.calls == [("recall", query)]


async def test_retrieve_passes_every_field(
    channel: grpc.aio.Channel, pipeline: FakePipeline
) -> None:
    pipeline.events = (STAGE, PASSAGE, NOTICE, FINAL)
    request = pb2.RetrieveRequest(
        memories=[REF3],
        clues=["a", "b"],
        top_k=1000,
        max_passages=4,
        max_evidence_tokens=700,
        fusion=query_pb2.FUSION_RRF,
    )
    shown = [as_dict(response) async for response in query_stub(channel).Retrieve(request)]
    assert shown == [show for event, show in EXPECTED if event in pipeline.events]
    query = RetrieveQuery((PINNED,), "", ("a", "b"), 1000, 4, 700, "rrf")
    assert pipeline.calls == [("retrieve", query)]


async def test_an_event_outside_the_contract_is_a_bug(
    channel: grpc.aio.Channel, pipeline: FakePipeline
) -> None:
    pipeline.events = (QUOTE,)
    stub = query_stub(channel)
    calls: list[Any] = [
        stub.Recall(pb2.RecallRequest(memories=[REF], query="q")),
        stub.Retrieve(pb2.RetrieveRequest(memories=[REF], query="q")),
    ]
    for call in calls:
        assert (await failure_of(call)).code() is grpc.StatusCode.INTERNAL


async def test_a_deadline_reaches_the_pipeline(
    channel: grpc.aio.Channel, pipeline: FakePipeline
) -> None:
    request = pb2.RecallRequest(memories=[REF], query="q")
    before = time.monotonic()
    call = query_stub(channel).Recall(request, timeout=30)
    assert [response async for response in call] == []
    assert pipeline.deadline is not None
    assert before + 25 < pipeline.deadline < before + 35  # the wire rounds it up
    assert [response async for response in query_stub(channel).Recall(request)] == []
    assert pipeline.deadline is None
