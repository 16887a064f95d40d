"""Any mix of work on a tiny pool drains, with every sequence and every page accounted for."""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

from memoserve.engine.sampler import SamplingParams
from memoserve.engine.sequence import Logits, MemoryHandle, Sequence
from memoserve.errors import Cancelled, ResourceExhausted
from memoserve.memory import window as win
from memoserve.memory.memory import HostState, pages_of
from tests.server.engine.comparing import same_state
from tests.server.engine.draws import Tier, World, close, law, text, tiers, worlds
from tests.server.fixtures import Driver, Outcome


@dataclass(frozen=True)
class Job:
    """One client: its text, whether it asks or memorizes, on what, and when it goes away."""

    length: float
    seed: int
    max_tokens: int
    base: int | None
    streamed: bool
    arrives: int
    cancelled: int | None


jobs = st.builds(
    Job,
    length=st.floats(0, 4),
    seed=st.integers(0, 99),
    max_tokens=st.sampled_from([0, 0, 1, 5, 12]),
    base=st.none() | st.integers(0, 1),
    streamed=st.booleans(),
    arrives=st.integers(0, 12),
    cancelled=st.none() | st.none() | st.integers(0, 20),
)


@dataclass
class Client:
    """A job under way."""

    job: Job
    sequence: Sequence
    outcome: Outcome
    unsent: list[int] = field(default_factory=list)


def least_pages(world: World) -> int:
    """Pages with which an engine just starts: one window and what it leaves."""
    rules, size = world.driver().engine.rules, world.page_size
    kept = max(win.kept_rows(rules, world.schedule, win.WindowState()), world.window)
    rows = max(win.full_rows(rules, world.schedule), world.window)
    sink = rules.sink_size
    return pages_of(rows, size) + pages_of(kept + sink, size)


def arrive(driver: Driver, world: World, job: Job, bases: list[MemoryHandle]) -> Client:
    tokens = list(text(world, (job.length, job.seed)))
    streamed = job.streamed and not job.max_tokens
    sequence, outcome = driver.submit(
        [] if streamed else tokens,
        None if job.base is None else bases[job.base],
        world.schedule,
        SamplingParams(max_tokens=job.max_tokens) if job.max_tokens else None,
        logits=Logits.ALL,
        input_open=streamed,
        keep=bool(job.max_tokens),
    )
    return Client(job, sequence, outcome, tokens if streamed else [])


Readings = list[tuple[MemoryHandle, Future[HostState]]]


def serve(
    driver: Driver, world: World, work: list[Job], bases: list[MemoryHandle]
) -> tuple[list[Client], Readings]:
    """Let the clients come, send and go while the engine steps, until all is done.

    Now and then somebody reads a memory out.
    """
    clients: list[Client] = []
    readings: Readings = []
    for step in range(3000):
        if bases and step % 6 == 5 and step < 40:
            readings.append((bases[step % len(bases)], Future()))
            driver.engine.start_reading(readings[-1][0], 0, readings[-1][1])
        clients += [arrive(driver, world, job, bases) for job in work if job.arrives == step]
        for client in clients:
            if client.job.cancelled == step:
                client.sequence.cancelled = True
            if client.unsent and step % 3 == 0:
                part, client.unsent = client.unsent[:5], client.unsent[5:]
                driver.engine.feed(client.sequence, part, last=not client.unsent)
        driver.engine.step()
        driver.engine.check_integrity()
        for client in clients:
            if client.outcome.reason is not None:
                check_and_release(driver, world, client, bases)
        if step > 12 and all(c.outcome.finished and not c.unsent for c in clients):
            return clients, readings
    states = [(c.job, c.sequence.status) for c in clients if not c.outcome.finished]
    raise AssertionError(f"not drained: {states}")


def check_and_release(
    driver: Driver, world: World, client: Client, bases: list[MemoryHandle]
) -> None:
    """What came out on the tiny pool is what comes out on a large one."""
    memory = client.outcome.memory
    if memory.paged is None and memory.host is None:
        return  # compared and released in an earlier step
    lone = world.driver()
    job = client.job
    base = None if job.base is None else driver.engine.read(bases[job.base])
    tokens = text(world, (job.length, job.seed))
    if job.max_tokens:
        wanted = lone.generate(tokens, base, job.max_tokens, schedule=world.schedule)
    else:
        wanted = lone.compress(tokens, base, world.schedule)
    certain = wanted.certain_tokens
    assert client.outcome.tokens[:certain] == wanted.tokens[:certain]
    if certain == len(wanted.tokens):
        close(client.outcome.logits, wanted.logits)
        rows = driver.engine.read(memory)
        close(rows.memory_rows, lone.engine.read(wanted.memory).memory_rows)
        close(rows.window_rows, lone.engine.read(wanted.memory).window_rows)
    driver.engine.release(memory)


@law
@given(
    world=worlds(),
    work=st.lists(jobs, min_size=1, max_size=7),
    spare=st.integers(0, 12),
    tier=tiers,
)
def test_any_mix_drains(world: World, work: list[Job], spare: int, tier: Tier) -> None:
    pages = least_pages(world) + spare
    driver = world.driver(num_pages=pages, copy_bytes=tier.copy_bytes, device=tier.device())
    bases = [
        driver.compress(text(world, (length, 1)), None, world.schedule, Logits.NONE)
        for length in (0.4, 1.3)
    ]
    kept = [b.memory for b in bases if b.error is None]
    assert all(isinstance(b.error, ResourceExhausted | None) for b in bases)
    work = [job for job in work if job.base is None or job.base < len(kept)]
    clients, readings = serve(driver, world, work, kept)
    driver.drain()
    for memory, answer in readings:
        same_state(answer.result(0), driver.engine.read(memory))
    for client in clients:
        error = client.outcome.error
        if isinstance(error, ResourceExhausted):
            assert int(error.metadata["pages_needed"]) > int(error.metadata["pages_total"])
            assert int(error.metadata["pages_total"]) == driver.engine.pool.num_pages
        elif error is not None:
            assert isinstance(error, Cancelled) and client.job.cancelled is not None
    for memory in kept:
        driver.engine.release(memory)
    assert driver.engine.pool.num_used == 0
    assert not driver.engine.busy
