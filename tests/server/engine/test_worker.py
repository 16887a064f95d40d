"""The engine's thread and the tickets on it: nobody hangs, nothing leaks, nothing spins."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any, NoReturn

import pytest
import torch

from memoserve.engine.engine import Engine
from memoserve.engine.sampler import SamplingParams
from memoserve.engine.sequence import Done, Event, Fed, SequenceRequest, TokenOut
from memoserve.engine.ticket import MAX_BACKLOG_WINDOWS, Ticket
from memoserve.engine.worker import RETRY_S, EngineWorker
from memoserve.errors import DeadlineExceeded, Unavailable
from memoserve.memory.window import RatioSchedule
from tests.server.fixtures import make_driver, random_ids, tiny_model

WINDOW = 8
PAGES = 256


@pytest.fixture
def engine() -> Engine:
    return make_driver(tiny_model(), num_pages=PAGES).engine


@pytest.fixture
def worker(engine: Engine) -> Iterator[EngineWorker]:
    made = EngineWorker(engine)
    made.start()
    yield made
    made.stop()


def compress(tokens: tuple[int, ...] = (), **more: Any) -> SequenceRequest:
    return SequenceRequest(lambda _: None, RatioSchedule((4,)), tokens=tokens, **more)


def write(max_tokens: int, **more: Any) -> SequenceRequest:
    return compress(random_ids(5, 1), sampling=SamplingParams(max_tokens=max_tokens), **more)


async def result(future: Future[Any]) -> Any:
    return await asyncio.wait_for(asyncio.wrap_future(future), 30)


async def drained(ticket: Ticket) -> list[Event]:
    return [event async for event in ticket.events()]


async def free_pages(worker: EngineWorker) -> int:
    free: int = await result(worker.call(lambda engine: engine.pool.num_free))
    return free


class Gate:
    """Holds the engine's thread between two steps, as a long step would."""

    def __init__(self, worker: EngineWorker) -> None:
        self._open, entered = threading.Event(), threading.Event()

        def hold(_: Engine) -> None:
            entered.set()
            assert self._open.wait(30)

        worker.tell(hold)
        assert entered.wait(30)

    def open(self) -> None:
        self._open.set()


# -- calls


async def test_calls_run_in_order_on_the_engines_thread(worker: EngineWorker) -> None:
    order: list[int] = []

    def note(number: int) -> Callable[[Engine], None]:
        return lambda _: order.append(number)

    for number in range(20):
        worker.tell(note(number))
    name = await result(worker.call(lambda _: threading.current_thread().name))
    assert name == "memoserve-engine"
    assert order == list(range(20))


async def test_an_error_of_a_call_is_its_callers_alone(worker: EngineWorker) -> None:
    def fail(_: Engine) -> NoReturn:
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        await result(worker.call(fail))
    assert worker.alive


async def test_an_error_nobody_waits_for_is_logged(
    worker: EngineWorker, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(_: Engine) -> NoReturn:
        raise KeyError("lost")

    with caplog.at_level(logging.ERROR):
        worker.tell(fail)
        await free_pages(worker)
    assert "lost" in caplog.text
    caplog.clear()
    worker.stop()
    worker.tell(fail)
    assert not caplog.records


async def test_after_stop_and_before_start_everything_is_refused(engine: Engine) -> None:
    worker = EngineWorker(engine)
    for started in (False, True):
        assert not worker.alive
        with pytest.raises(Unavailable):
            await result(worker.call(lambda engine: engine))
        with pytest.raises(Unavailable):
            async with worker.submit(compress(random_ids(9, 1))) as ticket:
                await drained(ticket)
        if not started:
            worker.start()
            assert engine.metrics.engine_up._value.get() == 1
            worker.stop()
            worker.stop()
    assert engine.metrics.engine_up._value.get() == 0


async def test_a_memory_is_read_out_while_others_go_on(worker: EngineWorker) -> None:
    async with worker.submit(compress(random_ids(20, 1))) as ticket:
        await drained(ticket)
        memory = ticket.take_memory()
    wanted = await result(worker.call(lambda engine: engine.read(memory, 2)))
    async with worker.submit(write(40)) as ticket:
        rows = await result(worker.read(memory, 2))
    assert torch.equal(rows.memory_rows, wanted.memory_rows) and rows.first_row == 2
    assert torch.equal(rows.window_rows, wanted.window_rows)
    await result(worker.call(lambda engine: engine.release(memory)))
    assert await free_pages(worker) == PAGES
    with pytest.raises(ValueError, match="dropped"):
        await result(worker.read(memory))
    worker.stop()
    with pytest.raises(Unavailable):
        await result(worker.read(memory))


# -- tickets


async def test_a_ticket_tells_all_events_and_hands_its_memory_over(worker: EngineWorker) -> None:
    async with worker.submit(compress(random_ids(20, 1))) as ticket:
        events = await drained(ticket)
        assert isinstance(events[-1], Done)
        assert [e.tokens for e in events if isinstance(e, Fed)] == [8, 16, 20]
        memory = ticket.take_memory()
        with pytest.raises(ValueError, match="has not ended in a memory"):
            ticket.take_memory()
    assert await free_pages(worker) < PAGES
    await result(worker.call(lambda engine: engine.release(memory)))
    assert await free_pages(worker) == PAGES


async def test_a_memory_nobody_took_is_released(worker: EngineWorker) -> None:
    async with worker.submit(compress(random_ids(20, 1))) as ticket:
        await drained(ticket)
    assert await free_pages(worker) == PAGES


async def test_leaving_at_any_time_leaves_no_page(worker: EngineWorker) -> None:
    for number in range(30):
        async with worker.submit(compress(random_ids(60, number))):
            await asyncio.sleep(number * 0.001)
        assert await free_pages(worker) == PAGES, number


async def test_a_writing_is_cancelled_within_a_step(worker: EngineWorker) -> None:
    async with worker.submit(write(400)) as ticket:
        async for event in ticket.events():
            if isinstance(event, TokenOut):
                break
        before = await result(worker.call(lambda engine: engine._steps))
    assert await result(worker.call(lambda engine: engine._steps)) <= before + 2
    assert await free_pages(worker) == PAGES


async def test_leaving_waits_for_the_pages_also_behind_a_long_step(worker: EngineWorker) -> None:
    ticket = worker.submit(write(400))
    async for event in ticket.events():
        if isinstance(event, TokenOut):
            break
    gate = Gate(worker)
    leaving = asyncio.create_task(ticket.__aexit__(None, None, None))
    await asyncio.sleep(0.05)
    assert not leaving.done()
    gate.open()
    await leaving
    assert worker.num_free_pages == PAGES


async def test_a_submission_that_fails_is_told_and_leaves_no_ticket(worker: EngineWorker) -> None:
    async with worker.submit(compress(random_ids(20, 1))) as ticket:
        await drained(ticket)
        gone = ticket.take_memory()
    await result(worker.call(lambda engine: engine.release(gone)))
    with pytest.raises(ValueError, match="gone"):
        async with worker.submit(write(4, base=gone)) as ticket:
            await drained(ticket)
    assert worker.alive
    assert not worker._tickets


async def test_a_sender_is_held_back_while_the_engine_is_behind(worker: EngineWorker) -> None:
    async with worker.submit(compress(input_open=True)) as ticket:
        gate = Gate(worker)
        await asyncio.wait_for(ticket.feed(random_ids(MAX_BACKLOG_WINDOWS * WINDOW - 1, 1)), 5)
        feeding = asyncio.create_task(ticket.feed(random_ids(1, 2)))
        await asyncio.sleep(0.05)
        assert not feeding.done()
        gate.open()
        await asyncio.wait_for(feeding, 5)
        await ticket.feed([], last=True)
        events = await drained(ticket)
        assert [e for e in events if isinstance(e, Fed)][-1].tokens == MAX_BACKLOG_WINDOWS * WINDOW


async def test_a_sender_that_is_held_back_learns_of_the_end(worker: EngineWorker) -> None:
    async with worker.submit(compress(input_open=True)) as ticket:
        gate = Gate(worker)
        feeding = asyncio.create_task(ticket.feed(random_ids(10 * WINDOW, 1)))
        await asyncio.sleep(0.02)
        threading.Thread(target=worker.stop).start()
        await asyncio.sleep(0.02)
        gate.open()
        await asyncio.wait_for(feeding, 5)
        with pytest.raises(Unavailable):
            await drained(ticket)


# -- an engine that fails


def break_engine(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """The next step that begins waits for the event, then fails."""
    go = threading.Event()

    def fail() -> NoReturn:
        assert go.wait(30)
        raise RuntimeError("the device is lost")

    monkeypatch.setattr(engine, "step", fail)
    return go


@pytest.mark.parametrize("broken_books", [False, True])
async def test_when_the_engine_fails_everybody_waiting_is_told(
    worker: EngineWorker, engine: Engine, monkeypatch: pytest.MonkeyPatch, broken_books: bool
) -> None:
    idle = worker.submit(compress(input_open=True))
    await free_pages(worker)
    go = break_engine(engine, monkeypatch)
    if broken_books:
        monkeypatch.setattr(engine, "fail_all", lambda _: 1 / 0)
    running = [worker.submit(write(50)) for _ in range(3)]
    await asyncio.sleep(0.05)
    late = worker.submit(write(50))  # in the inbox while the last step runs
    call = worker.call(lambda engine: engine.pool.num_free)
    go.set()
    for ticket in (idle, *running, late):
        with pytest.raises(Unavailable):
            await asyncio.wait_for(drained(ticket), 5)
        await asyncio.wait_for(ticket.__aexit__(None, None, None), 5)
    assert isinstance(await result(call), int)
    assert not worker.alive
    assert engine.metrics.engine_up._value.get() == 0
    with pytest.raises(Unavailable):
        await result(worker.call(lambda engine: engine))
    with pytest.raises(Unavailable):
        async with worker.submit(write(4)) as ticket:
            await drained(ticket)
    worker.stop()


async def test_stopping_ends_what_runs(worker: EngineWorker, engine: Engine) -> None:
    async with worker.submit(write(400)) as ticket:
        async for event in ticket.events():
            if isinstance(event, TokenOut):
                break
        await asyncio.to_thread(worker.stop)
        with pytest.raises(Unavailable):
            await drained(ticket)
    assert engine.pool.num_free == PAGES


def test_an_owner_whose_loop_is_gone_does_no_harm(worker: EngineWorker) -> None:
    async def start() -> None:
        worker.submit(write(40))

    asyncio.run(start())
    assert asyncio.run(free_pages(worker)) <= PAGES
    assert worker.alive


# -- time


def counted_steps(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    steps: list[float] = []
    step = engine.step

    def noted() -> bool:
        steps.append(time.monotonic())
        return step()

    monkeypatch.setattr(engine, "step", noted)
    return steps


async def test_nothing_spins_while_there_is_nothing_to_do(
    worker: EngineWorker, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = counted_steps(engine, monkeypatch)
    looks: list[float] = []
    take = worker._take_commands

    def look() -> None:
        looks.append(0.0)
        take()

    monkeypatch.setattr(worker, "_take_commands", look)
    async with worker.submit(compress(random_ids(12, 1), input_open=True)) as ticket:
        async for event in ticket.events():
            if isinstance(event, Fed) and event.tokens == 12:
                break
        await asyncio.sleep(0.1)
        before, looked = len(steps), len(looks)
        await asyncio.sleep(0.3)  # its client sends nothing
        assert len(steps) == before >= 2
        assert len(looks) - looked <= 1
    await asyncio.sleep(0.1)
    steps.clear()
    await asyncio.sleep(0.2)
    assert not steps


async def test_a_sequence_that_waits_for_pages_is_looked_at_now_and_then(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    engine = make_driver(tiny_model(), num_pages=16).engine
    worker = EngineWorker(engine)
    worker.start()
    # It holds its worst case while its client sends nothing, so that the next one has to wait.
    async with worker.submit(compress(random_ids(20, 1))) as first:
        await drained(first)
        held = first.take_memory()
        await result(worker.call(lambda engine: engine.pin(held)))
        monkeypatch.setattr(engine._admission, "admit", lambda *_: False)
        steps = counted_steps(engine, monkeypatch)
        async with worker.submit(write(20)):
            await asyncio.sleep(0.4)
            assert 2 <= len(steps) <= 0.4 / RETRY_S + 5
            monkeypatch.undo()
        worker.tell(lambda engine: engine.unpin(held))
        worker.tell(lambda engine: engine.release(held))
    worker.stop()


async def test_a_deadline_wakes_an_idle_engine(worker: EngineWorker) -> None:
    began = time.monotonic()
    async with worker.submit(compress(input_open=True, deadline=began + 0.1)) as ticket:
        with pytest.raises(DeadlineExceeded):
            await drained(ticket)
    assert 0.1 <= time.monotonic() - began < 5
    assert await free_pages(worker) == PAGES
