"""From reply messages to values."""

from __future__ import annotations

from dataclasses import fields
from datetime import UTC
from types import MappingProxyType
from typing import Any, TypeVar

from google.protobuf.message import Message

from memoserve_client import events, types
from memoserve_client._enums import from_wire, from_wire_optional
from memoserve_proto.v1 import common_pb2, memory_pb2, query_pb2, server_service_pb2
from memoserve_proto.v1 import memory_service_pb2 as memory_service
from memoserve_proto.v1 import query_service_pb2 as query_service

T = TypeVar("T")


def _same(cls: type[T], message: Message, **other: object) -> T:
    """Make ``cls`` from the fields of the same names; ``other`` are those that differ in kind.

    An optional field that is not set becomes None.
    """
    values: dict[str, Any] = dict(other)
    # A type variable cannot say that it stands for dataclasses; every caller names one.
    for item in fields(cls):  # type: ignore[arg-type]
        if item.name in values:
            continue
        field = message.DESCRIPTOR.fields_by_name[item.name]
        unset = field.has_presence and not message.HasField(item.name)
        values[item.name] = None if unset else getattr(message, item.name)
    return cls(**values)


def name(message: common_pb2.MemoryName) -> types.MemoryName:
    """A memory's full name."""
    return _same(types.MemoryName, message)


def ref(message: common_pb2.MemoryRef) -> types.MemoryRef:
    """A memory and version."""
    return _same(types.MemoryRef, message, name=name(message.name))


def memory(message: memory_pb2.Memory) -> types.Memory:
    """A memory as callers see it."""
    return _same(
        types.Memory,
        message,
        name=name(message.name),
        ratios=tuple(message.ratios),
        language=from_wire(types.Language, message.language),
        labels=MappingProxyType(dict(message.labels)),
        create_time=message.create_time.ToDatetime(tzinfo=UTC),
        update_time=message.update_time.ToDatetime(tzinfo=UTC),
        tier=from_wire(types.Tier, message.tier),
        stats=_same(types.MemoryStats, message.stats),
    )


def server_info(message: server_service_pb2.ServerInfo) -> types.ServerInfo:
    """A server's facts."""
    model = _same(types.ModelInfo, message.model, ratios=tuple(message.model.ratios))
    return _same(types.ServerInfo, message, model=model, generators=tuple(message.generators))


def memorize_event(reply: memory_service.MemorizeResponse) -> types.MemorizeEvent | None:
    """What a Memorize tells; None for an event of a newer server."""
    match reply.WhichOneof("event"):
        case "accepted":
            accepted = reply.accepted
            return _same(types.Accepted, accepted, memory=memory(accepted.memory))
        case "progress":
            return _same(types.Progress, reply.progress)
        case "warning":
            return _same(types.Notice, reply.warning)
        case "committed":
            committed = reply.committed
            return _same(types.Committed, committed, memory=memory(committed.memory))
        case _:
            return None


def recall_event(reply: query_service.RecallResponse) -> events.RecallEvent | None:
    """What ``recall`` tells; None for an event of a newer server."""
    match reply.WhichOneof("event"):
        case "stage":
            return _stage(reply.stage)
        case "clue":
            return _clue(reply.clue)
        case "token":
            return _token(reply.token)
        case "notice":
            return _same(types.Notice, reply.notice)
        case "final":
            return _final(reply.final)
        case _:
            return None


def retrieve_event(reply: query_service.RetrieveResponse) -> events.RetrieveEvent | None:
    """What ``retrieve`` tells; None for an event of a newer server."""
    match reply.WhichOneof("event"):
        case "stage":
            return _stage(reply.stage)
        case "passage":
            return _passage(reply.passage)
        case "notice":
            return _same(types.Notice, reply.notice)
        case "final":
            return _final(reply.final)
        case _:
            return None


def generate_event(reply: query_service.GenerateResponse) -> events.GenerateEvent | None:
    """What ``generate`` tells; None for an event of a newer server."""
    match reply.WhichOneof("event"):
        case "stage":
            return _stage(reply.stage)
        case "clue":
            return _clue(reply.clue)
        case "passage":
            return _passage(reply.passage)
        case "token":
            return _token(reply.token)
        case "quote":
            return _same(events.Quote, reply.quote, memory=ref(reply.quote.memory))
        case "notice":
            return _same(types.Notice, reply.notice)
        case "final":
            return _final(reply.final)
        case _:
            return None


def _stage(message: query_pb2.Stage) -> events.Stage:
    return events.Stage(from_wire(events.StageName, message.name))


def _clue(message: query_pb2.Clue) -> events.Clue:
    kind = from_wire(events.ClueKind, message.kind)
    return _same(events.Clue, message, kind=kind, memory=ref(message.memory))


def _passage(message: query_pb2.Passage) -> events.Passage:
    signals = MappingProxyType(dict(message.signals))
    return _same(events.Passage, message, memory=ref(message.memory), signals=signals)


def _token(message: query_pb2.Token) -> events.Token:
    return events.Token(message.text, from_wire_optional(events.ClueKind, message.clue_kind))


def _final(message: query_pb2.Final) -> events.Final:
    return _same(
        events.Final,
        message,
        finish_reason=from_wire_optional(events.FinishReason, message.finish_reason),
        usage=_same(events.Usage, message.usage),
        memories=tuple(ref(one) for one in message.memories),
    )
