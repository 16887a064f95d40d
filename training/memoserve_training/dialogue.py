"""Ids of a context and of what is asked behind it, token for token as a server feeds them.

A tokenizer may join the last characters of a text with the words behind them. A memory therefore
ends before the characters that could still be joined; what is asked begins with them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from memoserve.models.chat import encode_prompt
from memoserve.models.stream_encoder import StreamEncoder
from memoserve.models.tokenizer import TextTokenizer
from memoserve_training.chat import Asked, Task, around_document


@dataclass(frozen=True)
class Context:
    """``ids`` of [chat prefix + text] and the state of the tokenizer behind them."""

    ids: tuple[int, ...]
    pending_text: str
    at_segment_start: bool


@dataclass(frozen=True)
class Dialogue:
    """A tokenizer with prompts in its chat template; ``line_start`` begins each written line."""

    text: TextTokenizer
    prompts: Mapping[str, Any]
    line_start: str = ""

    @property
    def end(self) -> int:
        """The id that ends what is written. Raises ValueError where the tokenizer has none."""
        if self.text.eos_id is None:
            raise ValueError("the tokenizer names no eos_token")
        return self.text.eos_id

    def context(self, text: str) -> Context:
        """What is memorized of a text."""
        encoder = self.text.stream_encoder()
        opening, _ = around_document(self.text, self.prompts, "")
        ids = [*encode_prompt(opening, encoder), *encoder.feed(text)]
        return Context(tuple(ids), encoder.pending_text, encoder.at_segment_start)

    def prompt(self, context: Context, task: Task, question: str) -> Asked:
        """What is asked behind a context; nothing is written yet."""
        asked, _ = self._closing(context, task, question)
        return Asked(asked, len(asked))

    def ask(self, context: Context, task: Task, question: str, written: str) -> Asked:
        """The same with what is to be written, and the end."""
        asked, encoder = self._closing(context, task, question)
        lines = "\n".join(self.line_start + line for line in written.split("\n"))
        answer = (*encoder.feed(lines), *encoder.flush(), self.end)
        return Asked((*asked, *answer), len(asked))

    def _closing(
        self, context: Context, task: Task, question: str
    ) -> tuple[tuple[int, ...], StreamEncoder]:
        encoder = self.text.stream_encoder(
            context.pending_text, at_segment_start=context.at_segment_start
        )
        instruction = self.prompts["clues"][task.value].replace("{input}", question)
        _, closing = around_document(self.text, self.prompts, instruction)
        return (*encode_prompt(closing, encoder), *encoder.flush()), encoder
