"""Commands that talk to a running server, through the public client alone."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

from tqdm import tqdm

from memoserve.cli.tables import table
from memoserve_client import (
    Client,
    Clue,
    Committed,
    Final,
    MemorizeEvent,
    Memory,
    Notice,
    Passage,
    Progress,
    Quote,
    SamplingOptions,
    Source,
    Task,
    Token,
    WriteMode,
)

PIECE_CHARS = 1 << 16


def connect(arguments: argparse.Namespace) -> Client:
    """Client of the server that the arguments name."""
    return Client(arguments.target, namespace=arguments.namespace, insecure=arguments.insecure)


class Bar:
    """A progress bar of a Memorize; plain lines where standard error is no terminal."""

    def __init__(self, text_bytes: int | None, quiet: bool = False) -> None:
        self._bar = tqdm(
            total=None,
            unit="tok",
            unit_scale=True,
            desc="memorize",
            disable=quiet,
            mininterval=0.2,
            file=sys.stderr,
            ascii=not sys.stderr.isatty(),
        )
        self._bytes = text_bytes

    def __call__(self, event: MemorizeEvent) -> None:
        """Show an event."""
        if isinstance(event, Progress):
            self._bar.total = max(event.tokens_received, event.tokens_done)
            self._bar.set_postfix(beacons=event.memory_rows, passages=event.passages, refresh=False)
            self._bar.update(event.tokens_done - self._bar.n)
        elif isinstance(event, Notice):
            self._bar.write(f"{event.code}: {event.message}", file=sys.stderr)
        elif isinstance(event, Committed):
            self._bar.close()


def _sources(files: list[str]) -> Iterator[Source]:
    for name in files:
        if name == "-":
            yield Source("stdin", sys.stdin.buffer)
        else:
            yield Source(Path(name).name, Path(name).read_bytes())


def memorize(arguments: argparse.Namespace) -> int:
    """Write files into a memory."""
    with connect(arguments) as client:
        committed = client.memorize(
            arguments.memory,
            _sources(arguments.files),
            on_event=Bar(None, arguments.quiet),
            timeout=arguments.timeout,
            mode=WriteMode.REPLACE if arguments.replace else WriteMode.APPEND,
            ratio=arguments.ratio,
            request_id=arguments.request_id,
            index=not arguments.no_index,
            allow_extrapolation=arguments.allow_extrapolation,
        )
    memory = committed.memory
    print(
        f"{memory.name}@{memory.version}: {committed.tokens_added} tokens in "
        f"{committed.seconds:.1f} s"
    )
    return 0


def _refs(arguments: argparse.Namespace) -> list[str]:
    return [ref for ref in arguments.memory.split(",") if ref]


def recall(arguments: argparse.Namespace) -> int:
    """Print clues as they come."""
    sampling = SamplingOptions(max_tokens=arguments.max_tokens)
    with (
        connect(arguments) as client,
        client.recall(
            _refs(arguments), arguments.query, timeout=arguments.timeout, sampling=sampling
        ) as events,
    ):
        for event in events:
            if isinstance(event, Clue):
                print(f"[{event.kind.value}] {event.text}", flush=True)
    return 0


def print_passage(passage: Passage) -> None:
    """One passage with its place."""
    place = f"{passage.source_id or 'text'}:{passage.start_char}-{passage.end_char}"
    text = " ".join(passage.text.split())
    print(f"[{passage.score:.3f} {place}] {text[:300]}{'...' if len(text) > 300 else ''}")


def retrieve(arguments: argparse.Namespace) -> int:
    """Print passages."""
    with (
        connect(arguments) as client,
        client.retrieve(
            _refs(arguments), arguments.query, timeout=arguments.timeout, top_k=arguments.top_k
        ) as events,
    ):
        for event in events:
            if isinstance(event, Passage):
                print_passage(event)
    return 0


def generate(arguments: argparse.Namespace) -> int:
    """Print the answer as it is written."""
    with (
        connect(arguments) as client,
        client.generate(
            _refs(arguments),
            arguments.query,
            timeout=arguments.timeout,
            task=Task(arguments.task),
            generator=arguments.generator,
            top_k=arguments.top_k,
            use_clues=arguments.clues,
            sampling=SamplingOptions(max_tokens=arguments.max_tokens),
        ) as events,
    ):
        for event in events:
            if isinstance(event, Token):
                print(event.text, end="", flush=True)
            elif isinstance(event, Quote):
                print(f"{event.text}  [{event.source_id or 'text'}:{event.start_char}]", flush=True)
            elif isinstance(event, Final):
                print()
    return 0


def list_memories(arguments: argparse.Namespace) -> int:
    """Print a table of memories."""
    with connect(arguments) as client:
        rows = [
            (
                str(memory.name),
                str(memory.version),
                f"{memory.stats.raw_tokens:,}",
                f"{memory.stats.memory_rows:,}",
                memory.tier.value,
            )
            for memory in client.list()
        ]
    print(table(("memory", "version", "raw tokens", "memory rows", "tier"), rows))
    return 0


def show(arguments: argparse.Namespace) -> int:
    """Print one memory."""
    with connect(arguments) as client:
        print(describe(client.get(arguments.memory)))
    return 0


def describe(memory: Memory) -> str:
    """A memory as a two-column table."""
    stats = memory.stats
    rows = [
        ("memory", f"{memory.name}@{memory.version}"),
        ("model", f"{memory.model}, window {memory.window}, ratio {memory.ratio}"),
        ("language", memory.language.value),
        ("labels", ", ".join(f"{k}={v}" for k, v in memory.labels.items()) or "-"),
        ("tier", memory.tier.value),
        ("raw tokens", f"{stats.raw_tokens:,} of {stats.capacity_tokens:,}"),
        ("memory rows", f"{stats.memory_rows:,} + {stats.window_rows:,} in the open window"),
        ("pages", f"{stats.pages:,} ({stats.wasted_slots:,} slots unused)"),
        ("KV bytes", f"{stats.kv_bytes:,} of {stats.full_kv_bytes:,} uncompressed"),
        ("on disk", f"{stats.stored_bytes:,} bytes"),
        ("text", f"{stats.text_bytes:,} bytes, {stats.sources} sources, {stats.passages} passages"),
        ("updated", memory.update_time.isoformat(timespec="seconds")),
    ]
    return table((), rows)


def delete(arguments: argparse.Namespace) -> int:
    """Delete a memory."""
    with connect(arguments) as client:
        client.delete(arguments.memory)
    return 0


def info(arguments: argparse.Namespace) -> int:
    """Print what the server is."""
    with connect(arguments) as client:
        server = client.info()
    model = server.model
    rows = [
        ("version", server.version),
        ("model", f"{model.name} ({model.family}, {model.dtype}), window {model.window}"),
        ("ratios", f"{', '.join(map(str, model.ratios))}; default {model.default_ratio}"),
        ("backend", f"{server.backend} on {server.device}"),
        ("generators", f"{', '.join(server.generators)}; default {server.default_generator}"),
        ("embedder", server.embedder),
        ("pages", f"{server.pages_free:,} of {server.pages_total:,} free, {server.page_size} rows"),
    ]
    print(table((), rows))
    return 0
