"""A server of one's own and the few things that are asked of it, several at a time."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from benchmarks.quality.scores import Place
from memoserve.cli.spawn import START_S, STOP_S, ready_address
from memoserve_client import (
    Client,
    Clue,
    ClueKind,
    Final,
    Fusion,
    MemoryStats,
    Passage,
    SamplingOptions,
    ServerInfo,
    Source,
    Task,
    WriteMode,
)
from memoserve_client.errors import InvalidArgument, OutOfRange

BODY = "body"
CODE_TOKENS, ANSWER_TOKENS = 16, 32
# Tokens that a commit may hold back because further text could change them.
HELD_BACK = 8

T = TypeVar("T")


@dataclass(frozen=True)
class Recalled:
    """Lines that a memory suggested: those used for retrieval, the quotes among them, its answer.

    ``clues`` are quotes and smaller questions.
    """

    quotes: tuple[str, ...]
    clues: tuple[str, ...]
    answer: str


class NotHeldError(Exception):
    """The server takes no such memory: the text is too long for the ratio, or the ratio unknown."""


class Asker:
    """A running server, asked greedily; of queries ``in_flight`` run at a time."""

    def __init__(self, client: Client, in_flight: int) -> None:
        self.info: ServerInfo = client.info()
        self._client = client
        self._in_flight = in_flight
        self._capacities: dict[int, int] = {}

    def each(self, jobs: Sequence[Callable[[], T]], done: Callable[[], None]) -> list[T]:
        """Results in the order of the jobs; ``done`` is called as each ends, in some thread."""

        def run(job: Callable[[], T]) -> T:
            result = job()
            done()
            return result

        with ThreadPoolExecutor(self._in_flight) as pool:
            return list(pool.map(run, jobs))

    def write(self, name: str, text: str, ratio: int, *, index: bool = False) -> MemoryStats:
        """Memorize a text, in place of what the memory held; ``index``: its passages are searched.

        Raises NotHeldError.
        """
        return self._memorize(name, Source(BODY, text), ratio, WriteMode.REPLACE, index)

    def append(
        self, name: str, text: str, ratio: int, source: str, *, index: bool = False
    ) -> MemoryStats:
        """Memorize another source behind what the memory holds. Raises NotHeldError."""
        return self._memorize(name, Source(source, text), ratio, WriteMode.APPEND, index)

    def _memorize(
        self, name: str, source: Source, ratio: int, mode: WriteMode, index: bool
    ) -> MemoryStats:
        try:
            committed = self._client.memorize(name, [source], mode=mode, ratio=ratio, index=index)
            return committed.memory.stats
        except (OutOfRange, InvalidArgument) as error:
            raise NotHeldError(str(error)) from error

    def holds(self, length: int, ratio: int) -> bool:
        """Whether a memory of this ratio may hold so many tokens."""
        if ratio not in self._capacities:
            self._capacities[ratio] = self._capacity(ratio)
        return length <= self._capacities[ratio]

    def _capacity(self, ratio: int) -> int:
        """What a memory tells once it is written; 0 where the server does not know the ratio."""
        name = "capacity"
        try:
            stats = self.write(name, "A few words.", ratio)
        except NotHeldError:
            return 0
        self.forget(name)
        return stats.capacity_tokens

    def forget(self, name: str) -> None:
        """Delete a memory."""
        self._client.delete(name)

    def code(self, name: str, question: str) -> str:
        """What the memory alone answers, through Generate."""
        sampling = SamplingOptions(max_tokens=CODE_TOKENS, temperature=0.0)
        task = Task.MEMORY_ONLY
        with self._client.generate(name, question, task=task, sampling=sampling) as events:
            return "".join(event.text for event in events if isinstance(event, Final))

    def draft(self, name: str, question: str, max_tokens: int = CODE_TOKENS) -> str:
        """What the memory alone answers, through Recall."""
        lines = self._recall(name, question, (ClueKind.DRAFT_ANSWER,), max_tokens)
        return "\n".join(clue.text for clue in lines)

    def recall(self, name: str, question: str, clue_tokens: int) -> Recalled:
        """The clues of a memory for a question, and its own answer."""
        clues = self._recall(name, question, (ClueKind.SPAN, ClueKind.SURROGATE), clue_tokens)
        return Recalled(
            quotes=tuple(clue.text for clue in clues if clue.kind is ClueKind.SPAN),
            clues=tuple(clue.text for clue in clues),
            answer=self.draft(name, question, ANSWER_TOKENS),
        )

    def _recall(
        self, name: str, question: str, kinds: tuple[ClueKind, ...], max_tokens: int
    ) -> list[Clue]:
        sampling = SamplingOptions(max_tokens=max_tokens, temperature=0.0)
        with self._client.recall(name, question, kinds=kinds, sampling=sampling) as events:
            return [event for event in events if isinstance(event, Clue)]

    def best(self, name: str, question: str, clues: Sequence[str], top_k: int) -> list[Place]:
        """Places in the body of what the question and the clues find, best first.

        Each of them finds ``top_k`` passages; their ranks are fused.
        """
        fusion = Fusion.RRF
        with self._client.retrieve(
            name, question, clues=clues, top_k=top_k, fusion=fusion
        ) as events:
            return [
                # What is not in the body keeps its rank and holds no evidence.
                Place(event.start_char, event.end_char) if event.source_id == BODY else Place(0, 0)
                for event in events
                if isinstance(event, Passage)
            ]


@contextmanager
def running(directory: Path, options: Sequence[str], in_flight: int) -> Iterator[Asker]:
    """A new server with its store and log in ``directory``, ended with the block.

    ``options`` are those of ``memoserve serve``. Raises OSError and TimeoutError as
    ``ready_address``.
    """
    log = directory / "server.log"
    command = [sys.executable, "-m", "memoserve.cli", "serve", "--port", "0"]
    command += ["--data-dir", str(directory / "store"), *options]
    with log.open("a", encoding="utf-8") as errors:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors, text=True
        )
    try:
        with Client(ready_address(process, log, START_S)) as client:
            client.wait_ready(START_S)
            yield Asker(client, in_flight)
    finally:
        process.terminate()
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
