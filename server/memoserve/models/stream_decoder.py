"""Ids to text, one at a time, in whole characters."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterable
from dataclasses import dataclass

from tokenizers import Tokenizer

from memoserve.errors import InvalidArgument
from memoserve.models.byte_level import token_bytes
from memoserve.models.seams import WORD_MARK
from memoserve.models.tokenizer_files import AddedToken, Json

_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")


@dataclass(frozen=True)
class DecodeRules:
    """How the tokens of a family spell bytes.

    ``byte_level``: by the byte table; else as text, where ``marks_spaces`` says that WORD_MARK is
    a space and ``byte_tokens`` that <0xNN> is a byte. ``leading_spaces``: how many a text loses at
    its start.
    """

    byte_level: bool = False
    marks_spaces: bool = False
    byte_tokens: bool = False
    leading_spaces: int = 0

    def bytes_of(self, token: str) -> bytes:
        """The bytes of one token, perhaps parts of characters."""
        if self.byte_level:
            return token_bytes(token)
        if self.byte_tokens and (byte := _BYTE_TOKEN.fullmatch(token)):
            return bytes.fromhex(byte[1])
        return (token.replace(WORD_MARK, " ") if self.marks_spaces else token).encode()


def decode_rules(decoder: Json | None) -> DecodeRules:
    """Read the ``decoder`` of a tokenizer.json. Raises InvalidArgument for one that is not known.

    Known are ByteLevel, Metaspace, and sequences of Replace(WORD_MARK by a space), ByteFallback,
    Fuse and Strip at the start.
    """
    if decoder == {} or decoder is None:
        raise InvalidArgument("tokenizer.json", "it has no decoder")
    steps = decoder["decoders"] if decoder["type"] == "Sequence" else [decoder]
    if [step["type"] for step in steps] == ["ByteLevel"]:
        return DecodeRules(byte_level=True)
    marks_spaces = byte_tokens = False
    leading_spaces = 0
    for step in steps:
        kind = step["type"]
        if kind == "Replace" and (step["pattern"], step["content"]) == ({"String": WORD_MARK}, " "):
            marks_spaces = True
        elif kind == "Metaspace":
            marks_spaces = True
            leading_spaces = int(step.get("prepend_scheme", "always") != "never")
        elif kind == "ByteFallback":
            byte_tokens = True
        elif kind == "Strip" and step["content"] == " " and step["stop"] == 0:
            leading_spaces = int(step["start"])
        elif kind != "Fuse":
            raise InvalidArgument("tokenizer.json", f"decoder step {kind!r} is not known")
    return DecodeRules(False, marks_spaces, byte_tokens, leading_spaces)


@dataclass(frozen=True)
class TokenTable:
    """What each id spells. Ids nobody defined spell nothing, like padding rows of a model."""

    tokenizer: Tokenizer
    added: dict[int, AddedToken]
    rules: DecodeRules

    def bytes_of(self, token_id: int, *, skip_special: bool) -> bytes:
        """The bytes of an id; none for a special one where ``skip_special``."""
        token: str | None
        if (added := self.added.get(token_id)) is not None:
            token = "" if skip_special and added.special else added.content
        else:
            token = self.tokenizer.id_to_token(token_id) if 0 <= token_id < 1 << 32 else None
        return self.rules.bytes_of(token) if token else b""


class StreamDecoder:
    """Decodes ids as they come; a character is given out once all its bytes are there.

    Law: the pieces of ``feed`` and ``flush``, joined, are the decode of all ids. At most three
    bytes are held. Bytes that cannot become a character give one U+FFFD for each longest broken
    part, as soon as that is certain (the Unicode standard's advice, chapter 3.9; the tokenizer
    library agrees for byte-level vocabularies and gives one for each byte of a whole run of
    <0xNN> tokens, which could not be streamed).

    ``continuation``: the text goes on from another, so the spaces that some families drop at the
    start of a text are kept.
    """

    def __init__(
        self, table: TokenTable, *, skip_special: bool = True, continuation: bool = False
    ) -> None:
        self._table = table
        self._skip_special = skip_special
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        self._spaces_to_drop = 0 if continuation else table.rules.leading_spaces

    def feed(self, token_id: int) -> str:
        """The characters that this id completes, perhaps none."""
        data = self._table.bytes_of(token_id, skip_special=self._skip_special)
        return self._without_leading_spaces(self._utf8.decode(data))

    def feed_all(self, ids: Iterable[int]) -> str:
        """As feeding one by one."""
        table, skip_special = self._table, self._skip_special
        data = b"".join(table.bytes_of(index, skip_special=skip_special) for index in ids)
        return self._without_leading_spaces(self._utf8.decode(data))

    def flush(self) -> str:
        """What is left when no more ids come: a broken character, if any."""
        return self._without_leading_spaces(self._utf8.decode(b"", True))

    def _without_leading_spaces(self, text: str) -> str:
        while text and self._spaces_to_drop:
            if not text.startswith(" "):
                self._spaces_to_drop = 0
            else:
                text = text[1:]
                self._spaces_to_drop -= 1
        return text
