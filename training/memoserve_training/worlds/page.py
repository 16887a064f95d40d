"""A text that grows, and where each of its sentences stands."""

from __future__ import annotations

from collections.abc import Sequence

from memoserve_training.worlds.values import Span
from memoserve_training.worlds.world import Fact

Line = Fact | str  # a fact's sentence, or one about nothing asked


class Page:
    """A text put together from blocks of lines, with a blank line between blocks."""

    def __init__(self) -> None:
        self.sentences: list[Span] = []
        self.places: dict[Fact, Span] = {}
        self._pieces: list[str] = []
        self._length = 0

    @property
    def text(self) -> str:
        """What was put on the page."""
        return "".join(self._pieces)

    def block(self, lines: Sequence[Line], joint: str = " ") -> None:
        """Add a paragraph (``joint`` a space) or a dialogue (a line break)."""
        between = "\n\n" if self._pieces else ""
        for line in lines:
            text = line if isinstance(line, str) else line.text
            start = self._length + len(between)
            span = Span(start, start + len(text))
            self._pieces += (between, text)
            self._length = span.end
            self.sentences.append(span)
            if isinstance(line, Fact):
                self.places[line] = span
            between = joint
