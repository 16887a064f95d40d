"""From what the memory wrote to clues: one a line, cleaned, the useless ones named."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from memoserve.pipeline.language import is_spaceless

_MARK = re.compile(
    r"^\s*(?:[-*\u2022\u00b7\u30fb]+\s+|\(?\d{1,3}[.):\u3001\uff0e\uff09](?!\d)\s*|[\u2460-\u2473]\s*)+"
)


@dataclass(frozen=True)
class ClueRules:
    """A clue has ``min_words`` words, or ``min_chars`` characters in scripts without spaces."""

    min_words: int = 4
    min_chars: int = 6
    acknowledgements: tuple[str, ...] = ()


class ClueLines:
    """Splits streamed text into lines and judges each. One instance a memory and query."""

    def __init__(self, rules: ClueRules) -> None:
        self._rules = rules
        self._seen: set[str] = set()

    def judge(self, line: str) -> tuple[str, str]:
        """(cleaned line, why it is dropped or ""); an empty line comes back empty."""
        text = _MARK.sub("", line).strip()
        if not text:
            return "", "empty"
        key = " ".join(text.casefold().split())
        if key in self._seen:
            return text, "duplicate"
        self._seen.add(key)
        if any(key == " ".join(a.casefold().split()) for a in self._rules.acknowledgements):
            return text, "acknowledgement"
        if is_spaceless(text):
            short = len(re.sub(r"\s", "", text)) < self._rules.min_chars
        else:
            short = len(text.split()) < self._rules.min_words
        return text, "too short" if short else ""


class LineSplitter:
    """Whole lines of a text that arrives in pieces."""

    def __init__(self) -> None:
        self._rest = ""

    def feed(self, piece: str) -> Iterator[str]:
        """Lines that are complete now."""
        *lines, self._rest = (self._rest + piece).split("\n")
        yield from lines

    def finish(self) -> Iterator[str]:
        """The last line, if any."""
        rest, self._rest = self._rest, ""
        if rest:
            yield rest
