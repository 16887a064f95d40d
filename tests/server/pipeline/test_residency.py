"""Memories that were spilled, dropped, reloaded, or come back after a restart answer the same."""

from __future__ import annotations

import asyncio
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from memoserve.engine.engine import Engine
from memoserve.engine.sequence import MemoryHandle
from memoserve.errors import DataLoss
from memoserve.pipeline import residents
from memoserve.pipeline.library import load_library
from memoserve.pipeline.values import (
    CreateSpec,
    MemorizeHeader,
    MemoryRef,
    SamplingOptions,
    Task,
    Tier,
)
from tests.server.pipeline.house import House, final, make_parts, make_text, named, open_house

FEW = SamplingOptions(max_tokens=16)
NAMES = ("a", "b", "c", "d")


async def fill(house: House) -> dict[str, str]:
    """Four memories, and what each answers when it is the only one asked."""
    answers = {}
    for number, name in enumerate(NAMES):
        await house.memorize(name, make_text(20, number))
        answers[name] = await house.answer(name, sampling=FEW)
    assert len(set(answers.values())) > 1
    return answers


async def tier(house: House, name: str) -> Tier:
    return (await house.pipeline.get(MemoryRef(named(name)))).tier


async def test_a_restart_answers_the_same(tmp_path: Path) -> None:
    async with open_house(tmp_path / "store") as house:
        answers = await fill(house)
        before = {name: house.ids(name) for name in NAMES}
        assert await tier(house, "a") is Tier.DEVICE
    async with open_house(tmp_path / "store") as house:
        for name in NAMES:
            assert await tier(house, name) is Tier.COLD
            assert await house.answer(name, sampling=FEW) == answers[name]
            assert await tier(house, name) is Tier.DEVICE
            assert house.ids(name) == before[name]
        await house.check_clean()


async def test_an_append_after_a_restart_goes_on(tmp_path: Path) -> None:
    text = make_text(30)
    parts = make_parts()
    async with open_house(tmp_path / "store", parts) as house:
        await house.memorize("whole", text)
        await house.memorize("grown", text[:1003])
    async with open_house(tmp_path / "store", parts) as house:
        await house.memorize("grown", text[1003:])
        assert house.ids("grown") == house.ids("whole")
        assert await house.answer("grown", sampling=FEW) == await house.answer(
            "whole", sampling=FEW
        )
        await house.check_clean()


async def test_memories_beyond_the_pool_are_spilled_and_answer_the_same(tmp_path: Path) -> None:
    async with open_house(tmp_path / "store") as house:
        answers = await fill(house)
        largest = max([(await house.pipeline.get(MemoryRef(named(n)))).stats.pages for n in NAMES])
    # Room for one memory with a query on it, not for two.
    async with open_house(tmp_path / "store", num_pages=largest + 120) as house:
        for name in (*NAMES, *NAMES[::-1], "b", "a"):
            assert await house.answer(name, sampling=FEW) == answers[name], name
        spills = house.assembled.metrics.spills.labels("pages_needed")._value.get()
        assert spills > 0
        await house.check_clean()


async def test_many_at_once_answer_as_alone(tmp_path: Path) -> None:
    async with open_house(tmp_path / "store", num_pages=700) as house:
        answers = await fill(house)
        asked = [*NAMES * 2]
        said = await asyncio.gather(
            *(house.answer(name, sampling=FEW) for name in asked),
            house.memorize("new", make_text(30, 9)),
            house.recall("a", "c", sampling=FEW),
        )
        assert said[: len(asked)] == [answers[name] for name in asked]
        await house.check_clean()


async def test_a_writer_beside_readers_changes_nothing_for_them(house: House) -> None:
    await house.memorize("a", make_text(20))
    wanted = await house.answer("a@1", sampling=FEW)

    async def read() -> list[str]:
        return [await house.answer("a@1", sampling=FEW) for _ in range(3)]

    written, *read_back = await asyncio.gather(
        house.memorize("a", make_text(20, 1)), read(), read()
    )
    assert written.memory.version == 2
    assert {text for texts in read_back for text in texts} == {wanted}


@pytest.mark.parametrize("part", ["window", "kv/0"])
async def test_a_damaged_file_is_told_and_hurts_nobody_else(tmp_path: Path, part: str) -> None:
    store = tmp_path / "store"
    async with open_house(store) as house:
        await house.memorize("a", make_text(9))
        await house.memorize("b", make_text(9, 1))
        wanted = await house.answer("b", sampling=FEW)
        digest = house.assembled.runtime.store.get(named("a")).parts[part].digest
    (file,) = [path for path in store.rglob("*") if path.name.startswith(digest)]
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.chmod(0o644)
    file.write_bytes(data)
    async with open_house(store) as house:
        for _ in range(2):
            with pytest.raises(DataLoss) as caught:
                await house.answer("a", sampling=FEW)
            assert caught.value.metadata["part"] == part
        assert await house.answer("b", sampling=FEW) == wanted
        assert [v.name.memory_id for v in (await house.pipeline.list("default", 9, "", ""))[0]] == [
            "a",
            "b",
        ]
        await house.check_clean()


async def test_what_a_crash_cut_short_is_gone_after_a_restart(tmp_path: Path) -> None:
    async with open_house(tmp_path / "store") as house:
        await house.memorize("kept", make_text(3))
        catalog = house.pipeline._catalog
        catalog.ensure(MemorizeHeader(named("half")))
        await house.pipeline.create(CreateSpec(named("made")))
    async with open_house(tmp_path / "store") as house:
        views, _ = await house.pipeline.list("default", 9, "", "")
        assert [(v.name.memory_id, v.version) for v in views] == [("kept", 1), ("made", 0)]


async def test_pages_free_are_told_by_info(house: House) -> None:
    info = house.pipeline.info()
    assert info.pages_free == info.pages_total == 1024
    await house.memorize("a", make_text(9))
    assert house.pipeline.info().pages_free < 1024


class Held:
    """A blocking function that waits, and counts its calls."""

    def __init__(self, work: Any) -> None:
        self._work = work
        self._loop = asyncio.get_running_loop()
        self.started, self._go = asyncio.Event(), threading.Event()
        self.calls = 0

    def __call__(self, *args: Any) -> Any:
        self.calls += 1
        self._loop.call_soon_threadsafe(self.started.set)
        assert self._go.wait(10)
        return self._work(*args)

    def go(self) -> None:
        self._go.set()


@pytest.mark.parametrize("ask", ["retrieve", "generate", "recall"])
async def test_a_delete_while_the_first_is_loaded_leaves_the_second_readable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ask: str
) -> None:
    """Readers that have begun finish, whichever of their memories is deleted meanwhile."""
    async with open_house(tmp_path / "store") as house:
        for number, name in enumerate("ab"):
            await house.memorize(name, make_text(9, number))
    async with open_house(tmp_path / "store") as house:
        load = "load_host_state" if ask == "recall" else "load_library"
        held = Held(getattr(residents, load))
        monkeypatch.setattr(residents, load, held)
        more = {"task": Task.RETRIEVAL_ONLY} if ask == "generate" else {}
        asked = asyncio.create_task(getattr(house, ask)("a", "b", **more))
        await held.started.wait()
        await house.pipeline.delete(named("b"), "")
        held.go()
        assert [ref.name.memory_id for ref in final(await asked).memories] == ["a", "b"]
        cached = house.assembled.runtime.residents._libraries
        assert len(cached) == (0 if ask == "recall" else 1), "a deleted memory's is not kept"
        await house.check_clean()


async def test_readers_that_come_at_once_read_the_passages_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_house(tmp_path / "store") as house:
        await house.memorize("a", make_text(9))
    async with open_house(tmp_path / "store") as house:
        held = Held(load_library)
        monkeypatch.setattr(residents, "load_library", held)
        readers = [asyncio.create_task(house.retrieve("a")) for _ in range(4)]
        await held.started.wait()
        readers[0].cancel()  # the one that began the load
        held.go()
        _, *found = await asyncio.gather(*readers, return_exceptions=True)
        assert all(final(events).memories for events in found if isinstance(events, list))
        assert len([events for events in found if isinstance(events, list)]) == 3
        assert held.calls == 1
        await house.check_clean()


async def test_a_reader_cancelled_while_it_pins_leaves_a_memory_that_can_be_dropped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_house(tmp_path / "store") as house:
        await house.memorize("a", make_text(9))
    async with open_house(tmp_path / "store") as house:
        pinning = asyncio.Event()
        loop, pin = asyncio.get_running_loop(), Engine.pin

        def slow(engine: Engine, handle: MemoryHandle) -> bool:
            loop.call_soon_threadsafe(pinning.set)
            time.sleep(0.05)
            return pin(engine, handle)

        monkeypatch.setattr(Engine, "pin", slow)
        asked = asyncio.create_task(house.answer("a", sampling=FEW))
        await pinning.wait()
        asked.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asked
        (entry,) = house.assembled.runtime.residents._entries.values()
        handle = entry.handle
        assert handle is not None
        assert await house.engine(lambda _: (handle.droppable, handle.pins)) == (True, 0)
        await house.check_clean()
