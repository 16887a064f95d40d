from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class GetServerInfoRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetServerInfoResponse(_message.Message):
    __slots__ = ("info",)
    INFO_FIELD_NUMBER: _ClassVar[int]
    info: ServerInfo
    def __init__(self, info: _Optional[_Union[ServerInfo, _Mapping]] = ...) -> None: ...

class ServerInfo(_message.Message):
    __slots__ = ("version", "backend", "device", "model", "generators", "default_generator", "embedder", "page_size", "pages_total", "pages_free", "max_message_bytes", "max_piece_bytes", "max_query_bytes")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    BACKEND_FIELD_NUMBER: _ClassVar[int]
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    GENERATORS_FIELD_NUMBER: _ClassVar[int]
    DEFAULT_GENERATOR_FIELD_NUMBER: _ClassVar[int]
    EMBEDDER_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGES_TOTAL_FIELD_NUMBER: _ClassVar[int]
    PAGES_FREE_FIELD_NUMBER: _ClassVar[int]
    MAX_MESSAGE_BYTES_FIELD_NUMBER: _ClassVar[int]
    MAX_PIECE_BYTES_FIELD_NUMBER: _ClassVar[int]
    MAX_QUERY_BYTES_FIELD_NUMBER: _ClassVar[int]
    version: str
    backend: str
    device: str
    model: ModelInfo
    generators: _containers.RepeatedScalarFieldContainer[str]
    default_generator: str
    embedder: str
    page_size: int
    pages_total: int
    pages_free: int
    max_message_bytes: int
    max_piece_bytes: int
    max_query_bytes: int
    def __init__(self, version: _Optional[str] = ..., backend: _Optional[str] = ..., device: _Optional[str] = ..., model: _Optional[_Union[ModelInfo, _Mapping]] = ..., generators: _Optional[_Iterable[str]] = ..., default_generator: _Optional[str] = ..., embedder: _Optional[str] = ..., page_size: _Optional[int] = ..., pages_total: _Optional[int] = ..., pages_free: _Optional[int] = ..., max_message_bytes: _Optional[int] = ..., max_piece_bytes: _Optional[int] = ..., max_query_bytes: _Optional[int] = ...) -> None: ...

class ModelInfo(_message.Message):
    __slots__ = ("name", "family", "fingerprint", "window", "ratios", "default_ratio", "max_positions", "layers", "kv_heads", "head_dim", "dtype", "card", "clues_trusted")
    NAME_FIELD_NUMBER: _ClassVar[int]
    FAMILY_FIELD_NUMBER: _ClassVar[int]
    FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    WINDOW_FIELD_NUMBER: _ClassVar[int]
    RATIOS_FIELD_NUMBER: _ClassVar[int]
    DEFAULT_RATIO_FIELD_NUMBER: _ClassVar[int]
    MAX_POSITIONS_FIELD_NUMBER: _ClassVar[int]
    LAYERS_FIELD_NUMBER: _ClassVar[int]
    KV_HEADS_FIELD_NUMBER: _ClassVar[int]
    HEAD_DIM_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    CARD_FIELD_NUMBER: _ClassVar[int]
    CLUES_TRUSTED_FIELD_NUMBER: _ClassVar[int]
    name: str
    family: str
    fingerprint: str
    window: int
    ratios: _containers.RepeatedScalarFieldContainer[int]
    default_ratio: int
    max_positions: int
    layers: int
    kv_heads: int
    head_dim: int
    dtype: str
    card: str
    clues_trusted: bool
    def __init__(self, name: _Optional[str] = ..., family: _Optional[str] = ..., fingerprint: _Optional[str] = ..., window: _Optional[int] = ..., ratios: _Optional[_Iterable[int]] = ..., default_ratio: _Optional[int] = ..., max_positions: _Optional[int] = ..., layers: _Optional[int] = ..., kv_heads: _Optional[int] = ..., head_dim: _Optional[int] = ..., dtype: _Optional[str] = ..., card: _Optional[str] = ..., clues_trusted: _Optional[bool] = ...) -> None: ...
