"""Words of the contract and of this package: the same names, but for the contract's prefix."""

from __future__ import annotations

import enum
from typing import Protocol, TypeVar

from memoserve_client import events, types
from memoserve_proto.v1 import common_pb2, memory_service_pb2, query_pb2, query_service_pb2

E = TypeVar("E", bound=enum.Enum)


class WireEnum(Protocol):
    """What protobuf's generated enums offer."""

    def Name(self, number: int) -> str:
        """Name of a number; ValueError when there is none."""

    def Value(self, name: str) -> int:
        """Number of a name; ValueError when there is none."""


_WIRE: dict[type[enum.Enum], tuple[WireEnum, str]] = {
    types.Tier: (common_pb2.Tier, "TIER_"),
    types.Language: (common_pb2.Language, "LANGUAGE_"),
    types.WriteMode: (memory_service_pb2.WriteMode, "WRITE_MODE_"),
    events.ClueKind: (query_pb2.ClueKind, "CLUE_KIND_"),
    events.StageName: (query_pb2.StageName, "STAGE_NAME_"),
    events.FinishReason: (query_pb2.FinishReason, "FINISH_REASON_"),
    events.Fusion: (query_pb2.Fusion, "FUSION_"),
    events.Task: (query_service_pb2.GenerateTask, "GENERATE_TASK_"),
}


def to_wire(word: enum.Enum) -> int:
    """Number of a word. Raises ValueError for one that only servers may say."""
    wire, prefix = _WIRE[type(word)]
    try:
        return wire.Value(prefix + word.name)
    except ValueError:
        raise ValueError(f"{word} cannot be sent") from None


def from_wire(cls: type[E], number: int) -> E:
    """The word of a number; ``cls.UNKNOWN`` when this client knows none."""
    wire, prefix = _WIRE[cls]
    try:
        return cls[wire.Name(number).removeprefix(prefix)]
    except (ValueError, KeyError):
        return cls["UNKNOWN"]


def from_wire_optional(cls: type[E], number: int) -> E | None:
    """The same, with None for a field that was not set."""
    return from_wire(cls, number) if number else None
