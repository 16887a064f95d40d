"""Memories, servers and what a Memorize tells, as callers see them.

Lengths are in raw tokens unless a name says otherwise, sizes in bytes, times in seconds.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

DEFAULT_NAMESPACE = "default"


@dataclass(frozen=True, order=True)
class MemoryName:
    """Full name of a memory; ``namespace`` isolates tenants."""

    namespace: str
    memory_id: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.memory_id}"


@dataclass(frozen=True)
class MemoryRef:
    """A memory and which committed version of it; None is the newest."""

    name: MemoryName
    version: int | None = None

    def __str__(self) -> str:
        return str(self.name) if self.version is None else f"{self.name}@{self.version}"


NameLike = str | MemoryName
"""A memory's name: ``"id"`` (in the client's namespace), ``"namespace/id"`` or a MemoryName."""

RefLike = str | MemoryName | MemoryRef
"""A name, or a name and version: ``"id@3"``, ``"namespace/id@3"`` or a MemoryRef."""


def as_name(name: NameLike, namespace: str = DEFAULT_NAMESPACE) -> MemoryName:
    """Read a name; one without a namespace is in ``namespace``."""
    if isinstance(name, MemoryName):
        return name
    before, slash, after = name.rpartition("/")
    return MemoryName(before if slash else namespace, after)


def as_ref(ref: RefLike, namespace: str = DEFAULT_NAMESPACE) -> MemoryRef:
    """Read a reference. Raises ValueError when what follows "@" is no number."""
    if isinstance(ref, MemoryRef):
        return ref
    if isinstance(ref, MemoryName):
        return MemoryRef(ref)
    name, at, version = ref.partition("@")
    if at and not (version.isascii() and version.isdecimal()):
        raise ValueError(f"{ref!r}: after '@' stands the number of a version")
    return MemoryRef(as_name(name, namespace), int(version) if at else None)


class Tier(enum.Enum):
    """Where the pages of a memory are. UNKNOWN: this client is older than the server."""

    UNKNOWN = "unknown"
    COLD = "cold"
    HOST = "host"
    DEVICE = "device"


class Language(enum.Enum):
    """Language of the prompts. UNKNOWN: this client is older than the server."""

    UNKNOWN = "unknown"
    AUTO = "auto"
    EN = "en"
    ZH = "zh"


class WriteMode(enum.Enum):
    """APPEND goes on from the newest version, REPLACE starts from nothing."""

    APPEND = "append"
    REPLACE = "replace"


@dataclass(frozen=True)
class MemoryStats:
    """What one committed version holds and costs.

    ``memory_rows`` are sink and beacons, ``window_rows`` those of the open window, ``kv_bytes`` the
    bytes of their pages; ``full_kv_bytes`` is what all raw tokens would take uncompressed.
    """

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


@dataclass(frozen=True)
class Memory:
    """A memory. ``version`` 0 is created but never written; ``ratios`` are those used so far.

    ``etag`` sent back with update or delete makes it act only on the state that was read.
    """

    name: MemoryName
    version: int
    etag: str
    model: str
    ratio: int
    ratios: tuple[int, ...]
    window: int
    language: Language
    labels: Mapping[str, str]
    description: str
    create_time: datetime
    update_time: datetime
    tier: Tier
    pinned: bool
    stats: MemoryStats


@dataclass(frozen=True)
class Notice:
    """Something the caller should know; the call goes on. ``code`` is stable."""

    code: str
    message: str


@dataclass(frozen=True)
class Accepted:
    """The header was taken; ``ratio`` is settled from here on. ``memory`` is as before."""

    memory: Memory
    ratio: int
    capacity_tokens: int


@dataclass(frozen=True)
class Progress:
    """How far a Memorize has come. ``eta_s`` is None while the length is not known."""

    tokens_done: int
    tokens_received: int
    tokens_per_s: float
    memory_rows: int
    passages: int
    eta_s: float | None


@dataclass(frozen=True)
class Committed:
    """The version is on disk. ``replayed``: this request_id had been committed before."""

    memory: Memory
    seconds: float
    tokens_added: int
    replayed: bool


MemorizeEvent = Accepted | Progress | Notice | Committed
"""What a Memorize tells, Accepted first and Committed last."""


@dataclass(frozen=True)
class ModelInfo:
    """The memory model a server runs.

    ``card`` is what the checkpoint says of itself; ``clues_trusted`` whether by that its clues are
    good enough for retrieval.
    """

    name: str
    family: str
    fingerprint: str
    window: int
    ratios: tuple[int, ...]
    default_ratio: int
    max_positions: int
    layers: int
    kv_heads: int
    head_dim: int
    dtype: str
    card: str
    clues_trusted: bool


@dataclass(frozen=True)
class ServerInfo:
    """What a server is and can do."""

    version: str
    backend: str
    device: str
    model: ModelInfo
    generators: tuple[str, ...]
    default_generator: str
    embedder: str
    page_size: int
    pages_total: int
    pages_free: int
    max_message_bytes: int
    max_piece_bytes: int
    max_query_bytes: int
