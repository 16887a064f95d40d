"""Where a text may be cut so that its parts encode to the ids of the whole.

A seam is a position p with encode(T) == encode(T[:p]) + encode(T[p:]) for every continuation of
what is known of T. All rules here look at one to three characters around p, so a stream never
scans anything twice.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar, Protocol

from memoserve.models.unicode_kinds import Kind, kind_of, starts_fresh

WORD_MARK = "\u2581"  # stands for a space in SentencePiece vocabularies


class Seams(Protocol):
    """The rule of one tokenizer family."""

    @property
    def bounded(self) -> bool:
        """Whether ordinary text has seams every few words."""
        ...

    def is_seam(self, before: str, after: str, following: str) -> bool:
        """Whether the text may be cut between ``before`` and ``after``.

        ``following`` is the character behind ``after``, or "" while it is not known.
        """
        ...


def last_seam(seams: Seams, window: str) -> int:
    """The greatest seam p with 0 < p < len(window), or 0 where there is none."""
    following = ""
    for position in range(len(window) - 1, 0, -1):
        after = window[position]
        if seams.is_seam(window[position - 1], after, following):
            return position
        following = after
    return 0


@dataclass(frozen=True)
class NoSeams:
    """For a family nobody has proved a rule for: everything is held until the flush."""

    bounded: ClassVar[bool] = False

    def is_seam(self, before: str, after: str, following: str) -> bool:
        """Never."""
        return False


@dataclass(frozen=True)
class PairSeams:
    """SentencePiece-like BPE: no pre-tokens, merges may run over the whole text.

    A merge across a|b makes a token that holds the pair ab, so where no merge makes one the two
    sides are merged independently. Both characters must have symbols of their own: unknown ones
    may fuse with, or vanish between, their neighbours. The held tail is bounded by the longest
    chain of pairs that occur in tokens: a word or two, a few Chinese characters; a run of one
    character ("      ", "======") is held as a whole.

    ``pairs`` are in the vocabulary's spelling; ``marks_spaces``: a space is spelled WORD_MARK.
    ``symbols`` None: every character has symbols (byte fallback is complete).
    """

    pairs: frozenset[str]
    marks_spaces: bool
    symbols: frozenset[str] | None
    bounded: ClassVar[bool] = True

    def is_seam(self, before: str, after: str, following: str) -> bool:
        """Whether no merge can join the two characters."""
        if self.marks_spaces:
            before = WORD_MARK if before == " " else before
            after = WORD_MARK if after == " " else after
        if self.symbols is not None and not (before in self.symbols and after in self.symbols):
            return False
        return before + after not in self.pairs


def char_pairs(tokens: Iterable[str]) -> frozenset[str]:
    """Every two neighbouring characters of every token."""
    return frozenset(token[i : i + 2] for token in tokens for i in range(len(token) - 1))


@dataclass(frozen=True)
class LetterSeams:
    """When a run of letters, which is one pre-token of a byte-level BPE, may be cut.

    The expressions scan a run of letters from its middle exactly as from its start, so only
    merges matter: none may straddle the cut. A straddling token holds a tail of the bytes of the
    character before and a head of the bytes of the one after; ``straddles`` holds all such
    (tail, head) of the vocabulary. Where whole pre-tokens are looked up before merging
    (``ignore_merges``), a half may be a token that merges alone do not make: ``loose_ends`` and
    ``loose_starts`` are the last and first characters of those, and no cut touches them.
    ASCII letters are left alone (contractions, and words are short).
    """

    straddles: frozenset[tuple[bytes, bytes]]
    loose_ends: frozenset[str] = frozenset()
    loose_starts: frozenset[str] = frozenset()

    def allows(self, before: str, after: str) -> bool:
        """Whether two neighbouring letters may be parted; both as the model sees them."""
        if before.isascii() or after.isascii():
            return False
        if before in self.loose_ends or after in self.loose_starts:
            return False
        left, right = before.encode(), after.encode()
        return not any(
            (left[start:], right[:end]) in self.straddles
            for start in range(len(left))
            for end in range(1, len(right) + 1)
        )


@dataclass(frozen=True)
class RegexSeams:
    r"""Byte-level BPE behind one of the expressions of GPT-2, Qwen2 or Llama 3.

    In none of them does a match hold, side by side: a letter and then a non-letter, a number and
    then a non-number, another sign and then a number, or anything visible and then a space other
    than \r and \n. Between such two there is a pre-token border whatever stands around. The left
    part alone is matched as before, since no expression looks more than one character beyond a
    match, and that only behind spaces, which never end the left part; the right part alone too,
    since none looks behind. Inside runs of letters ``letters`` decides (None: never).

    With ``nfc`` the cut must also be one for the normalizer: ``after`` must join nothing before
    it, and where the exact characters matter so must their neighbours. The held tail is bounded by
    a word, a number, or a run of punctuation or spaces.
    """

    nfc: bool
    lone_digits: bool
    letters: LetterSeams | None
    bounded: ClassVar[bool] = True

    def is_seam(self, before: str, after: str, following: str) -> bool:
        """Whether a pre-token border, or a place no merge straddles, lies between the two."""
        if self.nfc and not starts_fresh(after):
            return False
        left, right = kind_of(before), kind_of(after)
        if left is Kind.SPACE:
            return False
        if right is Kind.SPACE and after not in "\r\n":
            return True
        # From here on the left character's own class counts, so it must not be a part of another.
        if self.nfc and not starts_fresh(before):
            return False
        if left is Kind.OTHER:
            return right is Kind.NUMBER
        if left is not right:
            return True
        if left is Kind.NUMBER:
            return self.lone_digits
        return self._parts_letters(before, after, following)

    def _parts_letters(self, before: str, after: str, following: str) -> bool:
        if self.letters is None:
            return False
        if self.nfc and not (following and starts_fresh(following)):
            return False  # a mark still to come could make another letter of ``after``
        return self.letters.allows(before, after)
