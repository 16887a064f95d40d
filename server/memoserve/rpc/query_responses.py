"""Events of queries to messages."""

from __future__ import annotations

from typing import Any

from memoserve.pipeline.values import (
    Clue,
    Final,
    Passage,
    QueryEvent,
    Quote,
    Stage,
    Token,
    Usage,
)
from memoserve.rpc.responses import to_notice, to_ref
from memoserve_proto.v1 import query_pb2, query_service_pb2

FINISH_REASONS = {
    "": query_pb2.FINISH_REASON_UNSPECIFIED,
    "stop": query_pb2.FINISH_REASON_STOP,
    "length": query_pb2.FINISH_REASON_LENGTH,
    "evidence": query_pb2.FINISH_REASON_EVIDENCE,
}


def to_recall_response(event: QueryEvent) -> query_service_pb2.RecallResponse:
    """Return one event of Recall; ValueError for one that its contract does not have."""
    return query_service_pb2.RecallResponse(**_part(event))


def to_retrieve_response(event: QueryEvent) -> query_service_pb2.RetrieveResponse:
    """Return one event of Retrieve; ValueError for one that its contract does not have."""
    return query_service_pb2.RetrieveResponse(**_part(event))


def to_generate_response(event: QueryEvent) -> query_service_pb2.GenerateResponse:
    """Return one event of Generate."""
    return query_service_pb2.GenerateResponse(**_part(event))


def _part(event: QueryEvent) -> dict[str, Any]:
    """Return the field of the response's oneof that holds ``event``, and the event's message."""
    match event:
        case Stage():
            return {"stage": query_pb2.Stage(name=f"STAGE_NAME_{event.name.name}")}
        case Clue():
            return {"clue": _clue(event)}
        case Passage():
            return {"passage": _passage(event)}
        case Token():
            return {"token": _token(event)}
        case Quote():
            return {"quote": _quote(event)}
        case Final():
            return {"final": _final(event)}
        case _:
            return {"notice": to_notice(event)}


def _clue(clue: Clue) -> query_pb2.Clue:
    return query_pb2.Clue(
        kind=f"CLUE_KIND_{clue.kind.name}",
        text=clue.text,
        memory=to_ref(clue.memory),
        dropped=clue.dropped,
    )


def _token(token: Token) -> query_pb2.Token:
    kind = f"CLUE_KIND_{token.clue_kind.name}" if token.clue_kind else "CLUE_KIND_UNSPECIFIED"
    return query_pb2.Token(text=token.text, clue_kind=kind)


def _passage(passage: Passage) -> query_pb2.Passage:
    return query_pb2.Passage(
        memory=to_ref(passage.memory),
        index=passage.index,
        source_id=passage.source_id,
        text=passage.text,
        start_byte=passage.start_byte,
        end_byte=passage.end_byte,
        start_char=passage.start_char,
        end_char=passage.end_char,
        score=passage.score,
        signals=passage.signals,
    )


def _quote(quote: Quote) -> query_pb2.Quote:
    return query_pb2.Quote(
        memory=to_ref(quote.memory),
        source_id=quote.source_id,
        text=quote.text,
        start_byte=quote.start_byte,
        end_byte=quote.end_byte,
        start_char=quote.start_char,
        end_char=quote.end_char,
        score=quote.score,
    )


def _final(final: Final) -> query_pb2.Final:
    return query_pb2.Final(
        text=final.text,
        finish_reason=FINISH_REASONS[final.finish_reason],
        usage=_usage(final.usage),
        memories=[to_ref(ref) for ref in final.memories],
    )


def _usage(usage: Usage) -> query_pb2.Usage:
    return query_pb2.Usage(
        prompt_tokens=usage.prompt_tokens,
        generated_tokens=usage.generated_tokens,
        queue_s=usage.queue_s,
        recall_s=usage.recall_s,
        retrieve_s=usage.retrieve_s,
        generate_s=usage.generate_s,
        first_token_s=usage.first_token_s,
        first_clue_s=usage.first_clue_s,
    )
