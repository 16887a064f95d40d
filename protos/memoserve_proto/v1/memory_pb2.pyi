import datetime

from google.protobuf import timestamp_pb2 as _timestamp_pb2
from memoserve_proto.v1 import common_pb2 as _common_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Memory(_message.Message):
    __slots__ = ("name", "version", "etag", "model", "ratio", "ratios", "window", "language", "labels", "description", "create_time", "update_time", "tier", "pinned", "stats")
    class LabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    NAME_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    ETAG_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    RATIO_FIELD_NUMBER: _ClassVar[int]
    RATIOS_FIELD_NUMBER: _ClassVar[int]
    WINDOW_FIELD_NUMBER: _ClassVar[int]
    LANGUAGE_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    UPDATE_TIME_FIELD_NUMBER: _ClassVar[int]
    TIER_FIELD_NUMBER: _ClassVar[int]
    PINNED_FIELD_NUMBER: _ClassVar[int]
    STATS_FIELD_NUMBER: _ClassVar[int]
    name: _common_pb2.MemoryName
    version: int
    etag: str
    model: str
    ratio: int
    ratios: _containers.RepeatedScalarFieldContainer[int]
    window: int
    language: _common_pb2.Language
    labels: _containers.ScalarMap[str, str]
    description: str
    create_time: _timestamp_pb2.Timestamp
    update_time: _timestamp_pb2.Timestamp
    tier: _common_pb2.Tier
    pinned: bool
    stats: MemoryStats
    def __init__(self, name: _Optional[_Union[_common_pb2.MemoryName, _Mapping]] = ..., version: _Optional[int] = ..., etag: _Optional[str] = ..., model: _Optional[str] = ..., ratio: _Optional[int] = ..., ratios: _Optional[_Iterable[int]] = ..., window: _Optional[int] = ..., language: _Optional[_Union[_common_pb2.Language, str]] = ..., labels: _Optional[_Mapping[str, str]] = ..., description: _Optional[str] = ..., create_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., update_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., tier: _Optional[_Union[_common_pb2.Tier, str]] = ..., pinned: _Optional[bool] = ..., stats: _Optional[_Union[MemoryStats, _Mapping]] = ...) -> None: ...

class MemoryStats(_message.Message):
    __slots__ = ("raw_tokens", "memory_rows", "window_rows", "windows_closed", "pages", "wasted_slots", "kv_bytes", "full_kv_bytes", "stored_bytes", "text_bytes", "sources", "passages", "capacity_tokens")
    RAW_TOKENS_FIELD_NUMBER: _ClassVar[int]
    MEMORY_ROWS_FIELD_NUMBER: _ClassVar[int]
    WINDOW_ROWS_FIELD_NUMBER: _ClassVar[int]
    WINDOWS_CLOSED_FIELD_NUMBER: _ClassVar[int]
    PAGES_FIELD_NUMBER: _ClassVar[int]
    WASTED_SLOTS_FIELD_NUMBER: _ClassVar[int]
    KV_BYTES_FIELD_NUMBER: _ClassVar[int]
    FULL_KV_BYTES_FIELD_NUMBER: _ClassVar[int]
    STORED_BYTES_FIELD_NUMBER: _ClassVar[int]
    TEXT_BYTES_FIELD_NUMBER: _ClassVar[int]
    SOURCES_FIELD_NUMBER: _ClassVar[int]
    PASSAGES_FIELD_NUMBER: _ClassVar[int]
    CAPACITY_TOKENS_FIELD_NUMBER: _ClassVar[int]
    raw_tokens: int
    memory_rows: int
    window_rows: int
    windows_closed: int
    pages: int
    wasted_slots: int
    kv_bytes: int
    full_kv_bytes: int
    stored_bytes: int
    text_bytes: int
    sources: int
    passages: int
    capacity_tokens: int
    def __init__(self, raw_tokens: _Optional[int] = ..., memory_rows: _Optional[int] = ..., window_rows: _Optional[int] = ..., windows_closed: _Optional[int] = ..., pages: _Optional[int] = ..., wasted_slots: _Optional[int] = ..., kv_bytes: _Optional[int] = ..., full_kv_bytes: _Optional[int] = ..., stored_bytes: _Optional[int] = ..., text_bytes: _Optional[int] = ..., sources: _Optional[int] = ..., passages: _Optional[int] = ..., capacity_tokens: _Optional[int] = ...) -> None: ...
