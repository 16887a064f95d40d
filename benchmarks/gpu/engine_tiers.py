"""Stage ``engine``: memories that leave the device and come back, and how many stay on it."""

from __future__ import annotations

import os
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from benchmarks.gpu.bench import Bench, Section
from benchmarks.gpu.engine_model import Session, page_locked, random_state
from benchmarks.gpu.engine_times import FEATURES, PLAIN, open_session, random_model, read_times
from memoserve.engine.build import kv_shape
from memoserve.engine.device import DeviceOptions
from memoserve.engine.sequence import MemoryHandle
from memoserve.memory.memory import HostState, pages_of
from memoserve.memory.names import MemoryName
from memoserve.memory.store import Store
from memoserve.models.loader import LoadedModel


def tiers(bench: Bench) -> None:
    """A long memory to the host and back, to disk and back."""
    sizes, model = bench.sizes, random_model(bench)
    beacons = sizes.long_tokens // sizes.window * (sizes.window // sizes.ratios[0])
    host = random_state(bench.machine, sizes, beacons, bench.seed)
    size = host.memory_rows.nbytes
    _tiers(bench, open_session(bench, model), host, f"{size} bytes, {PLAIN}")
    ahead = open_session(bench, model, FEATURES["async copies"])
    shape = f"{size} bytes, async copies"
    _tiers(bench, ahead, host, shape)
    bench.guard("disk", shape, _disk, bench, ahead, host, shape)


def _tiers(bench: Bench, session: Session, host: HostState, shape: str) -> None:
    def restore(shape: str, host: HostState) -> None:
        for _ in range(2):  # the first warms up
            memory, seconds = session.restore(host)
            session.engine.release(memory)
        bench.rows.add("restore from host", shape, seconds * 1e3, "ms", "wall")
        bench.rows.add("restore from host", shape, host.memory_rows.nbytes / seconds / 1e9, "GB/s")

    bench.guard("restore from host", shape, restore, shape, host)
    named = f"{shape}, page-locked source"
    bench.guard("restore from host", named, restore, named, page_locked(bench.machine, host))

    def save() -> None:
        memory, _ = session.restore(host)
        timing = bench.machine.wall(lambda: session.engine.read(memory), 2)
        bench.add_time("copy to host", shape, timing, "wall")
        session.engine.release(memory)

    bench.guard("copy to host", shape, save)


def overlap(bench: Bench) -> None:
    """Readers decode on while a long memory is restored: in steps, and on a stream of its own."""
    sizes, model = bench.sizes, random_model(bench)
    beacons = sizes.long_tokens // sizes.window * (sizes.window // sizes.ratios[0])
    host = random_state(bench.machine, sizes, beacons, bench.seed)
    locked = page_locked(bench.machine, host)
    for name, features in ((PLAIN, None), ("async copies", FEATURES["async copies"])):
        shape = f"{host.memory_rows.nbytes} bytes restored beside, {name}"
        bench.guard("overlap", shape, _overlap, bench, model, shape, features, locked)


def _overlap(
    bench: Bench,
    model: LoadedModel,
    shape: str,
    features: DeviceOptions | None,
    host: HostState,
) -> None:
    session, count = open_session(bench, model, features), sorted(bench.sizes.readers)[-2]
    short = random_state(bench.machine, bench.sizes, bench.sizes.reader_beacons, bench.seed)
    memories = [session.restore(short)[0]] * count
    read_times(bench, session, f"readers={count}, {shape}", memories, beside=host)


def _disk(bench: Bench, session: Session, host: HostState, shape: str) -> None:
    """A snapshot as a commit writes it, with checksum and fsync, and back to the device."""
    with tempfile.TemporaryDirectory() as scratch, Store.open(Path(scratch)) as store:
        name = MemoryName("bench", "memory")
        store.create(name)
        began = time.perf_counter()
        with store.writer(name) as writer, writer.stage() as staging:
            staging.write_tensors("kv/0", {"kv": host.memory_rows})
            record = staging.commit({})
        bench.rows.add("snapshot to disk", shape, time.perf_counter() - began, "s", "fsynced")
        for cold in (True, False):
            if cold:
                _forget_pages(Path(scratch))
            began = time.perf_counter()
            rows = store.load_tensors(record, "kv/0")["kv"]
            loaded = time.perf_counter()
            memory, _ = session.restore(replace(host, memory_blocks=(rows,)))
            ended = time.perf_counter()
            session.engine.release(memory)
            cache = "page cache asked to forget it" if cold else "from the page cache"
            note = f"{cache}; checksum verified; {loaded - began:.3g} s of it off the disk"
            bench.rows.add("restore from disk", shape, ended - began, "s", note)


def _forget_pages(root: Path) -> None:
    """Ask the kernel to drop what it holds of all files below."""
    for path in root.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def resident(bench: Bench) -> None:
    """How many long memories stay on the device: by the pool's arithmetic, and by filling it."""
    model = random_model(bench)
    for dtype in ("auto", "int8"):
        shape = f"tokens={bench.sizes.resident_tokens} ratio={bench.sizes.ratios[0]} {dtype}"
        bench.guard("resident memories", shape, _resident, bench, model, shape, dtype)


def _resident(bench: Bench, model: LoadedModel, shape: str, dtype: str) -> None:
    sizes, session = bench.sizes, open_session(bench, model, dtype=dtype)
    pool = session.engine.pool
    beacons = sizes.resident_tokens // sizes.ratios[0]
    host = page_locked(bench.machine, random_state(bench.machine, sizes, beacons, bench.seed))
    page_bytes = kv_shape(model, dtype).page_bytes(pool.page_size)
    each = pages_of(beacons, pool.memory_page_size)
    counted = f"{pool.num_pages} pages of {page_bytes} bytes, {each} a memory"
    bench.rows.add("resident memories", shape, pool.num_pages // each, "memories", counted)
    held: list[MemoryHandle] = []
    # One more may make an engine that keeps something in reserve move another out: then it is full.
    while pool.num_free >= each and all(memory.paged is not None for memory in held):
        held.append(session.restore(host)[0])
    on_device = sum(memory.paged is not None for memory in held)
    note = "filled until the pool had no room for one more"
    bench.rows.add("resident memories", shape, on_device, "memories filled", note)
    for memory in held:
        session.engine.release(memory)


SECTIONS: dict[str, Section] = {"tiers": tiers, "overlap": overlap, "resident": resident}
