"""``memoserve demo``: the main job once, on a server of its own, through the public client."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from memoserve.cli.commands import print_passage
from memoserve.cli.progress import Bar
from memoserve.cli.ready import READY
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
    Stage,
    Task,
    Token,
    WriteMode,
)

MEMORY = "demo"
OWN_QUESTION = "What is this text about?"
START_S = 180.0
CLUE_TOKENS = 48


@dataclass(frozen=True)
class Answered:
    """What a query brought."""

    text: str
    first_clue_s: float | None
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
    with _server(store, log) as client:
        _introduce(client, path)
        committed = _memorize(client, Source(path.name, data), len(data))
        answered = _ask(client, asked)
    _heading("restart", "the server is stopped and started again on the same store")
    with _server(store, log) as client:
        memory = client.get(MEMORY)
        print(f"still there: {memory.name} version {memory.version}, tier {memory.tier.value}")
        again = _generate(client, asked)
        same = "the same answer" if again.text == answered.text else "ANOTHER ANSWER"
        print(f"asked again after the restart: {same}; tier {client.get(MEMORY).tier.value}")
    print()
    print(_figures(committed, answered, memory))
    return 0 if again.text == answered.text and answered.passages else 1


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


@contextmanager
def _server(store: Path, log: Path) -> Iterator[Client]:
    """A server process on a free loopback port, and a client of it."""
    command = [sys.executable, "-m", "memoserve.cli", "serve", "--port", "0"]
    command += ["--data-dir", str(store)]
    with log.open("a", encoding="utf-8") as errors:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors, text=True
        )
    try:
        address = _address(process, log)
        with Client(address) as client:
            client.wait_ready(START_S)
            yield client
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _address(process: subprocess.Popen[str], log: Path) -> str:
    if process.stdout is None:
        raise RuntimeError("the server's output is not read")
    for line in process.stdout:
        if line.startswith(READY):
            return line.removeprefix(READY).strip()
    tail = log.read_text(encoding="utf-8").splitlines()[-5:]
    raise OSError("the server did not start:\n" + "\n".join(tail))


def _introduce(client: Client, path: Path) -> None:
    info = client.info()
    model = info.model
    print(
        f"memoserve {info.version}: model {model.name} ({model.family}, {model.layers} layers, "
        f"{model.dtype}), window {model.window}, ratio {model.default_ratio}; "
        f"embedder {info.embedder}; answers by {info.default_generator}"
    )
    print(f"text: {path} ({path.stat().st_size:,} bytes)")


def _memorize(client: Client, source: Source, text_bytes: int) -> Committed:
    _heading("memorize", "the text streams in, window by window only the beacons stay")
    bar = Bar(text_bytes)
    try:
        committed = client.memorize(MEMORY, [source], mode=WriteMode.REPLACE, on_event=bar)
    finally:
        bar.close()
    print(
        f"committed version {committed.memory.version}: {committed.tokens_added:,} tokens in "
        f"{committed.seconds:.1f} s"
    )
    return committed


def _ask(client: Client, question: str) -> Answered:
    print(f"\nquestion: {question}")
    first_clue = _recall(client, question)
    _heading("retrieve", "passages by the question")
    with client.retrieve(MEMORY, question) as events:
        passages = [event for event in events if isinstance(event, Passage)]
    for passage in passages:
        print_passage(passage)
    answered = _generate(client, question)
    return Answered(answered.text, first_clue, len(passages))


def _recall(client: Client, question: str) -> float | None:
    info = client.info()
    note = (
        ""
        if info.model.clues_trusted
        else ("this model is untrained, says its card: its clues are noise and are not used")
    )
    _heading("recall", note or "clues from the memory")
    sampling = SamplingOptions(max_tokens=CLUE_TOKENS)
    first: float | None = None
    began = time.monotonic()
    with client.recall(
        MEMORY, question, sampling=sampling, return_dropped=True, stream_tokens=True
    ) as events:
        for event in events:
            if isinstance(event, Token) and first is None:
                first = time.monotonic() - began
            if isinstance(event, Clue):
                state = f" (dropped: {event.dropped})" if event.dropped else ""
                print(f"[{event.kind.value}] {event.text[:160]!r}{state}", flush=True)
            if isinstance(event, Final) and event.usage.first_clue_s is not None:
                return event.usage.first_clue_s
    return first


def _generate(client: Client, question: str) -> Answered:
    _heading("generate", "the answer, streaming, with its place in the text")
    text, passages = "", 0
    with client.generate(MEMORY, question, task=Task.MEMORAG) as events:
        for event in events:
            if isinstance(event, Stage):
                continue
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
    return Answered(text, None, passages)


def _figures(committed: Committed, answered: Answered, memory: Memory) -> str:
    stats = memory.stats
    clue = answered.first_clue_s
    saved = stats.full_kv_bytes / stats.kv_bytes if stats.kv_bytes else 0.0
    rows = [
        ("raw tokens", f"{stats.raw_tokens:,}"),
        ("beacons", f"{stats.memory_rows:,} (+ {stats.window_rows:,} rows of the open window)"),
        ("pages", f"{stats.pages:,} ({stats.wasted_slots:,} slots unused)"),
        ("KV bytes", f"{stats.kv_bytes:,}"),
        ("full KV bytes", f"{stats.full_kv_bytes:,} ({saved:.2f} times as many)"),
        ("passages", f"{stats.passages:,}"),
        ("memorize", f"{committed.tokens_added / committed.seconds:,.0f} tokens/s"),
        ("time to first clue", "none came" if clue is None else f"{clue * 1000:.0f} ms"),
    ]
    return table((), rows)
