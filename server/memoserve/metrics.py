"""Prometheus series of one server: a value with its own registry, made once and handed down."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.5, 1, 2.5, 5, 10, 30, 60, 120)


class Metrics:
    """All series; names are stable and start with ``memoserve_``."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._engine()
        self._queries()

    def _engine(self) -> None:
        r = self.registry
        self.step_seconds = Histogram(
            "memoserve_step_seconds", "Time of one engine step.", registry=r, buckets=SECONDS
        )
        self.step_sequences = Histogram(
            "memoserve_step_sequences",
            "Sequences in one engine step.",
            registry=r,
            buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256),
        )
        self.raw_tokens = Counter(
            "memoserve_raw_tokens", "Raw tokens fed, by what for.", ["use"], registry=r
        )
        self.queue_seconds = Histogram(
            "memoserve_queue_seconds",
            "Time from submission to admission.",
            registry=r,
            buckets=SECONDS,
        )
        self.sequences = Gauge(
            "memoserve_sequences", "Sequences by status.", ["status"], registry=r
        )
        self.pages = Gauge("memoserve_pages", "Pages by state.", ["state"], registry=r)
        self.wasted_slots = Gauge(
            "memoserve_wasted_slots", "Slots of held pages that hold no row.", registry=r
        )
        self.spills = Counter(
            "memoserve_spills", "Memories moved off the device, by cause.", ["cause"], registry=r
        )
        self.finished = Counter(
            "memoserve_sequences_finished", "Sequences ended, by outcome.", ["outcome"], registry=r
        )
        self.engine_up = Gauge("memoserve_engine_up", "1 while the engine runs.", registry=r)

    def _queries(self) -> None:
        r = self.registry
        self.rpc_seconds = Histogram(
            "memoserve_rpc_seconds",
            "Time of one RPC, by method and status code.",
            ["method", "code"],
            registry=r,
            buckets=SECONDS,
        )
        self.first_token_seconds = Histogram(
            "memoserve_first_token_seconds",
            "Time from a query's arrival to its first generated token, by stage.",
            ["stage"],
            registry=r,
            buckets=SECONDS,
        )
        self.between_tokens_seconds = Histogram(
            "memoserve_between_tokens_seconds",
            "Time between two tokens of a query.",
            registry=r,
            buckets=SECONDS,
        )
        self.memorize_tokens_per_second = Histogram(
            "memoserve_memorize_tokens_per_second",
            "Raw tokens a second of one Memorize.",
            registry=r,
            buckets=(10, 30, 100, 300, 1e3, 3e3, 1e4, 3e4, 1e5),
        )
        self.memories = Gauge("memoserve_memories", "Memories by tier.", ["tier"], registry=r)
        self.commits = Counter("memoserve_commits", "Versions committed.", registry=r)
        self.stored_bytes = Counter(
            "memoserve_stored_bytes", "Bytes newly written to the store.", registry=r
        )
