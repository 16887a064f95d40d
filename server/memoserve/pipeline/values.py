"""What goes in and out of the recipes: plain frozen values, no gRPC, no tensors.

Lengths are in raw tokens unless a name says otherwise; times in seconds; offsets count from
the start of the named source, half open, once in UTF-8 bytes and once in code points.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

from memoserve.memory.names import MemoryName as MemoryName

DEFAULT_NAMESPACE = "default"


@dataclass(frozen=True)
class MemoryRef:
    """A memory and, optionally, which committed version of it; None is the newest."""

    name: MemoryName
    version: int | None = None


class Tier(enum.Enum):
    """Where the pages of a memory are now."""

    COLD = "cold"
    HOST = "host"
    DEVICE = "device"


class Language(enum.Enum):
    """Language of the prompts; AUTO looks at the script of the text."""

    AUTO = "auto"
    EN = "en"
    ZH = "zh"


@dataclass(frozen=True)
class MemoryStats:
    """What one committed version holds and costs."""

    raw_tokens: int = 0
    memory_rows: int = 0
    window_rows: int = 0
    windows_closed: int = 0
    pages: int = 0
    wasted_slots: int = 0
    kv_bytes: int = 0
    full_kv_bytes: int = 0
    stored_bytes: int = 0
    text_bytes: int = 0
    sources: int = 0
    passages: int = 0
    capacity_tokens: int = 0


@dataclass(frozen=True)
class MemoryView:
    """A memory as callers see it. ``version`` 0 is created but never written."""

    name: MemoryName
    version: int
    etag: str
    model: str
    ratio: int
    ratios: tuple[int, ...]
    window: int
    language: Language
    labels: dict[str, str]
    description: str
    created_unix_s: float
    updated_unix_s: float
    tier: Tier
    pinned: bool
    stats: MemoryStats


@dataclass(frozen=True)
class CreateSpec:
    """What CreateMemory asks for. ``ratio`` None takes the server's default."""

    name: MemoryName
    ratio: int | None = None
    language: Language = Language.AUTO
    labels: dict[str, str] = field(default_factory=dict)
    description: str = ""


class WriteMode(enum.Enum):
    """APPEND goes on from the newest version, REPLACE starts from nothing."""

    APPEND = "append"
    REPLACE = "replace"


@dataclass(frozen=True)
class MemorizeHeader:
    """First message of a Memorize stream.

    ``create_missing`` makes the memory when it does not exist yet. ``expected_version`` None
    accepts any. ``expected_tokens`` is a hint from which a ratio policy that looks at the length
    is settled. ``allow_extrapolation`` lets a text pass the model's capacity.
    """

    name: MemoryName
    mode: WriteMode = WriteMode.APPEND
    request_id: str = ""
    expected_version: int | None = None
    expected_tokens: int | None = None
    ratio: int | None = None
    language: Language = Language.AUTO
    create_missing: bool = True
    allow_extrapolation: bool = False
    index: bool = True


@dataclass(frozen=True)
class TextPiece:
    """A piece of a source's text; a new ``source_id`` starts a new source."""

    source_id: str
    text: str


@dataclass(frozen=True)
class Accepted:
    """The header was taken; ``ratio`` is settled from here on."""

    memory: MemoryView
    ratio: int
    capacity_tokens: int


@dataclass(frozen=True)
class Progress:
    """How far a Memorize has come. ``eta_s`` is None while the length is unknown."""

    tokens_done: int
    tokens_received: int
    tokens_per_s: float
    memory_rows: int
    passages: int
    eta_s: float | None


@dataclass(frozen=True)
class Notice:
    """Something the caller should know; the call goes on. ``code`` is stable."""

    code: str
    message: str


@dataclass(frozen=True)
class Committed:
    """The version is on disk. ``replayed`` when the request_id had been committed before."""

    memory: MemoryView
    seconds: float
    tokens_added: int
    replayed: bool = False


MemorizeEvent = Accepted | Progress | Notice | Committed


@dataclass(frozen=True)
class SamplingOptions:
    """How tokens are drawn; None takes the checkpoint's generation_config, then greedy."""

    max_tokens: int | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    repetition_penalty: float | None = None
    seed: int | None = None
    stop: tuple[str, ...] = ()


class ClueKind(enum.Enum):
    """What the memory is asked for (MemoRAG's tasks)."""

    SPAN = "span"
    SURROGATE = "surrogate"
    DRAFT_ANSWER = "draft_answer"
    KEY_POINT = "key_point"


@dataclass(frozen=True)
class Clue:
    """One line the memory suggested. ``dropped`` says why it is not used, else empty."""

    kind: ClueKind
    text: str
    memory: MemoryRef
    dropped: str = ""


@dataclass(frozen=True)
class Passage:
    """A piece of a source. ``index`` is its place in the memory's document order."""

    memory: MemoryRef
    index: int
    source_id: str
    text: str
    start_byte: int
    end_byte: int
    start_char: int
    end_char: int
    score: float
    signals: dict[str, float]


@dataclass(frozen=True)
class Token:
    """A piece of generated text (whole characters only). ``clue_kind`` while recalling."""

    text: str
    clue_kind: ClueKind | None = None


class StageName(enum.Enum):
    """Stages of a query, in order."""

    RECALL = "recall"
    RETRIEVE = "retrieve"
    GENERATE = "generate"


@dataclass(frozen=True)
class Stage:
    """A stage begins."""

    name: StageName


@dataclass(frozen=True)
class Quote:
    """A sentence of the evidence that the answer stands on, with its place in the source."""

    memory: MemoryRef
    source_id: str
    text: str
    start_byte: int
    end_byte: int
    start_char: int
    end_char: int
    score: float


@dataclass(frozen=True)
class Usage:
    """Tokens and seconds a query took. ``first_clue_s`` is None where nothing was recalled."""

    prompt_tokens: int = 0
    generated_tokens: int = 0
    queue_s: float = 0.0
    recall_s: float = 0.0
    retrieve_s: float = 0.0
    generate_s: float = 0.0
    first_token_s: float | None = None
    first_clue_s: float | None = None


@dataclass(frozen=True)
class Final:
    """Last event of a query. ``finish_reason``: stop, length, or evidence (quote generator)."""

    text: str
    finish_reason: str
    usage: Usage
    memories: tuple[MemoryRef, ...]


QueryEvent = Stage | Clue | Passage | Token | Quote | Notice | Final


class Task(enum.Enum):
    """What Generate does."""

    MEMORAG = "memorag"
    MEMORY_ONLY = "memory_only"
    RETRIEVAL_ONLY = "retrieval_only"
    SUMMARIZE = "summarize"


@dataclass(frozen=True)
class RecallQuery:
    """Ask memories for clues. ``query`` may be empty for KEY_POINT alone."""

    memories: tuple[MemoryRef, ...]
    query: str
    kinds: tuple[ClueKind, ...] = (ClueKind.SPAN, ClueKind.SURROGATE)
    sampling: SamplingOptions = SamplingOptions()
    language: Language = Language.AUTO
    return_dropped: bool = False
    stream_tokens: bool = False


@dataclass(frozen=True)
class RetrieveQuery:
    """Search passages with the query and further clues. ``fusion``: "union" or "rrf"."""

    memories: tuple[MemoryRef, ...]
    query: str
    clues: tuple[str, ...] = ()
    top_k: int = 3
    max_passages: int = 0
    max_tokens: int = 0
    fusion: str = "union"


@dataclass(frozen=True)
class GenerateQuery:
    """Answer, or summarize. ``template`` holds {input} and {context}; empty takes ours."""

    memories: tuple[MemoryRef, ...]
    query: str
    task: Task = Task.MEMORAG
    generator: str = ""
    template: str = ""
    sampling: SamplingOptions = SamplingOptions()
    language: Language = Language.AUTO
    kinds: tuple[ClueKind, ...] = (ClueKind.SPAN, ClueKind.SURROGATE)
    top_k: int = 3
    max_passages: int = 0
    max_tokens: int = 0
    fusion: str = "union"
    use_clues: bool | None = None


@dataclass(frozen=True)
class ModelInfo:
    """The memory model a server runs."""

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
    """What GetServerInfo tells."""

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
