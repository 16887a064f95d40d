"""Text to ids and back for one checkpoint, whole or in a stream."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from memoserve.models.chat import ChatTemplate, Message, Prompt
from memoserve.models.stream_decoder import StreamDecoder, TokenTable, decode_rules
from memoserve.models.stream_encoder import StreamEncoder
from memoserve.models.token_family import TextCodec, build_codec
from memoserve.models.tokenizer_files import AddedToken, TokenizerFiles, read_tokenizer_files


@dataclass(frozen=True)
class TextTokenizer:
    """A tokenizer, frozen after loading; may be shared by threads.

    ``vocab_size`` is one more than the greatest id. ``special_ids`` are the ids a model may use
    as marks; no text encodes to one. ``fingerprint``: sha256 in hex over tokenizer.json and the
    chat template. ``named_ids`` maps "bos_token", "eos_token", ... to ids where they are defined.
    """

    codec: TextCodec
    table: TokenTable
    chat: ChatTemplate
    vocab_size: int
    special_ids: frozenset[int]
    named_ids: dict[str, int]
    fingerprint: str

    @classmethod
    def from_directory(cls, directory: str | Path) -> TextTokenizer:
        """Load a Hugging Face directory. Raises InvalidArgument with the name of the bad file."""
        files = read_tokenizer_files(directory)
        codec = build_codec(files)
        named_ids = _named_ids(files)
        return cls(
            codec=codec,
            table=TokenTable(codec.first, files.added, decode_rules(files.spec.get("decoder"))),
            chat=_chat(files, named_ids),
            vocab_size=1 + max((*files.spec["model"]["vocab"].values(), *files.added), default=-1),
            special_ids=frozenset(token.id for token in files.added.values() if token.special),
            named_ids=named_ids,
            fingerprint=files.fingerprint,
        )

    @property
    def bounded(self) -> bool:
        """Whether a StreamEncoder's held tail is bounded for ordinary text (see models.seams)."""
        return self.codec.seams.bounded

    @property
    def eos_id(self) -> int | None:
        """The id that ends an answer, where the tokenizer names one."""
        return self.named_ids.get("eos_token")

    def encode(self, text: str) -> list[int]:
        """Ids of a whole text, without BOS or EOS; strings of special tokens are ordinary text."""
        return self.codec.encode(text)

    def decode(self, ids: Iterable[int], *, skip_special: bool = True) -> str:
        """The text of all ids, broken characters as U+FFFD (see StreamDecoder)."""
        decoder = self.stream_decoder(skip_special=skip_special)
        return decoder.feed_all(ids) + decoder.flush()

    def stream_encoder(
        self, pending_text: str = "", *, at_segment_start: bool = True
    ) -> StreamEncoder:
        """A StreamEncoder at the start of a text, or going on from a stored state."""
        return StreamEncoder(self.codec, pending_text, at_segment_start)

    def stream_decoder(
        self, *, skip_special: bool = True, continuation: bool = False
    ) -> StreamDecoder:
        """A StreamDecoder; ``continuation`` keeps the space a new text would lose at its start."""
        return StreamDecoder(self.table, skip_special=skip_special, continuation=continuation)

    def render_chat(self, messages: Sequence[Message], *, add_generation_prompt: bool) -> Prompt:
        """Turns by the checkpoint's chat template (see ChatTemplate)."""
        return self.chat.render(messages, add_generation_prompt)


def _named_ids(files: TokenizerFiles) -> dict[str, int]:
    by_content: dict[str, int] = {**files.spec["model"]["vocab"]}
    by_content |= {token.content: token.id for token in files.added.values()}
    return {
        name: by_content[content] for name, content in files.named.items() if content in by_content
    }


def _chat(files: TokenizerFiles, named_ids: dict[str, int]) -> ChatTemplate:
    added: dict[int, AddedToken] = files.added
    bos = named_ids.get("bos_token") if files.adds_bos else None
    return ChatTemplate(files.chat_template, files.named, added, bos)
