"""How a Memorize goes, on standard error: a bar on a terminal, a few plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Never, TextIO

from memoserve_client import Committed, MemorizeEvent, Notice, Progress

if TYPE_CHECKING:
    from tqdm import tqdm

# A guess until the text has been read; the bar ends full all the same.
BYTES_PER_TOKEN = 3
# Seconds to the first line, and how much longer each pause is than the one before.
FIRST_LINE_S = 2.0
PAUSE_GROWTH = 1.5


class Bar:
    """Shows the events of one Memorize. ``text_bytes`` None: the length is unknown.

    The client alone is installed without tqdm: there it is lines on a terminal, too.
    """

    def __init__(
        self, text_bytes: int | None, *, quiet: bool = False, out: TextIO | None = None
    ) -> None:
        self._out = out or sys.stderr
        self._quiet = quiet
        self._pause = FIRST_LINE_S
        self._next = time.monotonic() + FIRST_LINE_S
        self._bar: tqdm[Never] | None = None
        if not quiet and self._out.isatty():
            guess = None if text_bytes is None else text_bytes // BYTES_PER_TOKEN
            self._bar = _tqdm(guess, self._out)

    def __call__(self, event: MemorizeEvent) -> None:
        """Show an event."""
        if isinstance(event, Progress):
            self._progress(event)
        elif isinstance(event, Notice):
            said = f"{event.code}: {event.message}"
            if self._bar is None:
                print(said, file=self._out, flush=True)
            else:
                self._bar.write(said, file=self._out)
        elif isinstance(event, Committed):
            self.close()

    def close(self) -> None:
        """End the bar, full; a second call does nothing."""
        bar, self._bar = self._bar, None
        if bar is not None:
            bar.total = bar.n
            bar.refresh()
            bar.close()

    def _progress(self, event: Progress) -> None:
        if self._bar is not None:
            if self._bar.total is not None:
                self._bar.total = max(self._bar.total, event.tokens_done)
            self._bar.set_postfix(beacons=event.memory_rows, passages=event.passages, refresh=False)
            self._bar.update(event.tokens_done - self._bar.n)
        elif not self._quiet and time.monotonic() >= self._next:
            self._pause *= PAUSE_GROWTH
            self._next = time.monotonic() + self._pause
            print(
                f"memorize: {event.tokens_done:,} tokens ({event.tokens_per_s:,.0f}/s), "
                f"{event.memory_rows:,} beacons, {event.passages:,} passages",
                file=self._out,
                flush=True,
            )


def _tqdm(total: int | None, out: TextIO) -> tqdm[Never] | None:
    try:
        from tqdm import tqdm
    except ModuleNotFoundError:
        return None
    return tqdm(total=total, unit="tok", unit_scale=True, desc="memorize", file=out)
