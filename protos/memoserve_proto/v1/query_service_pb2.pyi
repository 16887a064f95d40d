from memoserve_proto.v1 import common_pb2 as _common_pb2
from memoserve_proto.v1 import query_pb2 as _query_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class GenerateTask(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    GENERATE_TASK_UNSPECIFIED: _ClassVar[GenerateTask]
    GENERATE_TASK_MEMORAG: _ClassVar[GenerateTask]
    GENERATE_TASK_MEMORY_ONLY: _ClassVar[GenerateTask]
    GENERATE_TASK_RETRIEVAL_ONLY: _ClassVar[GenerateTask]
    GENERATE_TASK_SUMMARIZE: _ClassVar[GenerateTask]
GENERATE_TASK_UNSPECIFIED: GenerateTask
GENERATE_TASK_MEMORAG: GenerateTask
GENERATE_TASK_MEMORY_ONLY: GenerateTask
GENERATE_TASK_RETRIEVAL_ONLY: GenerateTask
GENERATE_TASK_SUMMARIZE: GenerateTask

class RecallRequest(_message.Message):
    __slots__ = ("memories", "query", "kinds", "sampling", "language", "return_dropped", "stream_tokens")
    MEMORIES_FIELD_NUMBER: _ClassVar[int]
    QUERY_FIELD_NUMBER: _ClassVar[int]
    KINDS_FIELD_NUMBER: _ClassVar[int]
    SAMPLING_FIELD_NUMBER: _ClassVar[int]
    LANGUAGE_FIELD_NUMBER: _ClassVar[int]
    RETURN_DROPPED_FIELD_NUMBER: _ClassVar[int]
    STREAM_TOKENS_FIELD_NUMBER: _ClassVar[int]
    memories: _containers.RepeatedCompositeFieldContainer[_common_pb2.MemoryRef]
    query: str
    kinds: _containers.RepeatedScalarFieldContainer[_query_pb2.ClueKind]
    sampling: _query_pb2.SamplingOptions
    language: _common_pb2.Language
    return_dropped: bool
    stream_tokens: bool
    def __init__(self, memories: _Optional[_Iterable[_Union[_common_pb2.MemoryRef, _Mapping]]] = ..., query: _Optional[str] = ..., kinds: _Optional[_Iterable[_Union[_query_pb2.ClueKind, str]]] = ..., sampling: _Optional[_Union[_query_pb2.SamplingOptions, _Mapping]] = ..., language: _Optional[_Union[_common_pb2.Language, str]] = ..., return_dropped: _Optional[bool] = ..., stream_tokens: _Optional[bool] = ...) -> None: ...

class RecallResponse(_message.Message):
    __slots__ = ("stage", "clue", "token", "notice", "final")
    STAGE_FIELD_NUMBER: _ClassVar[int]
    CLUE_FIELD_NUMBER: _ClassVar[int]
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    NOTICE_FIELD_NUMBER: _ClassVar[int]
    FINAL_FIELD_NUMBER: _ClassVar[int]
    stage: _query_pb2.Stage
    clue: _query_pb2.Clue
    token: _query_pb2.Token
    notice: _common_pb2.Notice
    final: _query_pb2.Final
    def __init__(self, stage: _Optional[_Union[_query_pb2.Stage, _Mapping]] = ..., clue: _Optional[_Union[_query_pb2.Clue, _Mapping]] = ..., token: _Optional[_Union[_query_pb2.Token, _Mapping]] = ..., notice: _Optional[_Union[_common_pb2.Notice, _Mapping]] = ..., final: _Optional[_Union[_query_pb2.Final, _Mapping]] = ...) -> None: ...

class RetrieveRequest(_message.Message):
    __slots__ = ("memories", "query", "clues", "top_k", "max_passages", "max_evidence_tokens", "fusion")
    MEMORIES_FIELD_NUMBER: _ClassVar[int]
    QUERY_FIELD_NUMBER: _ClassVar[int]
    CLUES_FIELD_NUMBER: _ClassVar[int]
    TOP_K_FIELD_NUMBER: _ClassVar[int]
    MAX_PASSAGES_FIELD_NUMBER: _ClassVar[int]
    MAX_EVIDENCE_TOKENS_FIELD_NUMBER: _ClassVar[int]
    FUSION_FIELD_NUMBER: _ClassVar[int]
    memories: _containers.RepeatedCompositeFieldContainer[_common_pb2.MemoryRef]
    query: str
    clues: _containers.RepeatedScalarFieldContainer[str]
    top_k: int
    max_passages: int
    max_evidence_tokens: int
    fusion: _query_pb2.Fusion
    def __init__(self, memories: _Optional[_Iterable[_Union[_common_pb2.MemoryRef, _Mapping]]] = ..., query: _Optional[str] = ..., clues: _Optional[_Iterable[str]] = ..., top_k: _Optional[int] = ..., max_passages: _Optional[int] = ..., max_evidence_tokens: _Optional[int] = ..., fusion: _Optional[_Union[_query_pb2.Fusion, str]] = ...) -> None: ...

class RetrieveResponse(_message.Message):
    __slots__ = ("stage", "passage", "notice", "final")
    STAGE_FIELD_NUMBER: _ClassVar[int]
    PASSAGE_FIELD_NUMBER: _ClassVar[int]
    NOTICE_FIELD_NUMBER: _ClassVar[int]
    FINAL_FIELD_NUMBER: _ClassVar[int]
    stage: _query_pb2.Stage
    passage: _query_pb2.Passage
    notice: _common_pb2.Notice
    final: _query_pb2.Final
    def __init__(self, stage: _Optional[_Union[_query_pb2.Stage, _Mapping]] = ..., passage: _Optional[_Union[_query_pb2.Passage, _Mapping]] = ..., notice: _Optional[_Union[_common_pb2.Notice, _Mapping]] = ..., final: _Optional[_Union[_query_pb2.Final, _Mapping]] = ...) -> None: ...

class GenerateRequest(_message.Message):
    __slots__ = ("memories", "query", "task", "generator", "template", "sampling", "language", "kinds", "top_k", "max_passages", "max_evidence_tokens", "fusion", "use_clues")
    MEMORIES_FIELD_NUMBER: _ClassVar[int]
    QUERY_FIELD_NUMBER: _ClassVar[int]
    TASK_FIELD_NUMBER: _ClassVar[int]
    GENERATOR_FIELD_NUMBER: _ClassVar[int]
    TEMPLATE_FIELD_NUMBER: _ClassVar[int]
    SAMPLING_FIELD_NUMBER: _ClassVar[int]
    LANGUAGE_FIELD_NUMBER: _ClassVar[int]
    KINDS_FIELD_NUMBER: _ClassVar[int]
    TOP_K_FIELD_NUMBER: _ClassVar[int]
    MAX_PASSAGES_FIELD_NUMBER: _ClassVar[int]
    MAX_EVIDENCE_TOKENS_FIELD_NUMBER: _ClassVar[int]
    FUSION_FIELD_NUMBER: _ClassVar[int]
    USE_CLUES_FIELD_NUMBER: _ClassVar[int]
    memories: _containers.RepeatedCompositeFieldContainer[_common_pb2.MemoryRef]
    query: str
    task: GenerateTask
    generator: str
    template: str
    sampling: _query_pb2.SamplingOptions
    language: _common_pb2.Language
    kinds: _containers.RepeatedScalarFieldContainer[_query_pb2.ClueKind]
    top_k: int
    max_passages: int
    max_evidence_tokens: int
    fusion: _query_pb2.Fusion
    use_clues: bool
    def __init__(self, memories: _Optional[_Iterable[_Union[_common_pb2.MemoryRef, _Mapping]]] = ..., query: _Optional[str] = ..., task: _Optional[_Union[GenerateTask, str]] = ..., generator: _Optional[str] = ..., template: _Optional[str] = ..., sampling: _Optional[_Union[_query_pb2.SamplingOptions, _Mapping]] = ..., language: _Optional[_Union[_common_pb2.Language, str]] = ..., kinds: _Optional[_Iterable[_Union[_query_pb2.ClueKind, str]]] = ..., top_k: _Optional[int] = ..., max_passages: _Optional[int] = ..., max_evidence_tokens: _Optional[int] = ..., fusion: _Optional[_Union[_query_pb2.Fusion, str]] = ..., use_clues: _Optional[bool] = ...) -> None: ...

class GenerateResponse(_message.Message):
    __slots__ = ("stage", "clue", "passage", "token", "quote", "notice", "final")
    STAGE_FIELD_NUMBER: _ClassVar[int]
    CLUE_FIELD_NUMBER: _ClassVar[int]
    PASSAGE_FIELD_NUMBER: _ClassVar[int]
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    QUOTE_FIELD_NUMBER: _ClassVar[int]
    NOTICE_FIELD_NUMBER: _ClassVar[int]
    FINAL_FIELD_NUMBER: _ClassVar[int]
    stage: _query_pb2.Stage
    clue: _query_pb2.Clue
    passage: _query_pb2.Passage
    token: _query_pb2.Token
    quote: _query_pb2.Quote
    notice: _common_pb2.Notice
    final: _query_pb2.Final
    def __init__(self, stage: _Optional[_Union[_query_pb2.Stage, _Mapping]] = ..., clue: _Optional[_Union[_query_pb2.Clue, _Mapping]] = ..., passage: _Optional[_Union[_query_pb2.Passage, _Mapping]] = ..., token: _Optional[_Union[_query_pb2.Token, _Mapping]] = ..., quote: _Optional[_Union[_query_pb2.Quote, _Mapping]] = ..., notice: _Optional[_Union[_common_pb2.Notice, _Mapping]] = ..., final: _Optional[_Union[_query_pb2.Final, _Mapping]] = ...) -> None: ...
