"""The laws of the paged memory, each drawn over rules, page sizes, chunk limits and texts."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from memoserve.engine.sampler import SamplingParams
from memoserve.engine.sequence import Logits, Status
from memoserve.errors import Cancelled
from memoserve.memory import window as win
from tests.server.engine.comparing import memory_of, same_answer, same_state
from tests.server.engine.draws import World, close, law, pieces, text, texts, worlds
from tests.server.golden import unrotated


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
