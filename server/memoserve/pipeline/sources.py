"""The source texts that one Memorize adds, with their places."""

from __future__ import annotations

from dataclasses import dataclass, field

from memoserve.errors import InvalidArgument
from memoserve.pipeline.api import MAX_SOURCE_ID_CHARS
from memoserve.pipeline.contents import Contents, TextRun

FIELD = "text.source_id"
# Sources that one call may add: each is a row of every later manifest.
MAX_SOURCES = 10_000


@dataclass
class _Open:
    source_id: str
    start_char: int
    start_byte: int
    first_token: int
    texts: list[str] = field(default_factory=list)


class SourceTexts:
    """Collects pieces into runs. Only the memory's last source can be continued."""

    def __init__(self, base: Contents | None) -> None:
        runs = base.text_runs if base else ()
        self._last = runs[-1] if runs else None
        self._known = {run.source_id for run in runs}
        self._runs: list[_Open] = []
        self.added_chars = 0

    @property
    def is_first(self) -> bool:
        """No source was ever opened in this memory."""
        return self._last is None and not self._runs

    @property
    def place(self) -> tuple[str, int, int]:
        """Source id and offsets (characters, bytes) where the open run starts."""
        run = self._runs[-1]
        return run.source_id, run.start_char, run.start_byte

    @property
    def opened(self) -> int:
        """Runs opened so far."""
        return len(self._runs)

    def begins(self, source_id: str) -> bool:
        """A piece of this source starts something new in the memory.

        Raises InvalidArgument for an id that an earlier source has, one that is too long, and
        one source too many.
        """
        if self._runs:
            current = self._runs[-1].source_id
        elif self._last is not None and self._last.source_id == source_id:
            self._continue(self._last)
            return False
        else:
            current = None
        if source_id == current:
            return False
        if source_id in self._known:
            raise InvalidArgument(FIELD, f"{source_id!r} was closed by a later source")
        if len(source_id) > MAX_SOURCE_ID_CHARS:
            raise InvalidArgument(FIELD, f"is longer than {MAX_SOURCE_ID_CHARS} characters")
        if len(self._runs) >= MAX_SOURCES:
            raise InvalidArgument(FIELD, f"one call adds at most {MAX_SOURCES} sources")
        return True

    def _continue(self, last: TextRun) -> None:
        # Tokens of what the last run left pending belong to that run's text.
        self._runs.append(_Open(last.source_id, last.end_char, last.end_byte, -1))

    def open(self, source_id: str, first_token: int) -> None:
        """Start a source at a token of the memory."""
        self._known.add(source_id)
        self._runs.append(_Open(source_id, 0, 0, first_token))

    def add(self, text: str) -> None:
        """More text of the open source."""
        self._runs[-1].texts.append(text)
        self.added_chars += len(text)

    def runs(self, part: str, fallback_token: int) -> tuple[tuple[TextRun, ...], bytes]:
        """The runs, one behind the other in ``part``, and what that part holds."""
        finished: list[TextRun] = []
        data = bytearray()
        for run in self._runs:
            text = "".join(run.texts)
            if not text:
                continue
            encoded = text.encode("utf-8")
            first = fallback_token if run.first_token < 0 else run.first_token
            place = (run.start_char, run.start_byte, len(text), len(encoded), first, len(data))
            finished.append(TextRun(run.source_id, part, *place))
            data += encoded
        return tuple(finished), bytes(data)
