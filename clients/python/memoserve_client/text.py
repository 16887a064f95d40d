"""From a caller's text to pieces that fit into messages.

Law: the pieces of a source, joined, are its text; each has at most MAX_PIECE_BYTES bytes, none is
empty, and none begins or ends inside a code point as long as the text is valid UTF-8.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol, TypeVar, runtime_checkable

MAX_PIECE_BYTES = 256 * 1024
"""What every server takes in one message."""

_MAX_CODE_POINT_BYTES = 4

T_co = TypeVar("T_co", covariant=True)


@runtime_checkable
class SupportsRead(Protocol[T_co]):
    """An open file, of text or of bytes in UTF-8."""

    def read(self, size: int, /) -> T_co:
        """Return at most ``size`` characters or bytes; nothing at the end."""


PlainText = str | bytes | SupportsRead[str] | SupportsRead[bytes]


@dataclass(frozen=True)
class Source:
    """The text of one source, or a piece of it: pieces of one source follow each other."""

    source_id: str
    text: PlainText


Text = PlainText | Iterable[str | Source]
"""A text, an open file, or any number of pieces and sources one after the other."""

AsyncText = Text | AsyncIterable[str | Source]
"""The same, or an asynchronous iterable of pieces and sources."""


@dataclass(frozen=True)
class Piece:
    """What one message carries."""

    source_id: str
    utf8: bytes


def iter_pieces(
    text: Text, source_id: str = "", *, max_bytes: int = MAX_PIECE_BYTES
) -> Iterator[Piece]:
    """Cut a text; what has no source of its own is of ``source_id``.

    Raises UnicodeEncodeError for a str that is no Unicode text (lone surrogates), TypeError for
    anything that is no text.
    """
    if isinstance(text, str | bytes | SupportsRead):
        yield from _pieces_of(Source(source_id, text), max_bytes)
    elif isinstance(text, Iterable):
        for item in text:
            yield from _pieces_of(_as_source(item, source_id), max_bytes)
    else:
        raise TypeError(f"no text: {type(text).__name__}")


async def aiter_pieces(
    text: AsyncText, source_id: str = "", *, max_bytes: int = MAX_PIECE_BYTES
) -> AsyncIterator[Piece]:
    """Cut a text as ``iter_pieces`` does. Files and plain iterables are read in the event loop."""
    if isinstance(text, AsyncIterable):
        async for item in text:
            for piece in _pieces_of(_as_source(item, source_id), max_bytes):
                yield piece
    else:
        for piece in iter_pieces(text, source_id, max_bytes=max_bytes):
            yield piece


def _as_source(item: str | Source, source_id: str) -> Source:
    return item if isinstance(item, Source) else Source(source_id, item)


def _pieces_of(source: Source, max_bytes: int) -> Iterator[Piece]:
    for utf8 in _cut(source.text, max_bytes):
        yield Piece(source.source_id, utf8)


def _cut(text: PlainText, max_bytes: int) -> Iterator[bytes]:
    step = max_bytes // _MAX_CODE_POINT_BYTES
    if isinstance(text, str):
        for start in range(0, len(text), step):
            yield text[start : start + step].encode()
    elif isinstance(text, bytes):
        yield from _cut_bytes((text,), max_bytes)
    elif isinstance(text, SupportsRead):
        yield from _cut_bytes(_blocks(text, step), max_bytes)
    else:
        raise TypeError(f"no text: {type(text).__name__}")


def _blocks(file: SupportsRead[str | bytes], size: int) -> Iterator[bytes]:
    while block := file.read(size):
        yield block.encode() if isinstance(block, str) else block


def _cut_bytes(blocks: Iterable[bytes], max_bytes: int) -> Iterator[bytes]:
    held = b""
    for block in blocks:
        rest, held = held + block, b""
        while rest:
            piece = rest[:max_bytes]
            piece = piece[: len(piece) - _unfinished_bytes(piece)]
            if not piece:
                held, rest = rest, b""
            else:
                yield piece
                rest = rest[len(piece) :]
    if held:
        # The text ends inside a code point: the server will say so.
        yield held


def _unfinished_bytes(data: bytes) -> int:
    """How many bytes at the end begin a code point that goes on after it: 0 to 3."""
    for back in range(1, min(_MAX_CODE_POINT_BYTES, len(data) + 1)):
        byte = data[-back]
        if byte >= 0b1100_0000:
            length = 2 if byte < 0b1110_0000 else 3 if byte < 0b1111_0000 else 4
            return back if length > back else 0
        if byte < 0b1000_0000:
            return 0
    return 0
