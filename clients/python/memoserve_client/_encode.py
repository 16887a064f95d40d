"""From arguments to request messages."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from google.protobuf.field_mask_pb2 import FieldMask

from memoserve_client._enums import to_wire
from memoserve_client.options import (
    GenerateOptions,
    MemorizeOptions,
    RecallOptions,
    RetrieveOptions,
    SamplingOptions,
)
from memoserve_client.types import MemoryName, MemoryRef, RefLike, as_ref
from memoserve_proto.v1 import common_pb2, memory_pb2, query_pb2
from memoserve_proto.v1 import memory_service_pb2 as memory_service
from memoserve_proto.v1 import query_service_pb2 as query_service


def wire_name(name: MemoryName) -> common_pb2.MemoryName:
    """A memory's full name."""
    return common_pb2.MemoryName(namespace=name.namespace, memory_id=name.memory_id)


def wire_refs(memories: RefLike | Sequence[RefLike], namespace: str) -> list[common_pb2.MemoryRef]:
    """One reference or several; plain names are in ``namespace``."""
    several = [memories] if isinstance(memories, str | MemoryName | MemoryRef) else memories
    refs = [as_ref(one, namespace) for one in several]
    return [common_pb2.MemoryRef(name=wire_name(ref.name), version=ref.version) for ref in refs]


def wire_fields(options: Mapping[str, object]) -> dict[str, Any]:
    """Options by name, each as protobuf's constructors take it; None is not set."""
    return {name: _wire_value(value) for name, value in options.items()}


def _wire_value(value: object) -> object:
    if isinstance(value, enum.Enum):
        return to_wire(value)
    if isinstance(value, SamplingOptions):
        return query_pb2.SamplingOptions(**asdict(value))
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_wire_value(item) for item in value]
    return value


def memorize_header(name: MemoryName, options: MemorizeOptions) -> memory_service.MemorizeRequest:
    """First message of Memorize."""
    header = memory_service.MemorizeHeader(name=wire_name(name), **wire_fields(options))
    return memory_service.MemorizeRequest(header=header)


def memorize_text(source_id: str, utf8: bytes) -> memory_service.MemorizeRequest:
    """A message of Memorize between the first and the last."""
    piece = memory_service.TextPiece(source_id=source_id, text_utf8=utf8)
    return memory_service.MemorizeRequest(text=piece)


def memorize_end() -> memory_service.MemorizeRequest:
    """Last message of Memorize: the text is complete."""
    return memory_service.MemorizeRequest(end=memory_service.MemorizeEnd())


def update(
    name: MemoryName, labels: Mapping[str, str] | None, description: str | None, etag: str
) -> memory_service.UpdateMemoryRequest:
    """Change what is not None."""
    given = {"labels": labels, "description": description}
    paths = [path for path, value in given.items() if value is not None]
    memory = memory_pb2.Memory(
        name=wire_name(name), etag=etag, labels=labels, description=description
    )
    return memory_service.UpdateMemoryRequest(memory=memory, update_mask=FieldMask(paths=paths))


def recall(
    refs: list[common_pb2.MemoryRef], query: str, options: RecallOptions
) -> query_service.RecallRequest:
    """Ask for clues."""
    return query_service.RecallRequest(memories=refs, query=query, **wire_fields(options))


def retrieve(
    refs: list[common_pb2.MemoryRef], query: str, options: RetrieveOptions
) -> query_service.RetrieveRequest:
    """Ask for passages."""
    return query_service.RetrieveRequest(memories=refs, query=query, **wire_fields(options))


def generate(
    refs: list[common_pb2.MemoryRef], query: str, options: GenerateOptions
) -> query_service.GenerateRequest:
    """Ask for an answer."""
    return query_service.GenerateRequest(memories=refs, query=query, **wire_fields(options))
