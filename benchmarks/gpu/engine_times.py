"""Stage ``engine``: a random-weight Qwen2-7B through the real engine.

Wall-clock times of whole requests, host work included, as a client of the engine thread sees
them. Random weights cost what trained ones cost; what is read and answered means nothing.
"""

from __future__ import annotations

import statistics
from itertools import chain

from benchmarks.gpu.bench import Bench, Section
from benchmarks.gpu.ceilings import ceilings_of
from benchmarks.gpu.engine_model import (
    Reading,
    Session,
    model_of,
    page_locked,
    random_ids,
    random_state,
    random_weights,
)
from benchmarks.gpu.floors import memorize_flops
from memoserve.engine.device import DeviceOptions
from memoserve.engine.sequence import MemoryHandle
from memoserve.memory.memory import HostState, pages_of
from memoserve.models.loader import LoadedModel

# One switched on at a time, then all; each is off by default until its rows are right.
FEATURES = {
    "graphs": DeviceOptions(graphs=True),
    "pinned uploads": DeviceOptions(pinned_uploads=True),
    "async copies": DeviceOptions(async_copies=True),
    "all": DeviceOptions(graphs=True, pinned_uploads=True, async_copies=True),
}
PLAIN = "plain"


def random_model(bench: Bench) -> LoadedModel:
    """The memory model of this run's shape, made anew on the device."""
    return model_of(bench.sizes, random_weights(bench.machine, bench.sizes, bench.seed))


def open_session(
    bench: Bench, model: LoadedModel, features: DeviceOptions | None = None, dtype: str = "auto"
) -> Session:
    """A fresh engine; its pool takes what a step leaves free."""
    bench.machine.forget_flush_buffer()
    bench.machine.tidy()
    size = bench.sizes.page_size
    return Session(bench.machine, model, bench.deadline, features, dtype, page_size=size)


# -- taking in a text ------------------------------------------------------------------------------


def memorize(bench: Bench) -> None:
    """A short and a long text at each ratio, and a window appended to the long memory."""
    ceilings, sizes = ceilings_of(bench), bench.sizes
    session = open_session(bench, random_model(bench))
    for ratio in sizes.ratios:  # warm-up
        memory, _ = session.memorize(random_ids(sizes, 2 * sizes.window, 9), ratio)
        session.engine.release(memory)
    for tokens in (sizes.short_tokens, sizes.long_tokens):
        for ratio in sizes.ratios:
            shape = f"tokens={tokens} ratio={ratio}"
            floor = memorize_flops(sizes, tokens, ratio) / ceilings.flops_per_s
            bench.guard("memorize", shape, _memorize, bench, session, shape, tokens, ratio, floor)


def _memorize(
    bench: Bench, session: Session, shape: str, tokens: int, ratio: int, floor: float
) -> None:
    memory, seconds = session.memorize(random_ids(bench.sizes, tokens, bench.seed), ratio)
    try:
        bench.rows.add("memorize", shape, seconds, "s", "wall, weights random")
        bench.rows.add("memorize", shape, tokens / seconds, "tokens/s")
        bench.rows.add("memorize", shape, floor, "s floor", "matrix rate")
        bench.rows.add("memorize", shape, 100 * floor / seconds, "% of the floor's rate")
        if tokens == bench.sizes.long_tokens:
            _append(bench, session, memory, tokens, ratio)
    finally:
        session.engine.release(memory)


def _append(bench: Bench, session: Session, memory: MemoryHandle, tokens: int, ratio: int) -> None:
    more = bench.sizes.window
    shape = f"tokens={more} onto {tokens} ratio={ratio}"
    longer, seconds = session.memorize(random_ids(bench.sizes, more, 3), ratio, memory)
    bench.rows.add("append", shape, seconds * 1e3, "ms", "wall")
    session.engine.release(longer)


# -- reading it ------------------------------------------------------------------------------------


def readers(bench: Bench) -> None:
    """Time to the first token and between tokens of 1 to 64 readers of one memory."""
    _readers(bench, open_session(bench, random_model(bench)), PLAIN)


def _readers(bench: Bench, session: Session, name: str) -> None:
    sizes = bench.sizes
    host = random_state(bench.machine, sizes, sizes.reader_beacons, bench.seed)
    memory, _ = session.restore(host)
    for count in sizes.readers:
        shape = f"readers={count} beacons={sizes.reader_beacons} one memory, {name}"
        bench.guard("query", shape, _read_rows, bench, session, shape, [memory] * count)
    session.engine.release(memory)


def _read_rows(bench: Bench, session: Session, shape: str, memories: list[MemoryHandle]) -> None:
    read_times(bench, session, shape, memories)


def read_times(
    bench: Bench,
    session: Session,
    shape: str,
    memories: list[MemoryHandle],
    beside: HostState | None = None,
) -> float:
    """Rows of one reader a memory; returns the median seconds between two tokens.

    ``beside`` is restored while they read.
    """
    query = random_ids(bench.sizes, bench.sizes.query_tokens, 5)
    session.read(memories, query, 3)  # this batch size's warm-up
    reading = session.read(memories, query, bench.sizes.new_tokens, beside)
    return _add_reading(bench, shape, reading, len(memories))


def _add_reading(bench: Bench, shape: str, reading: Reading, count: int) -> float:
    """Rows of a reading; returns the median seconds between two tokens."""
    first, between = statistics.median(reading.first_s), statistics.median(reading.between_s)
    spread = f"min {min(reading.first_s) * 1e3:.4g} max {max(reading.first_s) * 1e3:.4g} ms"
    asked = f"{bench.sizes.query_tokens}-token query; all at once; {spread}"
    bench.rows.add("first token", shape, first * 1e3, "ms", asked)
    slowest = f"max {max(reading.between_s) * 1e3:.4g} ms of {len(reading.between_s)}"
    bench.rows.add("between tokens", shape, between * 1e3, "ms", slowest)
    bench.rows.add("decode", shape, count / between, "tokens/s", "of all readers")
    return between


def separate(bench: Bench) -> None:
    """As many readers of one memory and of separate ones: tokens/s of both, and their ratio."""
    sizes, session = bench.sizes, open_session(bench, random_model(bench))
    host = random_state(bench.machine, sizes, sizes.reader_beacons, bench.seed)
    count = min(max(sizes.readers), _fitting(bench, session, host))
    shape = f"readers={count} beacons={sizes.reader_beacons}"
    bench.guard("query", shape, _separate, bench, session, shape, host, count)


def _separate(bench: Bench, session: Session, shape: str, host: HostState, count: int) -> None:
    locked = page_locked(bench.machine, host)
    memories = [session.restore(locked)[0] for _ in range(count)]
    one = read_times(bench, session, f"{shape} one memory", memories[:1] * count)
    apart = read_times(bench, session, f"{shape} separate", memories)
    bench.rows.add("decode ratio", f"{shape} one / separate", apart / one, "x tokens/s")


def _fitting(bench: Bench, session: Session, host: HostState) -> int:
    """Memories of this state that fit beside a window for the query of each."""
    pool, sizes = session.engine.pool, bench.sizes
    rows = 2 * (sizes.query_tokens + sizes.new_tokens)
    each = pages_of(host.state.memory_rows, pool.memory_page_size) + pages_of(rows, pool.page_size)
    return max(pool.num_free // (each + 2), 1)


# -- features --------------------------------------------------------------------------------------


def features(bench: Bench) -> None:
    """The readers again with each feature on, and how many tokens stay what they were.

    Other batch shapes round otherwise in bfloat16, so a close call may fall the other way; that a
    feature is right is what the golden cases say, with each on.
    """
    model = random_model(bench)
    plain = _answer(bench, model, None)
    wanted = {"all": FEATURES["all"]} if bench.machine.dry else FEATURES  # each costs an engine
    for name, options in wanted.items():
        bench.guard("query", f"feature {name}", _feature, bench, model, name, options, plain)


def _feature(
    bench: Bench, model: LoadedModel, name: str, options: DeviceOptions, plain: list[list[int]]
) -> None:
    ours, others = _answer(bench, model, options), plain
    same = [a == b for a, b in zip(chain(*ours), chain(*others), strict=True)]
    share = 100 * sum(same) / len(same)
    bench.rows.add("same tokens", name, share, "% as without it", "greedy, of a few readers")
    _readers(bench, open_session(bench, model, options), name)


def _answer(bench: Bench, model: LoadedModel, options: DeviceOptions | None) -> list[list[int]]:
    """Greedy tokens of a few readers of a memory made here."""
    session, sizes = open_session(bench, model, options), bench.sizes
    memory, _ = session.memorize(random_ids(sizes, 2 * sizes.window, 1), sizes.ratios[0])
    queries = [random_ids(sizes, sizes.query_tokens, seed) for seed in range(3)]
    return session.answers(memory, queries, sizes.new_tokens)


SECTIONS: dict[str, Section] = {
    "memorize": memorize,
    "readers": readers,
    "separate readers": separate,
    "features": features,
}
