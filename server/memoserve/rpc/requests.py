"""Messages of MemoryService to values, checked; field paths are those of the request message."""

from __future__ import annotations

from memoserve.errors import InvalidArgument
from memoserve.pipeline.api import DEFAULT_PAGE_SIZE, MAX_PIECE_BYTES, MAX_SOURCE_ID_CHARS
from memoserve.pipeline.values import (
    DEFAULT_NAMESPACE,
    CreateSpec,
    Language,
    MemorizeHeader,
    MemoryName,
    MemoryRef,
    TextPiece,
    WriteMode,
)
from memoserve.rpc.checks import (
    check_labels,
    check_name,
    check_number,
    check_text,
    decode_utf8,
    read_enum,
)
from memoserve_proto.v1 import common_pb2, memory_pb2, memory_service_pb2

MAX_PAGE_SIZE = 1000
MAX_DESCRIPTION_BYTES = 4096
MAX_FILTER_BYTES = 4096
MAX_ETAG_CHARS = 256
MAX_REQUEST_ID_CHARS = 128
MAX_INT64 = 2**63 - 1

Named = (
    memory_service_pb2.CreateMemoryRequest
    | memory_service_pb2.GetMemoryRequest
    | memory_service_pb2.DeleteMemoryRequest
    | memory_service_pb2.MemorizeHeader
    | memory_pb2.Memory
    | common_pb2.MemoryRef
)


def read_namespace(field: str, text: str) -> str:
    """Return a tenant's name, the default one for an empty text."""
    return check_name(field, text or DEFAULT_NAMESPACE)


def read_name(parent: Named, path: str = "") -> MemoryName:
    """Return the ``name`` of a message; ``path`` is where the message itself stands."""
    field = f"{path}name"
    if not parent.HasField("name"):
        raise InvalidArgument(field, "is required", reason="REQUIRED")
    return MemoryName(
        read_namespace(f"{field}.namespace", parent.name.namespace),
        check_name(f"{field}.memory_id", parent.name.memory_id),
    )


def read_ref(ref: common_pb2.MemoryRef, path: str) -> MemoryRef:
    """Return a memory and, where given, its version of 1 or more."""
    name = read_name(ref, f"{path}.")
    if not ref.HasField("version"):
        return MemoryRef(name)
    check_number(f"{path}.version", ref.version, low=1, high=MAX_INT64)
    return MemoryRef(name, ref.version)


def read_language(field: str, number: int) -> Language:
    """Return the language of the prompts, auto where none is given."""
    return read_enum(field, common_pb2.Language, number, Language, "LANGUAGE_", Language.AUTO)


def read_create(request: memory_service_pb2.CreateMemoryRequest) -> CreateSpec:
    """Return what CreateMemory asks for."""
    return CreateSpec(
        name=read_name(request),
        ratio=request.ratio if request.HasField("ratio") else None,
        language=read_language("language", request.language),
        labels=check_labels("labels", request.labels),
        description=read_description("description", request.description),
    )


def read_description(field: str, text: str) -> str:
    """Return a memory's description within its limit."""
    return check_text(field, text, max_bytes=MAX_DESCRIPTION_BYTES)


def read_etag(field: str, text: str) -> str:
    """Return an etag; what it says is known to the store alone."""
    return check_text(field, text, max_chars=MAX_ETAG_CHARS)


def read_page(request: memory_service_pb2.ListMemoriesRequest) -> tuple[str, int, str, str]:
    """Return namespace, page size, page token and filter of a list."""
    check_number("page_size", request.page_size, low=0, high=2**31)
    return (
        read_namespace("namespace", request.namespace),
        min(request.page_size or DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE),
        check_text("page_token", request.page_token, max_bytes=MAX_FILTER_BYTES),
        check_text("filter", request.filter, max_bytes=MAX_FILTER_BYTES),
    )


def read_update(
    request: memory_service_pb2.UpdateMemoryRequest,
) -> tuple[MemoryName, dict[str, str] | None, str | None, str]:
    """Return name, new labels or None, new description or None, and etag of an update."""
    if not request.HasField("memory"):
        raise InvalidArgument("memory", "is required", reason="REQUIRED")
    memory, paths = request.memory, set(request.update_mask.paths)
    if not paths or not paths <= {"labels", "description"}:
        raise InvalidArgument("update_mask", "must name labels, description or both")
    labels = check_labels("memory.labels", memory.labels) if "labels" in paths else None
    description = (
        read_description("memory.description", memory.description)
        if "description" in paths
        else None
    )
    return read_name(memory, "memory."), labels, description, read_etag("memory.etag", memory.etag)


def read_header(request: memory_service_pb2.MemorizeRequest | None) -> MemorizeHeader:
    """Return the header that must come first; None is a stream that ended before it."""
    if request is None or request.WhichOneof("part") != "header":
        raise InvalidArgument("header", "must be the first message", reason="WRONG_ORDER")
    header = request.header
    expected = ("expected_version", 0), ("expected_tokens", 1)
    for field, low in expected:
        if header.HasField(field):
            check_number(f"header.{field}", getattr(header, field), low=low, high=MAX_INT64)
    return MemorizeHeader(
        name=read_name(header, "header."),
        mode=read_enum(
            "header.mode",
            memory_service_pb2.WriteMode,
            header.mode,
            WriteMode,
            "WRITE_MODE_",
            WriteMode.APPEND,
        ),
        request_id=check_text(
            "header.request_id", header.request_id, max_chars=MAX_REQUEST_ID_CHARS
        ),
        expected_version=header.expected_version if header.HasField("expected_version") else None,
        expected_tokens=header.expected_tokens if header.HasField("expected_tokens") else None,
        ratio=header.ratio if header.HasField("ratio") else None,
        language=read_language("header.language", header.language),
        create_missing=header.create_missing if header.HasField("create_missing") else True,
        allow_extrapolation=header.allow_extrapolation,
        index=header.index if header.HasField("index") else True,
    )


def read_piece(request: memory_service_pb2.MemorizeRequest) -> TextPiece:
    """Return one piece of text, which every message between header and end must be."""
    if request.HasField("header"):
        raise InvalidArgument("header", "must be the first message only", reason="WRONG_ORDER")
    if not request.HasField("text"):
        raise InvalidArgument(
            "text", "must be in every message between header and end", reason="WRONG_ORDER"
        )
    piece = request.text
    return TextPiece(
        source_id=check_text("text.source_id", piece.source_id, max_chars=MAX_SOURCE_ID_CHARS),
        text=decode_utf8("text.text_utf8", piece.text_utf8, max_bytes=MAX_PIECE_BYTES),
    )
