from google.protobuf import field_mask_pb2 as _field_mask_pb2
from memoserve_proto.v1 import common_pb2 as _common_pb2
from memoserve_proto.v1 import memory_pb2 as _memory_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class WriteMode(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    WRITE_MODE_UNSPECIFIED: _ClassVar[WriteMode]
    WRITE_MODE_APPEND: _ClassVar[WriteMode]
    WRITE_MODE_REPLACE: _ClassVar[WriteMode]
WRITE_MODE_UNSPECIFIED: WriteMode
WRITE_MODE_APPEND: WriteMode
WRITE_MODE_REPLACE: WriteMode

class CreateMemoryRequest(_message.Message):
    __slots__ = ("name", "ratio", "language", "labels", "description")
    class LabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    NAME_FIELD_NUMBER: _ClassVar[int]
    RATIO_FIELD_NUMBER: _ClassVar[int]
    LANGUAGE_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    name: _common_pb2.MemoryName
    ratio: int
    language: _common_pb2.Language
    labels: _containers.ScalarMap[str, str]
    description: str
    def __init__(self, name: _Optional[_Union[_common_pb2.MemoryName, _Mapping]] = ..., ratio: _Optional[int] = ..., language: _Optional[_Union[_common_pb2.Language, str]] = ..., labels: _Optional[_Mapping[str, str]] = ..., description: _Optional[str] = ...) -> None: ...

class CreateMemoryResponse(_message.Message):
    __slots__ = ("memory",)
    MEMORY_FIELD_NUMBER: _ClassVar[int]
    memory: _memory_pb2.Memory
    def __init__(self, memory: _Optional[_Union[_memory_pb2.Memory, _Mapping]] = ...) -> None: ...

class GetMemoryRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: _common_pb2.MemoryName
    def __init__(self, name: _Optional[_Union[_common_pb2.MemoryName, _Mapping]] = ...) -> None: ...

class GetMemoryResponse(_message.Message):
    __slots__ = ("memory",)
    MEMORY_FIELD_NUMBER: _ClassVar[int]
    memory: _memory_pb2.Memory
    def __init__(self, memory: _Optional[_Union[_memory_pb2.Memory, _Mapping]] = ...) -> None: ...

class ListMemoriesRequest(_message.Message):
    __slots__ = ("namespace", "page_size", "page_token", "filter")
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    FILTER_FIELD_NUMBER: _ClassVar[int]
    namespace: str
    page_size: int
    page_token: str
    filter: str
    def __init__(self, namespace: _Optional[str] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ..., filter: _Optional[str] = ...) -> None: ...

class ListMemoriesResponse(_message.Message):
    __slots__ = ("memories", "next_page_token")
    MEMORIES_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    memories: _containers.RepeatedCompositeFieldContainer[_memory_pb2.Memory]
    next_page_token: str
    def __init__(self, memories: _Optional[_Iterable[_Union[_memory_pb2.Memory, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class UpdateMemoryRequest(_message.Message):
    __slots__ = ("memory", "update_mask")
    MEMORY_FIELD_NUMBER: _ClassVar[int]
    UPDATE_MASK_FIELD_NUMBER: _ClassVar[int]
    memory: _memory_pb2.Memory
    update_mask: _field_mask_pb2.FieldMask
    def __init__(self, memory: _Optional[_Union[_memory_pb2.Memory, _Mapping]] = ..., update_mask: _Optional[_Union[_field_mask_pb2.FieldMask, _Mapping]] = ...) -> None: ...

class UpdateMemoryResponse(_message.Message):
    __slots__ = ("memory",)
    MEMORY_FIELD_NUMBER: _ClassVar[int]
    memory: _memory_pb2.Memory
    def __init__(self, memory: _Optional[_Union[_memory_pb2.Memory, _Mapping]] = ...) -> None: ...

class DeleteMemoryRequest(_message.Message):
    __slots__ = ("name", "etag")
    NAME_FIELD_NUMBER: _ClassVar[int]
    ETAG_FIELD_NUMBER: _ClassVar[int]
    name: _common_pb2.MemoryName
    etag: str
    def __init__(self, name: _Optional[_Union[_common_pb2.MemoryName, _Mapping]] = ..., etag: _Optional[str] = ...) -> None: ...

class DeleteMemoryResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class MemorizeRequest(_message.Message):
    __slots__ = ("header", "text", "end")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    header: MemorizeHeader
    text: TextPiece
    end: MemorizeEnd
    def __init__(self, header: _Optional[_Union[MemorizeHeader, _Mapping]] = ..., text: _Optional[_Union[TextPiece, _Mapping]] = ..., end: _Optional[_Union[MemorizeEnd, _Mapping]] = ...) -> None: ...

class MemorizeHeader(_message.Message):
    __slots__ = ("name", "mode", "request_id", "expected_version", "expected_tokens", "ratio", "language", "create_missing", "allow_extrapolation", "index")
    NAME_FIELD_NUMBER: _ClassVar[int]
    MODE_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_VERSION_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    RATIO_FIELD_NUMBER: _ClassVar[int]
    LANGUAGE_FIELD_NUMBER: _ClassVar[int]
    CREATE_MISSING_FIELD_NUMBER: _ClassVar[int]
    ALLOW_EXTRAPOLATION_FIELD_NUMBER: _ClassVar[int]
    INDEX_FIELD_NUMBER: _ClassVar[int]
    name: _common_pb2.MemoryName
    mode: WriteMode
    request_id: str
    expected_version: int
    expected_tokens: int
    ratio: int
    language: _common_pb2.Language
    create_missing: bool
    allow_extrapolation: bool
    index: bool
    def __init__(self, name: _Optional[_Union[_common_pb2.MemoryName, _Mapping]] = ..., mode: _Optional[_Union[WriteMode, str]] = ..., request_id: _Optional[str] = ..., expected_version: _Optional[int] = ..., expected_tokens: _Optional[int] = ..., ratio: _Optional[int] = ..., language: _Optional[_Union[_common_pb2.Language, str]] = ..., create_missing: _Optional[bool] = ..., allow_extrapolation: _Optional[bool] = ..., index: _Optional[bool] = ...) -> None: ...

class MemorizeEnd(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class TextPiece(_message.Message):
    __slots__ = ("source_id", "text_utf8")
    SOURCE_ID_FIELD_NUMBER: _ClassVar[int]
    TEXT_UTF8_FIELD_NUMBER: _ClassVar[int]
    source_id: str
    text_utf8: bytes
    def __init__(self, source_id: _Optional[str] = ..., text_utf8: _Optional[bytes] = ...) -> None: ...

class MemorizeResponse(_message.Message):
    __slots__ = ("accepted", "progress", "warning", "committed")
    ACCEPTED_FIELD_NUMBER: _ClassVar[int]
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    WARNING_FIELD_NUMBER: _ClassVar[int]
    COMMITTED_FIELD_NUMBER: _ClassVar[int]
    accepted: MemorizeAccepted
    progress: MemorizeProgress
    warning: _common_pb2.Notice
    committed: MemorizeCommitted
    def __init__(self, accepted: _Optional[_Union[MemorizeAccepted, _Mapping]] = ..., progress: _Optional[_Union[MemorizeProgress, _Mapping]] = ..., warning: _Optional[_Union[_common_pb2.Notice, _Mapping]] = ..., committed: _Optional[_Union[MemorizeCommitted, _Mapping]] = ...) -> None: ...

class MemorizeAccepted(_message.Message):
    __slots__ = ("memory", "ratio", "capacity_tokens")
    MEMORY_FIELD_NUMBER: _ClassVar[int]
    RATIO_FIELD_NUMBER: _ClassVar[int]
    CAPACITY_TOKENS_FIELD_NUMBER: _ClassVar[int]
    memory: _memory_pb2.Memory
    ratio: int
    capacity_tokens: int
    def __init__(self, memory: _Optional[_Union[_memory_pb2.Memory, _Mapping]] = ..., ratio: _Optional[int] = ..., capacity_tokens: _Optional[int] = ...) -> None: ...

class MemorizeProgress(_message.Message):
    __slots__ = ("tokens_done", "tokens_received", "tokens_per_s", "memory_rows", "passages", "eta_s")
    TOKENS_DONE_FIELD_NUMBER: _ClassVar[int]
    TOKENS_RECEIVED_FIELD_NUMBER: _ClassVar[int]
    TOKENS_PER_S_FIELD_NUMBER: _ClassVar[int]
    MEMORY_ROWS_FIELD_NUMBER: _ClassVar[int]
    PASSAGES_FIELD_NUMBER: _ClassVar[int]
    ETA_S_FIELD_NUMBER: _ClassVar[int]
    tokens_done: int
    tokens_received: int
    tokens_per_s: float
    memory_rows: int
    passages: int
    eta_s: float
    def __init__(self, tokens_done: _Optional[int] = ..., tokens_received: _Optional[int] = ..., tokens_per_s: _Optional[float] = ..., memory_rows: _Optional[int] = ..., passages: _Optional[int] = ..., eta_s: _Optional[float] = ...) -> None: ...

class MemorizeCommitted(_message.Message):
    __slots__ = ("memory", "seconds", "tokens_added", "replayed")
    MEMORY_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    TOKENS_ADDED_FIELD_NUMBER: _ClassVar[int]
    REPLAYED_FIELD_NUMBER: _ClassVar[int]
    memory: _memory_pb2.Memory
    seconds: float
    tokens_added: int
    replayed: bool
    def __init__(self, memory: _Optional[_Union[_memory_pb2.Memory, _Mapping]] = ..., seconds: _Optional[float] = ..., tokens_added: _Optional[int] = ..., replayed: _Optional[bool] = ...) -> None: ...

class SetResidencyRequest(_message.Message):
    __slots__ = ("name", "tier", "pinned")
    NAME_FIELD_NUMBER: _ClassVar[int]
    TIER_FIELD_NUMBER: _ClassVar[int]
    PINNED_FIELD_NUMBER: _ClassVar[int]
    name: _common_pb2.MemoryName
    tier: _common_pb2.Tier
    pinned: bool
    def __init__(self, name: _Optional[_Union[_common_pb2.MemoryName, _Mapping]] = ..., tier: _Optional[_Union[_common_pb2.Tier, str]] = ..., pinned: _Optional[bool] = ...) -> None: ...

class SetResidencyResponse(_message.Message):
    __slots__ = ("memory",)
    MEMORY_FIELD_NUMBER: _ClassVar[int]
    memory: _memory_pb2.Memory
    def __init__(self, memory: _Optional[_Union[_memory_pb2.Memory, _Mapping]] = ...) -> None: ...

class ExportMemoryRequest(_message.Message):
    __slots__ = ("memory",)
    MEMORY_FIELD_NUMBER: _ClassVar[int]
    memory: _common_pb2.MemoryRef
    def __init__(self, memory: _Optional[_Union[_common_pb2.MemoryRef, _Mapping]] = ...) -> None: ...

class ExportMemoryResponse(_message.Message):
    __slots__ = ("header", "data")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    header: ExportHeader
    data: bytes
    def __init__(self, header: _Optional[_Union[ExportHeader, _Mapping]] = ..., data: _Optional[bytes] = ...) -> None: ...

class ExportHeader(_message.Message):
    __slots__ = ("memory", "total_bytes", "format_version")
    MEMORY_FIELD_NUMBER: _ClassVar[int]
    TOTAL_BYTES_FIELD_NUMBER: _ClassVar[int]
    FORMAT_VERSION_FIELD_NUMBER: _ClassVar[int]
    memory: _common_pb2.MemoryRef
    total_bytes: int
    format_version: int
    def __init__(self, memory: _Optional[_Union[_common_pb2.MemoryRef, _Mapping]] = ..., total_bytes: _Optional[int] = ..., format_version: _Optional[int] = ...) -> None: ...

class ImportMemoryRequest(_message.Message):
    __slots__ = ("header", "data")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    header: ImportHeader
    data: bytes
    def __init__(self, header: _Optional[_Union[ImportHeader, _Mapping]] = ..., data: _Optional[bytes] = ...) -> None: ...

class ImportHeader(_message.Message):
    __slots__ = ("name", "total_bytes")
    NAME_FIELD_NUMBER: _ClassVar[int]
    TOTAL_BYTES_FIELD_NUMBER: _ClassVar[int]
    name: _common_pb2.MemoryName
    total_bytes: int
    def __init__(self, name: _Optional[_Union[_common_pb2.MemoryName, _Mapping]] = ..., total_bytes: _Optional[int] = ...) -> None: ...

class ImportMemoryResponse(_message.Message):
    __slots__ = ("memory",)
    MEMORY_FIELD_NUMBER: _ClassVar[int]
    memory: _memory_pb2.Memory
    def __init__(self, memory: _Optional[_Union[_memory_pb2.Memory, _Mapping]] = ...) -> None: ...
