"""Commands that talk to a running server, through the public client alone."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from memoserve.cli.progress import Bar
from memoserve.cli.tables import table
from memoserve_client import (
    Client,
    Clue,
    ClueKind,
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

DEFAULT_TIMEOUT_S = 60.0


def connect(arguments: argparse.Namespace) -> Client:
    """Client of the server that the arguments name."""
    return Client(
        arguments.target,
        namespace=arguments.namespace,
        root_certificates=arguments.tls_ca.read_bytes() if arguments.tls_ca else None,
        insecure=arguments.insecure,
    )


def _sources(files: list[str]) -> Iterator[Source]:
    for name in files:
        if name == "-":
            if sys.stdin is None:
                raise ValueError("standard input is closed: name a file")
            yield Source("stdin", sys.stdin.buffer)
        else:
            yield Source(Path(name).name, Path(name).read_bytes())


def memorize(arguments: argparse.Namespace) -> int:
    """Write files into a memory."""
    sources = list(_sources(arguments.files))
    sizes = [len(source.text) if isinstance(source.text, bytes) else None for source in sources]
    bar = Bar(
        sum(size or 0 for size in sizes) if None not in sizes else None, quiet=arguments.quiet
    )
    try:
        with connect(arguments) as client:
            committed = client.memorize(
                arguments.memory,
                sources,
                on_event=bar,
                timeout=arguments.timeout,
                mode=WriteMode.REPLACE if arguments.replace else WriteMode.APPEND,
                ratio=arguments.ratio,
                request_id=arguments.request_id,
                index=not arguments.no_index,
                allow_extrapolation=arguments.allow_extrapolation,
            )
    finally:
        bar.close()
    memory = committed.memory
    again = "committed before" if committed.replayed else f"in {committed.seconds:.1f} s"
    print(f"{memory.name}@{memory.version}: {committed.tokens_added} tokens {again}")
    return 0


def _refs(arguments: argparse.Namespace) -> list[str]:
    return [ref for ref in arguments.memory.split(",") if ref]


def recall(arguments: argparse.Namespace) -> int:
    """Print clues as they come."""
    with (
        connect(arguments) as client,
        client.recall(
            _refs(arguments),
            arguments.query,
            timeout=arguments.timeout,
            kinds=[ClueKind(kind) for kind in arguments.kind or ()],
            sampling=SamplingOptions(max_tokens=arguments.max_tokens),
        ) as events,
    ):
        for event in events:
            if isinstance(event, Clue):
                print_clue(event)
    return 0


def print_clue(clue: Clue, out: TextIO | None = None) -> None:
    """One clue with its kind."""
    print(f"[{clue.kind.value}] {clue.text}", file=out, flush=True)


def _within(arguments: argparse.Namespace) -> float:
    """Seconds a short call may take."""
    return DEFAULT_TIMEOUT_S if arguments.timeout is None else float(arguments.timeout)


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
    """Print the answer as it is written, the clues it rests on to standard error."""
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
            if isinstance(event, Clue):
                print_clue(event, sys.stderr)
            elif isinstance(event, Token):
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
            for memory in client.list(timeout=_within(arguments))
        ]
    print(table(("memory", "version", "raw tokens", "memory rows", "tier"), rows))
    return 0


def show(arguments: argparse.Namespace) -> int:
    """Print one memory."""
    with connect(arguments) as client:
        print(describe(client.get(arguments.memory, timeout=_within(arguments))))
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
        client.delete(arguments.memory, timeout=_within(arguments))
    return 0


def info(arguments: argparse.Namespace) -> int:
    """Print what the server is."""
    with connect(arguments) as client:
        server = client.info(timeout=_within(arguments))
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
