"""How far a run has come, and when it will be done."""

from __future__ import annotations

import threading
from types import TracebackType
from typing import Self

from tqdm import tqdm

# A query takes about as long as so many tokens of a text that is memorized. The time left is
# guessed by them, no figure rests on them.
NEEDLE_TOKENS, CLUE_TOKENS = 200, 800


class Progress:
    """A bar over tokens memorized and queries asked, counted in tokens; on standard error."""

    def __init__(self, tokens: int) -> None:
        self._lock = threading.Lock()  # queries end in several threads
        self._bar = tqdm(total=tokens, unit="tok", unit_scale=True, mininterval=1.0)

    def at(self, what: str) -> None:
        """Name what is being measured."""
        self._bar.set_description(what)

    def did(self, tokens: int) -> None:
        """Count work in."""
        with self._lock:
            self._bar.update(tokens)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.close()
