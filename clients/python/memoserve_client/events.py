"""What queries tell while they run.

Offsets count from the start of the named source, half open, once in UTF-8 bytes and once in code
points. In every enum UNKNOWN is a word of a server newer than this client.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass

from memoserve_client.types import MemoryRef, Notice


class ClueKind(enum.Enum):
    """What the memory is asked for."""

    UNKNOWN = "unknown"
    SPAN = "span"
    SURROGATE = "surrogate"
    DRAFT_ANSWER = "draft_answer"
    KEY_POINT = "key_point"


class Task(enum.Enum):
    """What ``generate`` does."""

    MEMORAG = "memorag"
    MEMORY_ONLY = "memory_only"
    RETRIEVAL_ONLY = "retrieval_only"
    SUMMARIZE = "summarize"


class Fusion(enum.Enum):
    """How passages found by several queries become one list: document order, or by rank."""

    UNION = "union"
    RRF = "rrf"


class StageName(enum.Enum):
    """Stages of a query, in order."""

    UNKNOWN = "unknown"
    RECALL = "recall"
    RETRIEVE = "retrieve"
    GENERATE = "generate"


class FinishReason(enum.Enum):
    """Why an answer ended: by itself, at max_tokens, or because all evidence was quoted."""

    UNKNOWN = "unknown"
    STOP = "stop"
    LENGTH = "length"
    EVIDENCE = "evidence"


@dataclass(frozen=True)
class Stage:
    """A stage begins."""

    name: StageName


@dataclass(frozen=True)
class Clue:
    """One line the memory suggested. ``dropped`` says why it is not used, else empty."""

    kind: ClueKind
    text: str
    memory: MemoryRef
    dropped: str


@dataclass(frozen=True)
class Passage:
    """A piece of a source. ``index`` is its place in the memory's document order.

    ``score`` is what it was ranked by, ``signals`` the scores that went into it; higher is better,
    comparable within one answer only.
    """

    memory: MemoryRef
    index: int
    source_id: str
    text: str
    start_byte: int
    end_byte: int
    start_char: int
    end_char: int
    score: float
    signals: Mapping[str, float]


@dataclass(frozen=True)
class Token:
    """A piece of generated text, whole characters. ``clue_kind`` only while recalling."""

    text: str
    clue_kind: ClueKind | None


@dataclass(frozen=True)
class Quote:
    """A sentence of the evidence that the answer stands on."""

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
    """Tokens and seconds a query took; the last two are None where there was none."""

    prompt_tokens: int
    generated_tokens: int
    queue_s: float
    recall_s: float
    retrieve_s: float
    generate_s: float
    first_token_s: float | None
    first_clue_s: float | None


@dataclass(frozen=True)
class Final:
    """Last event. ``text`` is the whole answer; ``memories`` are the versions that were read."""

    text: str
    finish_reason: FinishReason | None
    usage: Usage
    memories: tuple[MemoryRef, ...]


RecallEvent = Stage | Clue | Token | Notice | Final
"""What ``recall`` tells, Final last."""

RetrieveEvent = Stage | Passage | Notice | Final
"""What ``retrieve`` tells, Final last."""

GenerateEvent = Stage | Clue | Passage | Token | Quote | Notice | Final
"""What ``generate`` tells, Final last."""
