"""Optional arguments of the larger calls. What is left out or None takes the server's default.

Keys are the fields of the request messages, where ranges and defaults are described.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypedDict

from memoserve_client.events import ClueKind, Fusion, Task
from memoserve_client.types import Language, WriteMode


@dataclass(frozen=True)
class SamplingOptions:
    """How tokens are drawn; None takes the checkpoint's own setting, then greedy."""

    max_tokens: int | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    repetition_penalty: float | None = None
    seed: int | None = None
    stop: tuple[str, ...] = ()


class MemorizeOptions(TypedDict, total=False):
    """Options of ``memorize``.

    mode: go on from the newest version (default) or start from nothing.
    request_id: a second call with the id of a committed one writes nothing and gets its result.
    expected_version: Aborted when the newest version is another one; 0 is "never written".
    expected_tokens: how long the text is about to be; lets the server tell the time left.
    ratio: raw tokens for each beacon; 0 compresses nothing.
    language: of a memory that this call creates.
    create_missing: create the memory when there is none (default True).
    allow_extrapolation: let the text pass the model's capacity.
    index: make passages for retrieval (default True).
    """

    mode: WriteMode | None
    request_id: str | None
    expected_version: int | None
    expected_tokens: int | None
    ratio: int | None
    language: Language | None
    create_missing: bool | None
    allow_extrapolation: bool | None
    index: bool | None


class RecallOptions(TypedDict, total=False):
    """Options of ``recall``.

    kinds: which clues (default spans and surrogate questions).
    sampling, language: how and in which language the memory is asked.
    return_dropped: also tell clues that are not used, with the reason.
    stream_tokens: also tell tokens as they are drawn.
    """

    kinds: Sequence[ClueKind] | None
    sampling: SamplingOptions | None
    language: Language | None
    return_dropped: bool | None
    stream_tokens: bool | None


class RetrieveOptions(TypedDict, total=False):
    """Options of ``retrieve``.

    clues: further texts to search with.
    top_k: passages for the query and for each clue (default 3).
    max_passages, max_evidence_tokens: caps after fusion; 0 is none.
    fusion: how the lists become one.
    """

    clues: Sequence[str] | None
    top_k: int | None
    max_passages: int | None
    max_evidence_tokens: int | None
    fusion: Fusion | None


class GenerateOptions(TypedDict, total=False):
    """Options of ``generate``; those of recall and retrieve mean the same here.

    task: what to do (default MEMORAG).
    generator: who writes the answer, one of ``info().generators``.
    template: prompt with ``{input}`` and ``{context}``.
    use_clues: retrieve with clues also when the model's card does not vouch for them, or never.
    """

    task: Task | None
    generator: str | None
    template: str | None
    sampling: SamplingOptions | None
    language: Language | None
    kinds: Sequence[ClueKind] | None
    top_k: int | None
    max_passages: int | None
    max_evidence_tokens: int | None
    fusion: Fusion | None
    use_clues: bool | None
