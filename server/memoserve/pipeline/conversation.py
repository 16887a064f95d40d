"""The chat a memory is part of: the document in its first turn, each query in the last.

A memory holds [chat prefix + text]. The closing words, the acknowledgement and the instruction
are put behind it by each query on its own fork, so that a text can always be appended to.
"""

from __future__ import annotations

from dataclasses import dataclass

from memoserve.models.chat import Hole, Message, Prompt, Text, encode_prompt
from memoserve.models.stream_encoder import StreamEncoder
from memoserve.models.tokenizer import TextTokenizer
from memoserve.pipeline.contents import Contents
from memoserve.pipeline.prompts import Prompts

_TURN = "turn"


@dataclass(frozen=True)
class Conversation:
    """Prompts of one language in the checkpoint's chat template."""

    tokenizer: TextTokenizer
    prompts: Prompts

    def _around_document(self, *later: Message) -> tuple[Prompt, Prompt]:
        before_text, after_text = self.prompts.context.split("{context}")
        turns = [Message("user", Hole(_TURN)), Message("assistant", self.prompts.acknowledgement)]
        rendered = self.tokenizer.render_chat([*turns, *later], add_generation_prompt=True)
        before, after = rendered.split(_TURN)
        return (
            Prompt.of([*before.pieces, Text(before_text)]),
            Prompt.of([Text(after_text), *after.pieces]),
        )

    def open_document(self) -> tuple[list[int], StreamEncoder]:
        """Ids before the document, and the encoder that its text goes on with."""
        encoder = self.tokenizer.stream_encoder()
        before, _ = self._around_document(Message("user", ""))
        return encode_prompt(before, encoder), encoder

    def ask(self, contents: Contents, instruction: str) -> list[int]:
        """Ids that a query feeds behind a stored memory, its pending text first."""
        encoder = self.tokenizer.stream_encoder(
            contents.pending_text, at_segment_start=contents.at_segment_start
        )
        _, after = self._around_document(Message("user", instruction))
        return encode_prompt(after, encoder) + encoder.flush()
