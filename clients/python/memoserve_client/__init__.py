"""Client of memoserve: memories of long texts, over gRPC.

    from memoserve_client import Client, Quote, Token

    with Client("127.0.0.1:50051") as client:
        client.memorize("book", open("book.txt", encoding="utf-8"))
        for event in client.generate("book", "Who opened the gate?"):
            if isinstance(event, Token):
                print(event.text, end="")
            elif isinstance(event, Quote):  # what the default generator writes
                print(event.text)

``AsyncClient`` has the same methods for asyncio. Results are frozen values, failures are the
exceptions of ``memoserve_client.errors``.
"""

from __future__ import annotations

from memoserve_client import errors
from memoserve_client._async.client import AsyncClient
from memoserve_client._async.stream import AsyncEventStream
from memoserve_client._sync.client import Client
from memoserve_client._sync.stream import EventStream
from memoserve_client.errors import MemoserveError
from memoserve_client.events import (
    Clue,
    ClueKind,
    Final,
    FinishReason,
    Fusion,
    GenerateEvent,
    Passage,
    Quote,
    RecallEvent,
    RetrieveEvent,
    Stage,
    StageName,
    Task,
    Token,
    Usage,
)
from memoserve_client.options import (
    GenerateOptions,
    MemorizeOptions,
    RecallOptions,
    RetrieveOptions,
    SamplingOptions,
)
from memoserve_client.text import Source
from memoserve_client.types import (
    Accepted,
    Committed,
    Language,
    MemorizeEvent,
    Memory,
    MemoryName,
    MemoryRef,
    MemoryStats,
    ModelInfo,
    NameLike,
    Notice,
    Progress,
    RefLike,
    ServerInfo,
    Tier,
    WriteMode,
)

__all__ = [
    "Accepted",
    "AsyncClient",
    "AsyncEventStream",
    "Client",
    "Clue",
    "ClueKind",
    "Committed",
    "EventStream",
    "Final",
    "FinishReason",
    "Fusion",
    "GenerateEvent",
    "GenerateOptions",
    "Language",
    "MemorizeEvent",
    "MemorizeOptions",
    "Memory",
    "MemoryName",
    "MemoryRef",
    "MemoryStats",
    "MemoserveError",
    "ModelInfo",
    "NameLike",
    "Notice",
    "Passage",
    "Progress",
    "Quote",
    "RecallEvent",
    "RecallOptions",
    "RefLike",
    "RetrieveEvent",
    "RetrieveOptions",
    "SamplingOptions",
    "ServerInfo",
    "Source",
    "Stage",
    "StageName",
    "Task",
    "Tier",
    "Token",
    "Usage",
    "WriteMode",
    "errors",
]
