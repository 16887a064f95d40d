"""``memoserve demo``: the main job once, on a server of its own, through the public client."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path

from memoserve.cli.commands import print_passage
from memoserve.cli.progress import Bar
from memoserve.cli.spawn import own_server
from memoserve.cli.tables import table
from memoserve_client import (
    Client,
    Clue,
    Committed,
    Final,
    Memory,
    Passage,
    Quote,
    SamplingOptions,
    Source,
    Task,
    Token,
    WriteMode,
)
from memoserve_client.errors import OutOfRange

MEMORY = "demo"
OWN_QUESTION = "What is this text about?"
CLUE_TOKENS = 48
# Rather too many tokens than too few: a ratio that holds the guess holds the text.
LEAST_BYTES_PER_TOKEN = 3


@dataclass(frozen=True)
class Recalled:
    """What the memory suggested, kinds and texts in their order, and how soon."""

    clues: tuple[tuple[str, str], ...]
    first_clue_s: float | None


@dataclass(frozen=True)
class Answered:
    """An answer, and how many passages it had to rest on."""

    text: str
    passages: int


def demo(text: Path | None, question: str | None, data_dir: Path) -> int:
    """Memorize, recall, retrieve, generate, restart, ask again; ends with a table of figures."""
    path = text or _sample_text()
    if path is None:
        raise ValueError("no sample text beside this installation: name one with --text")
    data = _read(path)
    asked = question or (_sample_question(path) if text is None else OWN_QUESTION)
    data_dir.mkdir(parents=True, exist_ok=True)
    store, log = data_dir / "store", data_dir / "server.log"
    print(f"starting a server in {data_dir} ...", flush=True)
    with own_server(store, log) as client:
        _introduce(client, path)
        committed = memorize_text(client, Source(path.name, data))
        print(f"\nquestion: {asked}")
        recalled = _recall(client, asked)
        _retrieve(client, asked)
        answered = _generate(client, asked)
    _heading("restart", "the server is stopped and started again on the same store")
    with own_server(store, log) as client:
        memory = client.get(MEMORY)
        print(f"still there: {memory.name} version {memory.version}, tier {memory.tier.value}")
        clues_hold = _recall(client, asked).clues == recalled.clues
        print(f"after the restart: {'the same clues' if clues_hold else 'OTHER CLUES'}")
        answer_holds = _generate(client, asked).text == answered.text
        print(f"after the restart: {'the same answer' if answer_holds else 'ANOTHER ANSWER'}")
        print(f"read from disk: tier {client.get(MEMORY).tier.value}")
    print()
    print(_figures(committed, recalled.first_clue_s, memory))
    return 0 if clues_hold and answer_holds and answered.passages else 1


def _sample_text() -> Path | None:
    """The sample corpus of a checkout, where this runs from one."""
    path = Path(__file__).resolve().parents[3] / "benchmarks" / "corpus" / "sample.txt"
    return path if path.is_file() else None


def _read(path: Path) -> bytes:
    """The text, looked at before a server is started for it. Raises OSError, ValueError."""
    text = path.read_bytes()
    if not text.decode("utf-8").strip():
        raise ValueError(f"{path} is empty")
    return text


def _sample_question(path: Path) -> str:
    facts = json.loads((path.parent / "sample_facts.json").read_text(encoding="utf-8"))
    listed = facts["facts"] if isinstance(facts, dict) else facts
    return str(listed[0]["question"])


def _heading(title: str, text: str = "") -> None:
    print(f"\n== {title}{': ' if text else ''}{text}", flush=True)


def _introduce(client: Client, path: Path) -> None:
    info = client.info()
    model = info.model
    print(
        f"memoserve {info.version}: model {model.name} ({model.family}, {model.layers} layers, "
        f"{model.dtype}), window {model.window}, ratio {model.default_ratio}; "
        f"embedder {info.embedder}; answers by {info.default_generator}"
    )
    print(f"text: {path} ({path.stat().st_size:,} bytes)")


def memorize_text(client: Client, source: Source) -> Committed:
    """Write the text at the default ratio, or at the one that the server says would hold it.

    Raises OutOfRange when none does.
    """
    _heading("memorize", "the text streams in, window by window only the beacons stay")
    ratio = client.info().model.default_ratio
    while True:
        try:
            committed = _write(client, source, ratio)
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


def _write(client: Client, source: Source, ratio: int) -> Committed:
    size = len(source.text) if isinstance(source.text, bytes) else 0
    bar = Bar(size)
    try:
        return client.memorize(
            MEMORY,
            [source],
            mode=WriteMode.REPLACE,
            ratio=ratio,
            expected_tokens=size // LEAST_BYTES_PER_TOKEN,
            on_event=bar,
        )
    finally:
        bar.close()


def _recall(client: Client, question: str) -> Recalled:
    note = (
        "clues from the memory"
        if client.info().model.clues_trusted
        else "this model is untrained, says its card: its clues are noise and are not used"
    )
    _heading("recall", note)
    # Greedy, so that the same memory says the same again.
    sampling = SamplingOptions(max_tokens=CLUE_TOKENS, temperature=0.0)
    clues: list[tuple[str, str]] = []
    first: float | None = None
    began = time.monotonic()
    with client.recall(
        MEMORY, question, sampling=sampling, return_dropped=True, stream_tokens=True
    ) as events:
        for event in events:
            if isinstance(event, Token) and first is None:
                first = time.monotonic() - began
            elif isinstance(event, Clue):
                state = f" (dropped: {event.dropped})" if event.dropped else ""
                print(f"[{event.kind.value}] {event.text[:160]!r}{state}", flush=True)
                clues.append((event.kind.value, event.text))
            elif isinstance(event, Final) and event.usage.first_clue_s is not None:
                first = event.usage.first_clue_s
    # The kinds are asked side by side: which comes first is no property of the memory.
    return Recalled(tuple(sorted(clues)), first)


def _retrieve(client: Client, question: str) -> None:
    _heading("retrieve", "passages by the question")
    with client.retrieve(MEMORY, question) as events:
        for event in events:
            if isinstance(event, Passage):
                print_passage(event)


def _generate(client: Client, question: str) -> Answered:
    _heading("generate", "the answer, streaming, with its place in the text")
    text, passages = "", 0
    with client.generate(MEMORY, question, task=Task.MEMORAG) as events:
        for event in events:
            if isinstance(event, Passage):
                passages += 1
            elif isinstance(event, Token):
                print(event.text, end="", flush=True)
            elif isinstance(event, Quote):
                print(
                    f"{event.text}\n    [{event.source_id}, characters "
                    f"{event.start_char}-{event.end_char}]",
                    flush=True,
                )
            elif isinstance(event, Final):
                text = event.text
    return Answered(text, passages)


def _figures(committed: Committed, clue_s: float | None, memory: Memory) -> str:
    stats = memory.stats
    saved = stats.full_kv_bytes / stats.kv_bytes if stats.kv_bytes else 0.0
    rows = [
        ("raw tokens", f"{stats.raw_tokens:,}"),
        ("beacons", f"{stats.memory_rows:,} (+ {stats.window_rows:,} rows of the open window)"),
        ("pages", f"{stats.pages:,} ({stats.wasted_slots:,} slots unused)"),
        ("KV bytes", f"{stats.kv_bytes:,}"),
        ("full KV bytes", f"{stats.full_kv_bytes:,} ({saved:.2f} times as many)"),
        ("passages", f"{stats.passages:,}"),
        ("memorize", f"{committed.tokens_added / committed.seconds:,.0f} tokens/s"),
        ("time to first clue", "none came" if clue_s is None else f"{clue_s * 1000:.0f} ms"),
    ]
    return table((), rows)
