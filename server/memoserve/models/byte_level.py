"""The byte-level spelling of BPE vocabularies: one printable character for each byte.

Source: the byte table of GPT-2 (Radford et al., 2019), which Qwen2 and Llama 3 share.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

_PRINTABLE = (*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100))
_HIDDEN = tuple(byte for byte in range(256) if byte not in _PRINTABLE)

BYTE_OF_CHAR: dict[str, int] = {chr(byte): byte for byte in _PRINTABLE} | {
    chr(256 + index): byte for index, byte in enumerate(_HIDDEN)
}
_CHARS = frozenset(BYTE_OF_CHAR)
_TO_LATIN_1 = str.maketrans({char: chr(byte) for char, byte in BYTE_OF_CHAR.items()})

# Between two characters beyond ASCII: a byte of one, then the lead byte of the next.
_INNER_BORDER = re.compile(rb"(?<=[\x80-\xff])(?=[\xc0-\xff])")
_LEAD = re.compile(rb"[\xc0-\xff]")
_CONTINUATIONS = re.compile(rb"[\x80-\xbf]*")


def token_bytes(token: str) -> bytes:
    """The bytes a token stands for; a token with a character outside the table is its own UTF-8."""
    if _CHARS.issuperset(token):
        return token.translate(_TO_LATIN_1).encode("latin-1")
    return token.encode()


def straddles(tokens: Iterable[bytes]) -> frozenset[tuple[bytes, bytes]]:
    """What tokens hold around their inner borders between characters beyond ASCII.

    A pair is (bytes of the character before that the token holds, bytes of the one after that it
    holds); tokens may begin and end inside a character.
    """
    found: set[tuple[bytes, bytes]] = set()
    for token in tokens:
        for border in _INNER_BORDER.finditer(token):
            found.add(_around(token, border.start()))
    return frozenset(found)


def _around(token: bytes, border: int) -> tuple[bytes, bytes]:
    start = border - 1
    while start > 0 and not _LEAD.match(token, start) and token[start - 1] >= 0x80:
        start -= 1
    continued = _CONTINUATIONS.match(token, border + 1)
    end = continued.end() if continued else border + 1
    return token[start:border], token[border:end]
