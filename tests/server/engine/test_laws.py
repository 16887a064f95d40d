"""The laws of the paged memory, each drawn over rules, page sizes, chunk limits and texts."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from memoserve.engine.sampler import SamplingParams
from memoserve.engine.sequence import Logits, MemoryHandle, Status
from memoserve.errors import Cancelled
from memoserve.memory import window as win
from memoserve.memory.memory import HostState
from tests.server.engine.draws import World, close, law, pieces, text, texts, worlds
from tests.server.fixtures import Driver, Outcome, is_resident, is_spilled
from tests.server.golden import unrotated


def same_state(actual: HostState, wanted: HostState) -> None:
    assert actual.state == wanted.state
    close(actual.memory_rows, wanted.memory_rows)
    close(actual.window_rows, wanted.window_rows)


def same_answer(actual: Outcome, wanted: Outcome) -> bool:
    """Tokens and logits agree; False where a close call makes the rest incomparable."""
    certain = wanted.certain_tokens
    assert actual.tokens[:certain] == wanted.tokens[:certain]
    if certain < len(wanted.tokens):
        return False
    close(actual.logits, wanted.logits)
    return True


def memory_of(world: World, tokens: tuple[int, ...], driver: Driver) -> MemoryHandle:
    return driver.compress(tokens, None, world.schedule, Logits.NONE).memory


@law
@given(world=worlds(), context=texts(), query=texts(1.5))
def test_paged_equals_dense(
    world: World, context: tuple[float, int], query: tuple[float, int]
) -> None:
    driver, dense = world.driver(), world.dense()
    tokens = text(world, context)
    memorized = driver.compress(tokens, None, world.schedule)
    close(memorized.logits, dense.feed(tokens))
    rows = unrotated(world.model, driver.engine.read(memorized.memory))
    for layer in range(2):
        keys, values = dense.memory(layer)
        close(rows[:, layer, 0], keys)
        close(rows[:, layer, 1], values)
    prompt = text(world, query)
    answered = driver.generate(prompt, memorized.memory, max_tokens=4)
    close(answered.logits, dense.feed([*prompt, *answered.tokens[:-1]]))
    certain = answered.certain_tokens
    assert answered.tokens[:certain] == answered.logits[-4:].argmax(-1).tolist()[:certain]


@law
@given(world=worlds(), context=texts(), data=st.data())
def test_split_equals_one_shot(
    world: World, context: tuple[float, int], data: st.DataObject
) -> None:
    tokens = text(world, context)
    driver = world.driver()
    sequence, split = driver.submit([], None, world.schedule, logits=Logits.ALL, input_open=True)
    parts = pieces(data.draw, tokens)
    for number, part in enumerate(parts):
        driver.engine.feed(sequence, part, last=number == len(parts) - 1)
        if data.draw(st.booleans()):
            driver.engine.step()
    driver.drain()
    plain = world.driver(chunk_tokens=0)
    whole = plain.compress(tokens, None, world.schedule)
    close(split.logits, whole.logits)
    same_state(driver.engine.read(split.memory), plain.engine.read(whole.memory))


@law
@given(world=worlds(), context=texts(), data=st.data())
def test_appended_equals_one_shot(
    world: World, context: tuple[float, int], data: st.DataObject
) -> None:
    tokens = text(world, context)
    driver = world.driver()
    whole = driver.compress(tokens, None, world.schedule)
    memory, logits = None, []
    for part in filter(None, pieces(data.draw, tokens)):
        outcome = driver.compress(part, memory, world.schedule)
        logits.append(outcome.logits)
        memory = outcome.memory
    assert memory is not None
    close(torch.cat(logits), whole.logits)
    same_state(driver.engine.read(memory), driver.engine.read(whole.memory))


@law
@given(world=worlds(), context=texts(2.5), tails=st.lists(texts(2.5), min_size=2, max_size=3))
def test_forks_isolate(
    world: World, context: tuple[float, int], tails: list[tuple[float, int]]
) -> None:
    """Forks run side by side, long enough that several close windows; none sees another."""
    tokens = text(world, context)
    driver = world.driver()
    memory = memory_of(world, tokens, driver)
    before = driver.engine.read(memory)
    prompts = [text(world, tail) for tail in tails]
    forks = [
        driver.submit(p, memory, sampling=SamplingParams(max_tokens=3), logits=Logits.ALL)[1]
        if number % 2
        else driver.submit(p, memory, logits=Logits.ALL)[1]
        for number, p in enumerate(prompts)
    ]
    driver.drain()
    after = driver.engine.read(memory)
    assert torch.equal(after.memory_rows, before.memory_rows)
    assert torch.equal(after.window_rows, before.window_rows)
    for prompt, fork in zip(prompts, forks, strict=True):
        lone = world.driver()
        base = memory_of(world, tokens, lone)
        wanted = (
            lone.generate(prompt, base, max_tokens=3)
            if fork.tokens
            else lone.compress(prompt, base)
        )
        if same_answer(fork, wanted) and not fork.tokens:
            same_state(driver.engine.read(fork.memory), lone.engine.read(wanted.memory))


@law
@given(world=worlds(), jobs=st.lists(st.tuples(texts(), st.integers(0, 4)), min_size=2, max_size=5))
def test_batched_equals_alone(world: World, jobs: list[tuple[tuple[float, int], int]]) -> None:
    driver = world.driver()
    together = []
    for drawn, max_tokens in jobs:
        sampling = SamplingParams(max_tokens=max_tokens) if max_tokens else None
        together.append(
            driver.submit(
                text(world, drawn),
                None,
                world.schedule,
                sampling,
                logits=Logits.ALL,
                keep=sampling is not None,
            )[1]
        )
    driver.drain()
    for (drawn, max_tokens), outcome in zip(jobs, together, strict=True):
        lone = world.driver()
        sampling = SamplingParams(max_tokens=max_tokens) if max_tokens else None
        _, wanted = lone.submit(
            text(world, drawn),
            None,
            world.schedule,
            sampling,
            logits=Logits.ALL,
            keep=sampling is not None,
        )
        lone.drain()
        if same_answer(outcome, wanted):
            same_state(driver.engine.read(outcome.memory), lone.engine.read(wanted.memory))


@law
@given(world=worlds(), context=texts(4.5), data=st.data())
def test_truncated_equals_prefix(
    world: World, context: tuple[float, int], data: st.DataObject
) -> None:
    tokens = text(world, context)
    driver = world.driver()
    memory = memory_of(world, tokens, driver)
    before = driver.engine.read(memory)
    windows = data.draw(st.integers(0, memory.state.windows_closed))
    cut = driver.engine.truncate(memory, windows)
    prefix = tokens[: windows * world.window]
    lone = world.driver()
    if prefix:
        same_state(driver.engine.read(cut), lone.engine.read(memory_of(world, prefix, lone)))
    # Going on from the cut is going on from the prefix, and the uncut memory stays.
    tail = text(world, (1.5, 7))
    grown = driver.compress(tail, cut)
    wanted = lone.compress(prefix + tail, None, world.schedule)
    close(grown.logits, wanted.logits[len(prefix) :])
    same_state(driver.engine.read(grown.memory), lone.engine.read(wanted.memory))
    assert torch.equal(driver.engine.read(memory).memory_rows, before.memory_rows)


@law
@given(world=worlds(), context=texts(), query=texts(1.5))
def test_reloaded_equals_resident(
    world: World, context: tuple[float, int], query: tuple[float, int]
) -> None:
    tokens, prompt = text(world, context), text(world, query)
    driver = world.driver()
    memory = memory_of(world, tokens, driver)
    resident = driver.generate(prompt, memory, max_tokens=3)
    host = driver.engine.read(memory)
    first = host.memory_rows.shape[0] // 2
    tail = driver.engine.read(memory, first)
    assert tail.first_row == first
    assert torch.equal(tail.memory_rows, host.memory_rows[first:])
    other = world.driver()
    reloaded = other.generate(prompt, host, max_tokens=3)
    if same_answer(reloaded, resident):
        same_state(other.engine.read(reloaded.memory), driver.engine.read(resident.memory))
    grown = other.compress(prompt, host)
    same_state(
        other.engine.read(grown.memory),
        driver.engine.read(driver.compress(prompt, memory).memory),
    )


@law
@given(world=worlds(), context=texts(), query=texts(1.5))
def test_spilled_equals_resident(
    world: World, context: tuple[float, int], query: tuple[float, int]
) -> None:
    prompt = text(world, query)
    driver = world.driver()
    memory = memory_of(world, text(world, context), driver)
    resident = driver.generate(prompt, memory, max_tokens=3)
    before = driver.engine.read(memory)
    driver.engine._admission.spill_handle(memory, "test")
    assert is_spilled(memory) and memory.state == before.state
    assert torch.equal(driver.engine.read(memory).memory_rows, before.memory_rows)
    again = driver.generate(prompt, memory, max_tokens=3)
    assert is_resident(memory)
    if same_answer(again, resident):
        same_state(driver.engine.read(again.memory), driver.engine.read(resident.memory))


@law
@given(world=worlds(), context=texts(), data=st.data())
def test_half_built_and_spilled_equals_resident(
    world: World, context: tuple[float, int], data: st.DataObject
) -> None:
    """A memory being made may leave the device between any two steps."""
    tokens = text(world, context)
    driver = world.driver()
    sequence, outcome = driver.submit(tokens, None, world.schedule, logits=Logits.ALL)
    while driver.engine.busy:
        driver.engine.step()
        if sequence.paged is not None and data.draw(st.booleans()):
            driver.engine._admission.spill_sequence(sequence)
            assert driver.engine.pool.num_used == 0
    lone = world.driver()
    wanted = lone.compress(tokens, None, world.schedule)
    close(outcome.logits, wanted.logits)
    same_state(driver.engine.read(outcome.memory), lone.engine.read(wanted.memory))


@law
@given(
    world=worlds(),
    context=texts(),
    query=texts(2),
    steps=st.integers(0, 6),
    generates=st.booleans(),
)
def test_a_cancelled_request_leaves_nothing(
    world: World,
    context: tuple[float, int],
    query: tuple[float, int],
    steps: int,
    generates: bool,
) -> None:
    driver = world.driver()
    memory = memory_of(world, text(world, context), driver)
    before, used = driver.engine.read(memory), driver.engine.pool.num_used
    pins = memory.pins
    sampling = SamplingParams(max_tokens=50) if generates else None
    sequence, outcome = driver.submit(
        text(world, query), memory, sampling=sampling, input_open=not generates
    )
    for _ in range(steps):
        driver.engine.step()
    sequence.cancelled = True
    driver.engine.step()
    assert sequence.status is Status.FINISHED
    assert isinstance(outcome.error, Cancelled)
    assert driver.engine.pool.num_used == used
    assert memory.pins == pins
    after = driver.engine.read(memory)
    assert torch.equal(after.memory_rows, before.memory_rows)
    assert torch.equal(after.window_rows, before.window_rows)


@law
@given(world=worlds(), context=texts(5))
def test_sizes_are_foretold(world: World, context: tuple[float, int]) -> None:
    """Rows and pages of a memory follow from the number of tokens alone."""
    tokens = text(world, context)
    driver = world.driver()
    memory = memory_of(world, tokens, driver)
    rules, state = driver.engine.rules, memory.state
    assert state == win.advance(rules, world.schedule, win.WindowState(), len(tokens))
    assert win.tokens_fed(rules, state) == len(tokens)
    paged = memory.paged
    assert paged is not None
    assert paged.memory.length == state.memory_rows
    assert paged.window.length == win.open_rows(rules, world.schedule, state)
    held = len(paged.memory.pages) + len(paged.window.pages)
    assert paged.num_pages == held == driver.engine.pool.num_used
    rows = paged.memory.length + paged.window.length
    assert paged.wasted_slots == held * world.page_size - rows < 2 * world.page_size
