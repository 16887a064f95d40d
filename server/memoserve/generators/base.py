"""What every writer of answers takes and gives: plain frozen values.

Offsets are half open and count from the start of the source, once in code points and once in
UTF-8 bytes.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Literal, Protocol

from memoserve.engine.sampler import SamplingParams


@dataclass(frozen=True)
class Evidence:
    """A retrieved passage. ``memory`` is the place of its memory in the request."""

    text: str
    source_id: str
    start_char: int
    start_byte: int
    memory: int = 0
    score: float = 0.0


@dataclass(frozen=True)
class QuotedSentence:
    """A sentence of the evidence, word for word, with its place in the source.

    ``score`` lies between 0 and 1 for any question that the sentence has to do with.
    """

    text: str
    source_id: str
    start_char: int
    end_char: int
    start_byte: int
    end_byte: int
    memory: int
    score: float


@dataclass(frozen=True)
class GeneratedText:
    """The next piece of text that was written, whole characters only.

    The counts are those so far, for a caller that has read enough; 0 where nobody counts.
    """

    text: str
    prompt_tokens: int = 0
    generated_tokens: int = 0


FinishReason = Literal["stop", "length", "evidence", "no_evidence"]
"""Why an answer ended: a stop rule, the token limit, everything worth quoting was quoted, or
there was nothing to answer from."""


@dataclass(frozen=True)
class Finished:
    """Always the last item. ``queued_s`` until the engine began, where an engine was asked."""

    reason: FinishReason
    prompt_tokens: int = 0
    generated_tokens: int = 0
    queued_s: float = 0.0


AnswerItem = QuotedSentence | GeneratedText | Finished


@dataclass(frozen=True)
class AnswerRequest:
    """A question with its evidence, as such and filled into a prompt for models that write.

    ``deadline`` is on ``time.monotonic``'s clock.
    """

    question: str
    evidence: tuple[Evidence, ...]
    prompt: str
    sampling: SamplingParams
    deadline: float | None = None


class Generator(Protocol):
    """Writes the answer to a question from evidence."""

    @property
    def name(self) -> str:
        """Name that a request chooses it by."""

    def answer(self, request: AnswerRequest) -> AsyncGenerator[AnswerItem, None]:
        """Stream the answer; the last item is ``Finished``."""
