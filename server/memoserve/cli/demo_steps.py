"""Steps that both acts of the demo take, each printed while it runs."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from memoserve.cli.progress import Bar
from memoserve_client import (
    Client,
    Clue,
    ClueKind,
    Committed,
    Final,
    Passage,
    Quote,
    SamplingOptions,
    Source,
    Task,
    Token,
    WriteMode,
)
from memoserve_client.errors import OutOfRange

# Rather too many tokens than too few: a ratio that holds the guess holds the text.
LEAST_BYTES_PER_TOKEN = 3


@dataclass(frozen=True)
class Recalled:
    """What a memory suggested, in the order it came, dropped clues too, and how soon."""

    clues: tuple[Clue, ...]
    first_clue_s: float | None

    @property
    def said(self) -> tuple[tuple[str, str], ...]:
        """Kinds and texts, sorted: the kinds are asked side by side, and which is first is chance.

        What is dropped as a duplicate hangs on that order, so it is left out of the comparison.
        """
        return tuple(sorted((clue.kind.value, clue.text) for clue in self.clues))


@dataclass(frozen=True)
class Answered:
    """An answer, what it had to rest on, and what it quotes of that."""

    text: str
    passages: tuple[Passage, ...]
    quotes: tuple[Quote, ...]


def act(title: str) -> None:
    """Print the title of an act."""
    print(f"\n=== {title} ===", flush=True)


def heading(title: str, text: str = "") -> None:
    """Print the title of a step."""
    print(f"\n== {title}{': ' if text else ''}{text}", flush=True)


def memorize_text(client: Client, memory: str, source: Source) -> Committed:
    """Write the text at the default ratio, or at the one that the server says would hold it.

    Raises OutOfRange when none does.
    """
    heading("memorize", "the text streams in, window by window only the beacons stay")
    ratio = client.info().model.default_ratio
    while True:
        try:
            committed = _write(client, memory, source, ratio)
            break
        except OutOfRange as error:
            fitting = error.details.metadata.get("fitting_ratio", "")
            if not fitting.isdecimal() or int(fitting) <= ratio:
                raise
            ratio = int(fitting)
            print(f"too long: {error.message}\nonce more, at ratio {ratio}", flush=True)
    print(
        f"committed version {committed.memory.version}: {committed.tokens_added:,} tokens in "
        f"{committed.seconds:.1f} s"
    )
    return committed


def _write(client: Client, memory: str, source: Source, ratio: int) -> Committed:
    size = len(source.text) if isinstance(source.text, bytes) else 0
    bar = Bar(size)
    try:
        return client.memorize(
            memory,
            [source],
            mode=WriteMode.REPLACE,
            ratio=ratio,
            expected_tokens=size // LEAST_BYTES_PER_TOKEN,
            on_event=bar,
        )
    finally:
        bar.close()


def recall(
    client: Client,
    memory: str,
    question: str,
    max_tokens: int,
    kinds: Sequence[ClueKind] | None = None,
    *,
    quiet: bool = False,
) -> Recalled:
    """Ask a memory for clues, ``max_tokens`` at most of a kind; prints them as they come."""
    # Greedy, so that the same memory says the same again.
    sampling = SamplingOptions(max_tokens=max_tokens, temperature=0.0)
    clues: list[Clue] = []
    first: float | None = None
    began = time.monotonic()
    with client.recall(
        memory,
        question,
        kinds=kinds,
        sampling=sampling,
        return_dropped=True,
        stream_tokens=not quiet,
    ) as events:
        for event in events:
            if isinstance(event, Token) and first is None:
                first = time.monotonic() - began
            elif isinstance(event, Clue):
                clues.append(event)
                if not quiet:
                    _print_clue(event)
            elif isinstance(event, Final) and event.usage.first_clue_s is not None:
                first = event.usage.first_clue_s
    return Recalled(tuple(clues), first)


def _print_clue(clue: Clue) -> None:
    state = f" (dropped: {clue.dropped})" if clue.dropped else ""
    print(f"[{clue.kind.value}] {clue.text[:160]!r}{state}", flush=True)


def generate(
    client: Client,
    memory: str,
    question: str,
    *,
    use_clues: bool | None = None,
    kinds: Sequence[ClueKind] | None = None,
    top_k: int | None = None,
) -> Answered:
    """Answer from passages and print the answer as it comes; None: as by the server's default.

    ``top_k``: passages that the question finds, and as many each clue.
    """
    text = ""
    passages: list[Passage] = []
    quotes: list[Quote] = []
    with client.generate(
        memory, question, task=Task.MEMORAG, use_clues=use_clues, kinds=kinds, top_k=top_k
    ) as events:
        for event in events:
            if isinstance(event, Passage):
                passages.append(event)
            elif isinstance(event, Token):
                print(event.text, end="", flush=True)
            elif isinstance(event, Quote):
                quotes.append(event)
                place = f"[{event.source_id}, characters {event.start_char}-{event.end_char}]"
                print(f"{event.text}\n    {place}", flush=True)
            elif isinstance(event, Final):
                text = event.text
    return Answered(text, tuple(passages), tuple(quotes))
