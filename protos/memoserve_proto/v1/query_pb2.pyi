from memoserve_proto.v1 import common_pb2 as _common_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ClueKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    CLUE_KIND_UNSPECIFIED: _ClassVar[ClueKind]
    CLUE_KIND_SPAN: _ClassVar[ClueKind]
    CLUE_KIND_SURROGATE: _ClassVar[ClueKind]
    CLUE_KIND_DRAFT_ANSWER: _ClassVar[ClueKind]
    CLUE_KIND_KEY_POINT: _ClassVar[ClueKind]

class Fusion(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    FUSION_UNSPECIFIED: _ClassVar[Fusion]
    FUSION_UNION: _ClassVar[Fusion]
    FUSION_RRF: _ClassVar[Fusion]

class StageName(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    STAGE_NAME_UNSPECIFIED: _ClassVar[StageName]
    STAGE_NAME_RECALL: _ClassVar[StageName]
    STAGE_NAME_RETRIEVE: _ClassVar[StageName]
    STAGE_NAME_GENERATE: _ClassVar[StageName]

class FinishReason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    FINISH_REASON_UNSPECIFIED: _ClassVar[FinishReason]
    FINISH_REASON_STOP: _ClassVar[FinishReason]
    FINISH_REASON_LENGTH: _ClassVar[FinishReason]
    FINISH_REASON_EVIDENCE: _ClassVar[FinishReason]
CLUE_KIND_UNSPECIFIED: ClueKind
CLUE_KIND_SPAN: ClueKind
CLUE_KIND_SURROGATE: ClueKind
CLUE_KIND_DRAFT_ANSWER: ClueKind
CLUE_KIND_KEY_POINT: ClueKind
FUSION_UNSPECIFIED: Fusion
FUSION_UNION: Fusion
FUSION_RRF: Fusion
STAGE_NAME_UNSPECIFIED: StageName
STAGE_NAME_RECALL: StageName
STAGE_NAME_RETRIEVE: StageName
STAGE_NAME_GENERATE: StageName
FINISH_REASON_UNSPECIFIED: FinishReason
FINISH_REASON_STOP: FinishReason
FINISH_REASON_LENGTH: FinishReason
FINISH_REASON_EVIDENCE: FinishReason

class SamplingOptions(_message.Message):
    __slots__ = ("max_tokens", "temperature", "top_k", "top_p", "repetition_penalty", "seed", "stop")
    MAX_TOKENS_FIELD_NUMBER: _ClassVar[int]
    TEMPERATURE_FIELD_NUMBER: _ClassVar[int]
    TOP_K_FIELD_NUMBER: _ClassVar[int]
    TOP_P_FIELD_NUMBER: _ClassVar[int]
    REPETITION_PENALTY_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    STOP_FIELD_NUMBER: _ClassVar[int]
    max_tokens: int
    temperature: float
    top_k: int
    top_p: float
    repetition_penalty: float
    seed: int
    stop: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, max_tokens: _Optional[int] = ..., temperature: _Optional[float] = ..., top_k: _Optional[int] = ..., top_p: _Optional[float] = ..., repetition_penalty: _Optional[float] = ..., seed: _Optional[int] = ..., stop: _Optional[_Iterable[str]] = ...) -> None: ...

class Stage(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: StageName
    def __init__(self, name: _Optional[_Union[StageName, str]] = ...) -> None: ...

class Clue(_message.Message):
    __slots__ = ("kind", "text", "memory", "dropped")
    KIND_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    MEMORY_FIELD_NUMBER: _ClassVar[int]
    DROPPED_FIELD_NUMBER: _ClassVar[int]
    kind: ClueKind
    text: str
    memory: _common_pb2.MemoryRef
    dropped: str
    def __init__(self, kind: _Optional[_Union[ClueKind, str]] = ..., text: _Optional[str] = ..., memory: _Optional[_Union[_common_pb2.MemoryRef, _Mapping]] = ..., dropped: _Optional[str] = ...) -> None: ...

class Passage(_message.Message):
    __slots__ = ("memory", "index", "source_id", "text", "start_byte", "end_byte", "start_char", "end_char", "score", "signals")
    class SignalsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    MEMORY_FIELD_NUMBER: _ClassVar[int]
    INDEX_FIELD_NUMBER: _ClassVar[int]
    SOURCE_ID_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    START_BYTE_FIELD_NUMBER: _ClassVar[int]
    END_BYTE_FIELD_NUMBER: _ClassVar[int]
    START_CHAR_FIELD_NUMBER: _ClassVar[int]
    END_CHAR_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    SIGNALS_FIELD_NUMBER: _ClassVar[int]
    memory: _common_pb2.MemoryRef
    index: int
    source_id: str
    text: str
    start_byte: int
    end_byte: int
    start_char: int
    end_char: int
    score: float
    signals: _containers.ScalarMap[str, float]
    def __init__(self, memory: _Optional[_Union[_common_pb2.MemoryRef, _Mapping]] = ..., index: _Optional[int] = ..., source_id: _Optional[str] = ..., text: _Optional[str] = ..., start_byte: _Optional[int] = ..., end_byte: _Optional[int] = ..., start_char: _Optional[int] = ..., end_char: _Optional[int] = ..., score: _Optional[float] = ..., signals: _Optional[_Mapping[str, float]] = ...) -> None: ...

class Quote(_message.Message):
    __slots__ = ("memory", "source_id", "text", "start_byte", "end_byte", "start_char", "end_char", "score")
    MEMORY_FIELD_NUMBER: _ClassVar[int]
    SOURCE_ID_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    START_BYTE_FIELD_NUMBER: _ClassVar[int]
    END_BYTE_FIELD_NUMBER: _ClassVar[int]
    START_CHAR_FIELD_NUMBER: _ClassVar[int]
    END_CHAR_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    memory: _common_pb2.MemoryRef
    source_id: str
    text: str
    start_byte: int
    end_byte: int
    start_char: int
    end_char: int
    score: float
    def __init__(self, memory: _Optional[_Union[_common_pb2.MemoryRef, _Mapping]] = ..., source_id: _Optional[str] = ..., text: _Optional[str] = ..., start_byte: _Optional[int] = ..., end_byte: _Optional[int] = ..., start_char: _Optional[int] = ..., end_char: _Optional[int] = ..., score: _Optional[float] = ...) -> None: ...

class Token(_message.Message):
    __slots__ = ("text", "clue_kind")
    TEXT_FIELD_NUMBER: _ClassVar[int]
    CLUE_KIND_FIELD_NUMBER: _ClassVar[int]
    text: str
    clue_kind: ClueKind
    def __init__(self, text: _Optional[str] = ..., clue_kind: _Optional[_Union[ClueKind, str]] = ...) -> None: ...

class Usage(_message.Message):
    __slots__ = ("prompt_tokens", "generated_tokens", "queue_s", "recall_s", "retrieve_s", "generate_s", "first_token_s", "first_clue_s")
    PROMPT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    GENERATED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    QUEUE_S_FIELD_NUMBER: _ClassVar[int]
    RECALL_S_FIELD_NUMBER: _ClassVar[int]
    RETRIEVE_S_FIELD_NUMBER: _ClassVar[int]
    GENERATE_S_FIELD_NUMBER: _ClassVar[int]
    FIRST_TOKEN_S_FIELD_NUMBER: _ClassVar[int]
    FIRST_CLUE_S_FIELD_NUMBER: _ClassVar[int]
    prompt_tokens: int
    generated_tokens: int
    queue_s: float
    recall_s: float
    retrieve_s: float
    generate_s: float
    first_token_s: float
    first_clue_s: float
    def __init__(self, prompt_tokens: _Optional[int] = ..., generated_tokens: _Optional[int] = ..., queue_s: _Optional[float] = ..., recall_s: _Optional[float] = ..., retrieve_s: _Optional[float] = ..., generate_s: _Optional[float] = ..., first_token_s: _Optional[float] = ..., first_clue_s: _Optional[float] = ...) -> None: ...

class Final(_message.Message):
    __slots__ = ("text", "finish_reason", "usage", "memories")
    TEXT_FIELD_NUMBER: _ClassVar[int]
    FINISH_REASON_FIELD_NUMBER: _ClassVar[int]
    USAGE_FIELD_NUMBER: _ClassVar[int]
    MEMORIES_FIELD_NUMBER: _ClassVar[int]
    text: str
    finish_reason: FinishReason
    usage: Usage
    memories: _containers.RepeatedCompositeFieldContainer[_common_pb2.MemoryRef]
    def __init__(self, text: _Optional[str] = ..., finish_reason: _Optional[_Union[FinishReason, str]] = ..., usage: _Optional[_Union[Usage, _Mapping]] = ..., memories: _Optional[_Iterable[_Union[_common_pb2.MemoryRef, _Mapping]]] = ...) -> None: ...
