"""Cuts a text that arrives in pieces into passages that the embedder sees whole.

Borders are chosen by ``semantic-text-splitter`` (paragraphs, then sentences, then words), sizes
are counted by the embedder's own tokenizer, special tokens included.

Law: any split of the same text into pieces gives the same chunks. The text is therefore worked
off in blocks whose places depend on the text alone, never on where a piece happened to end.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from semantic_text_splitter import TextSplitter

from memoserve.errors import InvalidArgument

CHUNKER_VERSION = 1
"""Grows whenever the same text would be cut elsewhere; stored beside the passages."""


@dataclass(frozen=True)
class ChunkLimits:
    """Upper bounds of one chunk, and the size of the blocks the text is worked off in.

    ``max_tokens`` counts as the embedder does; 128 is the length MiniLM was trained at, and finds
    the planted sentences of the sample corpus more often than 256. ``max_chars`` is there because
    a tokenizer may turn a word of any length into one unknown token, which would hide the text
    behind it. ``block_chars`` trades latency for memory; borders depend on it, so it belongs to
    the format.
    """

    max_tokens: int = 128
    max_chars: int = 2048
    block_chars: int = 16384

    def __post_init__(self) -> None:
        if self.max_tokens < 8:
            raise InvalidArgument("max_tokens", f"must be at least 8, not {self.max_tokens}")
        if self.max_chars < 8:
            raise InvalidArgument("max_chars", f"must be at least 8, not {self.max_chars}")
        if self.block_chars < 2 * self.max_chars:
            raise InvalidArgument(
                "block_chars", f"must hold two chunks of {self.max_chars}, not {self.block_chars}"
            )


@dataclass(frozen=True)
class Chunk:
    """A piece of a source: ``text == source[start_char:end_char]``.

    Offsets are half open and count from the start of the source, once in code points and once in
    UTF-8 bytes. ``tokens`` is the embedder's count, special tokens included.
    """

    source_id: str
    text: str
    start_char: int
    end_char: int
    start_byte: int
    end_byte: int
    tokens: int


class StreamChunker:
    """Chunks of one source, in order, without overlap, with only whitespace between them.

    ``count_tokens`` tells how many tokens the embedder makes of a text. ``start_char`` and
    ``start_byte`` place the first character fed, for a source that is being continued.
    """

    def __init__(
        self,
        source_id: str,
        count_tokens: Callable[[str], int],
        limits: ChunkLimits | None = None,
        *,
        start_char: int = 0,
        start_byte: int = 0,
    ) -> None:
        self._source_id = source_id
        self._limits = limits or ChunkLimits()
        self._count_tokens = count_tokens
        self._splitter = TextSplitter.from_callback(self._size, self._limits.max_tokens)
        self._buffer = ""
        self._char = start_char
        self._byte = start_byte
        self._finished = False

    def feed(self, text: str) -> list[Chunk]:
        """Take the next piece; return the chunks that no further text can change.

        Raises:
            InvalidArgument: the text has no UTF-8 form (lone surrogates).
        """
        if self._finished:
            raise ValueError("fed after finish")
        _require_utf8(text)
        block_chars = self._limits.block_chars
        chunks: list[Chunk] = []
        for start in range(0, len(text), block_chars):  # keeps the buffer below two blocks
            self._buffer += text[start : start + block_chars]
            while len(self._buffer) >= block_chars:
                chunks += self._cut_block()
        return chunks

    def finish(self) -> list[Chunk]:
        """The text has ended; return the chunks still held back."""
        self._finished = True
        return self._take(self._split(self._buffer), len(self._buffer))

    def _cut_block(self) -> list[Chunk]:
        """Cut one whole block; its last chunk stays, for what follows may belong to it."""
        block = self._buffer[: self._limits.block_chars]
        spans = self._split(block)
        if not spans:  # whitespace alone
            return self._take([], len(block))
        if len(spans) == 1 and spans[0][0] == 0:  # a chunk and whitespace up to the block's end
            return self._take(spans, spans[0][1])
        return self._take(spans[:-1], spans[-1][0])

    def _split(self, block: str) -> list[tuple[int, int]]:
        """Half-open character spans of the chunks of ``block``."""
        found = self._splitter.chunk_indices(block)
        return [(start, start + len(text)) for start, text in found]

    def _take(self, spans: list[tuple[int, int]], consumed: int) -> list[Chunk]:
        """Turn spans of the buffer into chunks and drop its first ``consumed`` characters."""
        chunks: list[Chunk] = []
        char, byte = 0, self._byte
        for start, end in spans:
            start_byte = byte + _utf8_len(self._buffer[char:start])
            text = self._buffer[start:end]
            byte = start_byte + _utf8_len(text)
            char = end
            chunks.append(
                Chunk(
                    source_id=self._source_id,
                    text=text,
                    start_char=self._char + start,
                    end_char=self._char + end,
                    start_byte=start_byte,
                    end_byte=byte,
                    tokens=self._count_tokens(text),
                )
            )
        self._byte = byte + _utf8_len(self._buffer[char:consumed])
        self._char += consumed
        self._buffer = self._buffer[consumed:]
        return chunks

    def _size(self, text: str) -> int:
        """Tokens, or characters scaled so that both bounds meet at ``max_tokens``."""
        by_chars = -(-len(text) * self._limits.max_tokens // self._limits.max_chars)
        return max(self._count_tokens(text), by_chars)


def _utf8_len(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8"))


def _require_utf8(text: str) -> None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise InvalidArgument("text", "holds a lone surrogate, which has no UTF-8 form") from error
