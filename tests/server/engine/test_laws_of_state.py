"""Laws of a memory's state: cut, copied to the host, spilled and back, it stays the same memory."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from memoserve.engine.sequence import Logits
from tests.server.engine.comparing import memory_of, same_answer, same_state
from tests.server.engine.draws import World, close, law, text, texts, worlds
from tests.server.fixtures import is_resident, is_spilled


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
