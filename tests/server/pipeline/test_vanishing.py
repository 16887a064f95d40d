"""Callers that leave, deadlines that pass, memories that are deleted or outdated under readers."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from memoserve.errors import DeadlineExceeded, NotFound, Unavailable
from memoserve.pipeline import memorize as memorize_module
from memoserve.pipeline import residents as residents_module
from memoserve.pipeline.commit import write_version
from memoserve.pipeline.values import (
    ClueKind,
    GenerateQuery,
    MemorizeHeader,
    MemoryRef,
    Progress,
    RecallQuery,
    SamplingOptions,
    Task,
    TextPiece,
    Token,
)
from tests.server.pipeline.house import (
    House,
    files_of,
    final,
    make_text,
    named,
    open_house,
    refs,
)

LONG = SamplingOptions(max_tokens=60)
FEW = SamplingOptions(max_tokens=6)


async def endless(text: str) -> AsyncIterator[TextPiece]:
    yield TextPiece("book", text)
    await asyncio.Event().wait()


async def unknown(house: House, name: str = "book") -> bool:
    try:
        await house.pipeline.get(MemoryRef(named(name)))
    except NotFound:
        return True
    return False


# -- callers that leave


async def test_closing_a_memorize_returns_its_pages_and_keeps_nothing(
    house: House, tmp_path: Path
) -> None:
    before, free = files_of(tmp_path), await house.free_pages()
    stream = house.pipeline.memorize(MemorizeHeader(named("book")), endless(make_text(40)))
    async for event in stream:
        if isinstance(event, Progress) and event.tokens_done > 100:
            break
    assert await house.free_pages() < free
    await stream.aclose()
    assert await house.free_pages() == free
    assert await unknown(house)
    assert files_of(tmp_path) == before
    await house.memorize("book", make_text(3))


@pytest.mark.parametrize("delay", [0.0, 0.002, 0.01, 0.03, 0.06, 0.1, 0.2])
async def test_cancelling_a_memorize_at_any_time_leaves_all_or_nothing(
    house: House, delay: float
) -> None:
    task = asyncio.create_task(house.memorize("book", make_text(40)))
    await asyncio.sleep(delay)
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    if not await unknown(house):
        assert (await house.pipeline.get(MemoryRef(named("book")))).version == 1
    written = await house.memorize("book", make_text(3))
    assert written.memory.version in (1, 2)


async def test_a_commit_that_has_begun_runs_to_its_end(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, write = threading.Event(), write_version

    def slow(*args: Any) -> Any:
        begun.set()
        time.sleep(0.2)
        return write(*args)

    monkeypatch.setattr(memorize_module, "write_version", slow)
    task = asyncio.create_task(house.memorize("book", make_text(20)))
    await asyncio.to_thread(begun.wait)
    for _ in range(3):
        task.cancel()
        await asyncio.sleep(0.01)
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (await house.pipeline.get(MemoryRef(named("book")))).version == 1
    monkeypatch.undo()
    assert (await house.memorize("book", make_text(3))).memory.version == 2


async def test_a_failed_commit_keeps_nothing(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any) -> Any:
        raise OSError("no space")

    monkeypatch.setattr(memorize_module, "write_version", fail)
    with pytest.raises(OSError, match="no space"):
        await house.memorize("book", make_text(9))
    assert await unknown(house)
    assert await house.free_pages() == 1024


@pytest.mark.parametrize("delay", [0.0, 0.001, 0.004, 0.01, 0.02, 0.05, 0.1])
@pytest.mark.parametrize("warm", [True, False], ids=["warm", "cold"])
async def test_cancelling_queries_at_any_time_leaves_no_pages_and_no_pins(
    tmp_path: Path, delay: float, warm: bool
) -> None:
    async with open_house(tmp_path / "store") as house:
        for name in ("a", "b"):
            await house.memorize(name, make_text(9))
    async with open_house(tmp_path / "store") as house:
        if warm:
            await house.answer("a", "b", sampling=FEW)
        tasks = [
            asyncio.create_task(house.recall("a", "b", sampling=LONG)),
            asyncio.create_task(house.answer("b", "a", sampling=LONG)),
            asyncio.create_task(house.generate("a", generator="memory-model", sampling=LONG)),
        ]
        await asyncio.sleep(delay)
        for task in tasks:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(r, asyncio.CancelledError | list | str) for r in results), results
        await house.check_clean()


async def test_closing_a_query_returns_its_pages_at_once(house: House) -> None:
    await house.memorize("book", make_text(9))
    free = await house.free_pages()
    query = RecallQuery(refs("book"), "which?", sampling=LONG, stream_tokens=True)
    stream = house.pipeline.recall(query)
    async for event in stream:
        if isinstance(event, Token):
            break
    assert await house.free_pages() < free
    await stream.aclose()
    assert await house.free_pages() == free


async def test_a_cancel_takes_effect_within_a_step_or_two(house: House) -> None:
    await house.memorize("book", make_text(9))
    stream = house.pipeline.recall(RecallQuery(refs("book"), "which?", stream_tokens=True))
    async for event in stream:
        if isinstance(event, Token):
            break
    before = await house.engine(lambda engine: engine._steps)
    await stream.aclose()
    assert await house.engine(lambda engine: engine._steps) <= before + 2


# -- deadlines


async def test_a_client_that_stalls_meets_its_deadline(house: House) -> None:
    began = time.monotonic()
    stream = house.pipeline.memorize(
        MemorizeHeader(named("book")), endless(make_text(9)), deadline=began + 0.3
    )
    with pytest.raises(DeadlineExceeded):
        async for _ in stream:
            pass
    assert time.monotonic() - began < 5
    assert await unknown(house)
    assert await house.free_pages() == 1024


async def test_queries_meet_their_deadline_wherever_they_are(house: House) -> None:
    await house.memorize("book", make_text(9))
    for left in (-1.0, 0.0, 0.02, 0.1):
        query = GenerateQuery(
            refs("book"), "which?", Task.MEMORY_ONLY, sampling=SamplingOptions(max_tokens=4000)
        )
        with pytest.raises(DeadlineExceeded):
            async for _ in house.pipeline.generate(query, deadline=time.monotonic() + left):
                pass


async def test_loading_a_cold_memory_counts_against_the_deadline(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    await house.memorize("book", make_text(9))
    gate = slow_load(monkeypatch)
    record = house.assembled.runtime.store.get(named("book"))
    house.assembled.runtime.residents.forget(record.uid)
    query = RecallQuery(refs("book"), "which?")
    threading.Timer(0.5, gate.set).start()
    with pytest.raises(DeadlineExceeded):
        async for _ in house.pipeline.recall(query, deadline=time.monotonic() + 0.1):
            pass
    gate.set()
    assert await house.answer("book", sampling=FEW) is not None


# -- memories that go while they are read


def slow_load(monkeypatch: pytest.MonkeyPatch, only: str = "") -> threading.Event:
    """Loads of cold memories (whose id ends in ``only``) wait for the event."""
    gate, load = threading.Event(), residents_module.load_host_state

    def waiting(store: Any, record: Any, contents: Any) -> Any:
        if record.name.memory_id.endswith(only):
            assert gate.wait(30)
        return load(store, record, contents)

    monkeypatch.setattr(residents_module, "load_host_state", waiting)
    return gate


async def test_a_memory_deleted_while_it_is_read_is_read_to_the_end(house: House) -> None:
    await house.memorize("book", make_text(9))
    wanted = await house.answer("book", sampling=LONG)
    query = GenerateQuery(refs("book"), "which bridge?", Task.MEMORY_ONLY, sampling=LONG)
    events = []
    async for event in house.pipeline.generate(query):
        events.append(event)
        if len(events) == 3:
            await house.pipeline.delete(named("book"), "")
            assert await unknown(house)
    assert final(events).text == wanted
    assert await house.free_pages() == 1024
    with pytest.raises(NotFound):
        await house.answer("book")


async def restarted(house: House, *names: str) -> None:
    """Forget what is on the device, as a restart would."""
    for name in names:
        record = house.assembled.runtime.store.get(named(name))
        house.assembled.runtime.residents.forget(record.uid)


Change = Callable[[House], Any]


async def delete_a(house: House) -> None:
    await house.pipeline.delete(named("a"), "")


async def outdate_a(house: House) -> None:
    for number in range(2):
        await house.memorize("a", make_text(2, number))


@pytest.mark.parametrize("change", [delete_a, outdate_a])
@pytest.mark.parametrize("task", [Task.MEMORY_ONLY, Task.MEMORAG])
async def test_a_memory_that_goes_between_its_opening_and_its_use(
    house: House, monkeypatch: pytest.MonkeyPatch, change: Change, task: Task
) -> None:
    """The query has opened ``a`` and waits for ``b`` to load."""
    for name in ("a", "b"):
        await house.memorize(name, make_text(9, len(name)))
    options: dict[str, Any] = {"task": task, "sampling": FEW, "use_clues": True}
    options["kinds"] = (ClueKind.DRAFT_ANSWER,)
    wanted = final(await house.generate("a", "b", **options)).text
    await restarted(house, "a", "b")
    gate = slow_load(monkeypatch, "b")
    asked = asyncio.create_task(house.generate("a", "b", **options))
    while not await house.engine(lambda engine: engine._admission.handles):
        await asyncio.sleep(0.01)
    await change(house)
    gate.set()
    told = final(await asked)
    assert told.text == wanted
    assert [ref.version for ref in told.memories] == [1, 1]


async def test_a_memory_deleted_while_it_is_loaded(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    await house.memorize("a", make_text(9))
    wanted = await house.answer("a", sampling=FEW)
    await restarted(house, "a")
    gate = slow_load(monkeypatch)
    asked = asyncio.create_task(house.answer("a", sampling=FEW))
    await asyncio.sleep(0.05)
    await house.pipeline.delete(named("a"), "")
    gate.set()
    assert await asked == wanted
    assert await house.free_pages() == 1024


async def test_readers_of_a_cold_memory_load_it_once(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    await house.memorize("a", make_text(9))
    wanted = await house.answer("a", sampling=FEW)
    await restarted(house, "a")
    loads: list[int] = []
    load = residents_module.load_host_state

    def counted(*args: Any) -> Any:
        loads.append(1)
        return load(*args)

    monkeypatch.setattr(residents_module, "load_host_state", counted)
    answers = await asyncio.gather(*(house.answer("a", sampling=FEW) for _ in range(5)))
    assert set(answers) == {wanted}
    assert len(loads) == 1


async def test_a_reader_faster_than_the_writers_own_bookkeeping(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The version is on disk, and read, before the writer puts its pages up for use."""
    loop, write = asyncio.get_running_loop(), write_version
    answers: list[str] = []

    def read_at_once(*args: Any) -> Any:
        record = write(*args)
        asked = asyncio.run_coroutine_threadsafe(house.answer("a", sampling=FEW), loop)
        answers.append(asked.result(30))
        return record

    monkeypatch.setattr(memorize_module, "write_version", read_at_once)
    await house.memorize("a", make_text(9))
    assert await house.answer("a", sampling=FEW) == answers[0]


async def test_old_versions_give_their_pages_back(house: House) -> None:
    for number in range(4):
        await house.memorize("a", make_text(4, number))
    handles = await house.engine(lambda engine: len(engine._admission.handles))
    assert handles == 2  # as many as are kept
    with pytest.raises(NotFound):
        await house.answer("a@1")
    assert await house.answer("a@3", sampling=FEW) != ""


# -- an engine that fails


async def test_when_the_engine_fails_all_are_told_and_passages_are_still_found(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    await house.memorize("a", make_text(9))

    def fail() -> bool:
        raise RuntimeError("the device is lost")

    await house.engine(lambda engine: monkeypatch.setattr(engine, "step", fail))
    calls = [
        house.answer("a"),
        house.recall("a"),
        house.memorize("a", make_text(3)),
        house.memorize("b", make_text(3)),
    ]
    errors = await asyncio.wait_for(asyncio.gather(*calls, return_exceptions=True), 30)
    assert [type(error) for error in errors] == [Unavailable] * 4
    assert not house.pipeline.healthy
    assert (await house.pipeline.get(MemoryRef(named("a")))).version == 1
    assert await unknown(house, "b")
    assert len(await house.retrieve("a")) > 2
    await house.pipeline.delete(named("a"), "")
