"""What every part of a run shares: the server, the plan, the outcomes, how far it has come."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from benchmarks.quality.memories import memorize
from benchmarks.quality.plan import Plan
from benchmarks.quality.progress import Progress
from benchmarks.quality.server import Asker
from benchmarks.quality.sheet import Sheet
from benchmarks.quality.texts import Density

T = TypeVar("T")


@dataclass(frozen=True)
class Bench:
    """A run on one server."""

    asker: Asker
    plan: Plan
    density: Density
    sheet: Sheet
    bar: Progress

    def memorize(self, name: str, text: str, ratio: int, *, index: bool = False) -> int:
        """Memorize a text to the end of a window; raw tokens. Raises NotHeldError."""
        stats = memorize(self.asker, name, text, ratio, self.density, index=index)
        tokens = stats.raw_tokens
        self.bar.did(tokens)
        return tokens

    def ask(self, jobs: Sequence[Callable[[], T]], tokens: int) -> list[T]:
        """Results of queries, several of which run at a time, in the order of the jobs.

        ``tokens``: what each counts on the bar.
        """
        return self.asker.each(jobs, lambda: self.bar.did(tokens))
