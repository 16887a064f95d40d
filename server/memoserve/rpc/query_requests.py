"""Messages of QueryService to values, checked; field paths are those of the request message."""

from __future__ import annotations

import math
from collections.abc import Sequence

from memoserve.errors import InvalidArgument
from memoserve.pipeline.api import MAX_QUERY_BYTES, MAX_STOPS, MAX_TOP_K
from memoserve.pipeline.values import (
    ClueKind,
    GenerateQuery,
    MemoryRef,
    RecallQuery,
    RetrieveQuery,
    SamplingOptions,
    Task,
)
from memoserve.rpc.checks import check_count, check_number, check_text, read_enum
from memoserve.rpc.requests import MAX_INT64, read_language, read_ref
from memoserve_proto.v1 import common_pb2, query_pb2, query_service_pb2

MAX_MEMORIES = 16
MAX_CLUES = 64
MAX_STOP_BYTES = 1024
MAX_GENERATOR_CHARS = 128
DEFAULT_TOP_K = 3

FUSIONS = {
    query_pb2.FUSION_UNSPECIFIED: "union",
    query_pb2.FUSION_UNION: "union",
    query_pb2.FUSION_RRF: "rrf",
}


def read_recall(request: query_service_pb2.RecallRequest) -> RecallQuery:
    """Return what Recall asks for; only key points need no query."""
    kinds = _kinds(request.kinds) or RecallQuery.kinds
    query = _query(request.query, optional=set(kinds) == {ClueKind.KEY_POINT})
    return RecallQuery(
        memories=_memories(request.memories),
        query=query,
        kinds=kinds,
        sampling=read_sampling(request.sampling),
        language=read_language("language", request.language),
        return_dropped=request.return_dropped,
        stream_tokens=request.stream_tokens,
    )


def read_retrieve(request: query_service_pb2.RetrieveRequest) -> RetrieveQuery:
    """Return what Retrieve asks for; with clues it needs no query."""
    check_count("clues", request.clues, MAX_CLUES)
    for place, clue in enumerate(request.clues):
        _filled(f"clues[{place}]", clue, MAX_QUERY_BYTES)
    return RetrieveQuery(
        memories=_memories(request.memories),
        query=_query(request.query, optional=bool(request.clues)),
        clues=tuple(request.clues),
        top_k=_top_k(request),
        max_passages=request.max_passages,
        max_tokens=request.max_evidence_tokens,
        fusion=_fusion(request.fusion),
    )


def read_generate(request: query_service_pb2.GenerateRequest) -> GenerateQuery:
    """Return what Generate asks for; only a summary needs no query."""
    task = read_enum(
        "task", query_service_pb2.GenerateTask, request.task, Task, "GENERATE_TASK_", Task.MEMORAG
    )
    return GenerateQuery(
        memories=_memories(request.memories),
        query=_query(request.query, optional=task is Task.SUMMARIZE),
        task=task,
        generator=check_text("generator", request.generator, max_chars=MAX_GENERATOR_CHARS),
        template=check_text("template", request.template, max_bytes=MAX_QUERY_BYTES),
        sampling=read_sampling(request.sampling),
        language=read_language("language", request.language),
        kinds=_kinds(request.kinds) or GenerateQuery.kinds,
        top_k=_top_k(request),
        max_passages=request.max_passages,
        max_tokens=request.max_evidence_tokens,
        fusion=_fusion(request.fusion),
        use_clues=request.use_clues if request.HasField("use_clues") else None,
    )


def read_sampling(options: query_pb2.SamplingOptions) -> SamplingOptions:
    """Return how tokens are drawn; absent options stay None."""
    given = {field.name for field, _ in options.ListFields()}
    if "max_tokens" in given:
        check_number("sampling.max_tokens", options.max_tokens, low=1, high=math.inf)
    if "temperature" in given:
        check_number("sampling.temperature", options.temperature, low=0, high=100)
    if "top_p" in given:
        check_number("sampling.top_p", options.top_p, above=0, high=1)
    if "repetition_penalty" in given:
        penalty = options.repetition_penalty
        check_number("sampling.repetition_penalty", penalty, low=0.01, high=100)
    if "seed" in given:
        check_number("sampling.seed", options.seed, low=0, high=MAX_INT64)
    check_count("sampling.stop", options.stop, MAX_STOPS)
    for place, stop in enumerate(options.stop):
        _filled(f"sampling.stop[{place}]", stop, MAX_STOP_BYTES, blank=True)
    return SamplingOptions(
        max_tokens=options.max_tokens if "max_tokens" in given else None,
        temperature=options.temperature if "temperature" in given else None,
        top_k=options.top_k if "top_k" in given else None,
        top_p=options.top_p if "top_p" in given else None,
        repetition_penalty=options.repetition_penalty if "repetition_penalty" in given else None,
        seed=options.seed if "seed" in given else None,
        stop=tuple(options.stop),
    )


def _memories(refs: Sequence[common_pb2.MemoryRef]) -> tuple[MemoryRef, ...]:
    if not refs:
        raise InvalidArgument("memories", "must name at least one memory", reason="REQUIRED")
    check_count("memories", refs, MAX_MEMORIES)
    read = tuple(read_ref(ref, f"memories[{place}]") for place, ref in enumerate(refs))
    for place, ref in enumerate(read):
        if ref.name in {before.name for before in read[:place]}:
            raise InvalidArgument(f"memories[{place}]", "is named twice", reason="DUPLICATE")
    return read


def _kinds(numbers: Sequence[int]) -> tuple[ClueKind, ...]:
    check_count("kinds", numbers, len(ClueKind))
    kinds = tuple(
        read_enum(f"kinds[{place}]", query_pb2.ClueKind, number, ClueKind, "CLUE_KIND_")
        for place, number in enumerate(numbers)
    )
    if len(set(kinds)) < len(kinds):
        raise InvalidArgument("kinds", "names a kind twice", reason="DUPLICATE")
    return kinds


def _query(text: str, *, optional: bool) -> str:
    if optional:
        return check_text("query", text, max_bytes=MAX_QUERY_BYTES)
    return _filled("query", text, MAX_QUERY_BYTES)


def _filled(field: str, text: str, max_bytes: int, *, blank: bool = False) -> str:
    """Return text that says something; ``blank`` lets white space count."""
    if not (text if blank else text.strip()):
        raise InvalidArgument(field, "must not be empty", reason="REQUIRED")
    return check_text(field, text, max_bytes=max_bytes)


def _top_k(request: query_service_pb2.RetrieveRequest | query_service_pb2.GenerateRequest) -> int:
    if not request.HasField("top_k"):
        return DEFAULT_TOP_K
    check_number("top_k", request.top_k, low=1, high=MAX_TOP_K)
    return request.top_k


def _fusion(number: int) -> str:
    for known, name in FUSIONS.items():
        if known == number:
            return name
    raise InvalidArgument(
        "fusion",
        f"must be one of {', '.join(query_pb2.Fusion.keys())}, not {number}",
        reason="UNKNOWN_ENUM_VALUE",
    )
