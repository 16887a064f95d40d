"""Finds the sentences of a text in scripts with and without spaces; offsets are exact."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise

_CLOSERS = "\"'”’»)]}」』）】》"
_WIDE_STOPS = "。！？；｡"
_PARAGRAPH = re.compile(r"\n[^\S\n]*\n\s*")
# A wide stop ends a sentence by itself; a narrow one only before whitespace.
_STOP = re.compile(
    rf"(?:[{_WIDE_STOPS}]|…{{2}})+[{re.escape(_CLOSERS)}]*\s*"
    rf"|(?<![.!?…])[.!?…]+[{re.escape(_CLOSERS)}]*\s+"
)
# Usually written with a full stop: some before a name, some before a number only.
_BEFORE_NAME = re.compile(
    r"mr|mrs|ms|dr|prof|rev|st|capt|col|gen|lt|sgt|hon|messrs|vs|cf|e\.g|i\.e", re.IGNORECASE
)
_BEFORE_NUMBER = re.compile(
    r"nos?|vol|ch|fig|pp?|approx|jan|feb|mar|apr|jun|jul|aug|sept?|oct|nov|dec", re.IGNORECASE
)
_LAST_WORD = re.compile(r"[^\s\"'“‘(\[]+$")
_INITIALS = re.compile(r"(?:[^\W\d_]\.)+[^\W\d_]")


def sentence_spans(text: str) -> list[tuple[int, int]]:
    """Half-open character spans of the sentences, in order, without the whitespace around them.

    Everything but whitespace lies in exactly one span. A blank line always ends a sentence, a
    single line break never does (texts are often wrapped by hand).
    """
    spans: list[tuple[int, int]] = []
    for start, end in _paragraphs(text):
        borders = [start, *_borders(text, start, end), end]
        spans += [_trim(text, *span) for span in pairwise(borders)]
    return [(start, end) for start, end in spans if start < end]


def _paragraphs(text: str) -> Iterator[tuple[int, int]]:
    start = 0
    for gap in _PARAGRAPH.finditer(text):
        yield start, gap.start()
        start = gap.end()
    yield start, len(text)


def _borders(text: str, start: int, end: int) -> Iterator[int]:
    """Where a new sentence begins inside ``text[start:end]``."""
    for stop in _STOP.finditer(text, start, end):
        if stop.end() < end and _ends_sentence(text, start, stop):
            yield stop.end()


def _ends_sentence(text: str, start: int, stop: re.Match[str]) -> bool:
    mark, following = stop.group().rstrip(), text[stop.end()]
    if mark[0] in _WIDE_STOPS or mark.startswith("……"):
        return True
    if following.islower():  # "Who?" he asked / approx. two
        return False
    if mark != ".":
        return True
    word = _LAST_WORD.search(text[max(start, stop.start() - 24) : stop.start()])
    return word is None or not _is_abbreviation(word.group(), following)


def _is_abbreviation(word: str, following: str) -> bool:
    """Whether the full stop after ``word`` belongs to it: Dr. / J. / e.g. / No. 5."""
    if len(word) == 1 and word.isupper() and word != "I":
        return True
    if _BEFORE_NAME.fullmatch(word) or _INITIALS.fullmatch(word):
        return True
    return following.isdigit() and _BEFORE_NUMBER.fullmatch(word) is not None


def _trim(text: str, start: int, end: int) -> tuple[int, int]:
    piece = text[start:end]
    left = len(piece) - len(piece.lstrip())
    return start + left, start + left + len(piece.strip())
