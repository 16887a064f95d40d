"""What a tokenizer's regular expressions and its normalizer make of single characters.

Character classes are asked from the tokenizer library's own regex engine and not from Python,
because the two may carry different Unicode versions and a seam must be exact for both.
"""

from __future__ import annotations

import enum
import functools
import unicodedata

from tokenizers import Regex, normalizers

# Every character below is in NFC, has combining class 0 and joins nothing before it.
_FIRST_COMBINING = "\u0300"


class Kind(enum.Enum):
    r"""The four classes the pre-token expressions tell apart; ``OTHER`` is what is left."""

    LETTER = r"\p{L}"
    NUMBER = r"\p{N}"
    SPACE = r"\s"
    OTHER = ""


# Rewrites a character to a stand-in for its class; the stand-ins are in their own classes.
_STAND_INS = {Kind.LETTER: "a", Kind.NUMBER: "0", Kind.SPACE: " "}
_KINDS = {stand_in: kind for kind, stand_in in _STAND_INS.items()}
_REWRITE = normalizers.Sequence(
    [normalizers.Replace(Regex(kind.value), stand_in) for kind, stand_in in _STAND_INS.items()]
)


@functools.lru_cache(maxsize=1 << 16)
def kind_of(char: str) -> Kind:
    """The class of one character, as the tokenizer library's regex engine sees it."""
    return _KINDS.get(_REWRITE.normalize_str(char), Kind.OTHER)


def starts_fresh(char: str) -> bool:
    """Whether NFC(x + char + y) == NFC(x) + NFC(char + y) for every x and y.

    True for characters of combining class 0 that are in NFC themselves and are the second half of
    no composition (UAX 15: canonical combining class 0 and NFC_Quick_Check=Yes). Characters this
    Python does not know yet are not trusted, as a newer normalizer may move them.
    """
    if char < _FIRST_COMBINING:
        return True
    return (
        unicodedata.combining(char) == 0
        and unicodedata.category(char) != "Cn"
        and unicodedata.is_normalized("NFC", char)
        and char not in _second_halves()
    )


@functools.cache
def _second_halves() -> frozenset[str]:
    """Characters that a canonical composition can take as its second half (about 25 ms, once)."""
    vowels_and_finals = (*range(0x1161, 0x1176), *range(0x11A8, 0x11C3))  # Hangul, by arithmetic
    found = {chr(code) for code in vowels_and_finals}
    for code in range(0xC0, 0x30000):
        parts = unicodedata.decomposition(chr(code)).split()
        if len(parts) == 2 and not parts[0].startswith("<"):
            found.add(chr(int(parts[1], 16)))
    return frozenset(found)
