from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Language(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    LANGUAGE_UNSPECIFIED: _ClassVar[Language]
    LANGUAGE_AUTO: _ClassVar[Language]
    LANGUAGE_EN: _ClassVar[Language]
    LANGUAGE_ZH: _ClassVar[Language]

class Tier(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    TIER_UNSPECIFIED: _ClassVar[Tier]
    TIER_COLD: _ClassVar[Tier]
    TIER_HOST: _ClassVar[Tier]
    TIER_DEVICE: _ClassVar[Tier]
LANGUAGE_UNSPECIFIED: Language
LANGUAGE_AUTO: Language
LANGUAGE_EN: Language
LANGUAGE_ZH: Language
TIER_UNSPECIFIED: Tier
TIER_COLD: Tier
TIER_HOST: Tier
TIER_DEVICE: Tier

class MemoryName(_message.Message):
    __slots__ = ("namespace", "memory_id")
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    MEMORY_ID_FIELD_NUMBER: _ClassVar[int]
    namespace: str
    memory_id: str
    def __init__(self, namespace: _Optional[str] = ..., memory_id: _Optional[str] = ...) -> None: ...

class MemoryRef(_message.Message):
    __slots__ = ("name", "version")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    name: MemoryName
    version: int
    def __init__(self, name: _Optional[_Union[MemoryName, _Mapping]] = ..., version: _Optional[int] = ...) -> None: ...

class Notice(_message.Message):
    __slots__ = ("code", "message")
    CODE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    code: str
    message: str
    def __init__(self, code: _Optional[str] = ..., message: _Optional[str] = ...) -> None: ...
