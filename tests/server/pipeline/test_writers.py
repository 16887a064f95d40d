"""One writer at a time: what it finds settled, what it leaves, what a repeat of it hears."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from memoserve.errors import (
    Aborted,
    DataLoss,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    Unavailable,
)
from memoserve.memory.store import Store
from memoserve.pipeline.receipts import from_receipt
from memoserve.pipeline.values import (
    Committed,
    CreateSpec,
    MemorizeHeader,
    MemoryRef,
    TextPiece,
    WriteMode,
)
from tests.server.pipeline.house import House, files_of, make_text, named, open_house

# -- ratios


async def test_the_first_memorize_cannot_change_what_create_settled(house: House) -> None:
    await house.pipeline.create(CreateSpec(named("book"), ratio=8))
    with pytest.raises(FailedPrecondition) as caught:
        await house.memorize("book", make_text(5), ratio=4)
    assert caught.value.reason == "RATIO_SETTLED"
    assert (await house.memorize("book", make_text(5), ratio=8)).memory.ratio == 8


async def test_replace_without_a_ratio_takes_the_newest_versions(house: House) -> None:
    await house.pipeline.create(CreateSpec(named("book"), ratio=2))
    replaced = await house.memorize("book", make_text(5), mode=WriteMode.REPLACE, ratio=8)
    assert replaced.memory.ratio == 8
    again = await house.memorize("book", make_text(5), mode=WriteMode.REPLACE)
    assert again.memory.ratio == 8
    assert (await house.memorize("book", make_text(5))).memory.ratio == 8


async def test_replace_of_a_memory_never_written_takes_what_create_settled(house: House) -> None:
    await house.pipeline.create(CreateSpec(named("book"), ratio=2))
    replaced = await house.memorize("book", make_text(5), mode=WriteMode.REPLACE)
    assert replaced.memory.ratio == 2


async def test_replace_may_name_ratio_zero(house: House) -> None:
    await house.memorize("book", make_text(5), ratio=8)
    replaced = await house.memorize("book", make_text(5), mode=WriteMode.REPLACE, ratio=0)
    assert replaced.memory.ratio == 0


# -- the same answer again


async def test_a_repeat_hears_the_first_answer_after_its_version_is_gone(tmp_path: Path) -> None:
    labels = {"kind": "novel"}
    async with open_house(tmp_path / "store") as house:
        await house.pipeline.create(CreateSpec(named("book"), labels=labels, description="one"))
        first = await house.memorize("book", make_text(5), request_id="r1", ratio=8)
        for number in range(3):
            await house.memorize("book", make_text(5, number))
        await house.pipeline.update(named("book"), {}, "", "")
    async with open_house(tmp_path / "store") as house:
        with pytest.raises(NotFound):
            await house.pipeline.get(MemoryRef(named("book"), 1))
        (again,) = await house.events("book", "another text", request_id="r1")
        assert isinstance(again, Committed)
        assert again.replayed
        assert again.tokens_added == first.tokens_added
        assert again.seconds == pytest.approx(first.seconds, abs=1.0)
        assert again.memory.updated_unix_s == pytest.approx(first.memory.updated_unix_s, abs=5.0)
        when = first.memory.updated_unix_s
        assert replace(again.memory, updated_unix_s=when) == first.memory
        assert again.memory.labels == labels
        assert again.memory.stats.raw_tokens > 0
        await house.check_clean()


@pytest.mark.parametrize("receipt", [{}, {"memory": 3}, {"memory": {"ratios": [2]}}], ids=str)
def test_a_receipt_that_is_not_ours_is_data_loss(receipt: dict[str, Any]) -> None:
    with pytest.raises(DataLoss):
        from_receipt(named("book"), receipt)


# -- memories that a call makes


async def test_a_memory_taken_back_between_is_made_again(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when a call that failed takes its memory back just before the next one writes it."""
    store = house.assembled.runtime.store
    writer = Store.writer
    taken: list[Any] = []

    def slow(self: Store, name: Any, **more: Any) -> Any:
        if not taken:
            taken.append(name)
            store.delete(name)
        return writer(self, name, **more)

    monkeypatch.setattr(Store, "writer", slow)
    assert (await house.memorize("book", make_text(3))).memory.version == 1
    assert taken


async def test_many_failing_writers_never_hide_the_memory_from_a_good_one(house: House) -> None:
    async def fail() -> None:
        with pytest.raises((InvalidArgument, Aborted)):
            await house.memorize("book", "")

    async def write() -> int:
        while True:
            try:
                return (await house.memorize("book", make_text(2))).memory.version
            except Aborted as error:
                assert error.reason == "WRITER_ACTIVE"

    *_, version = await asyncio.gather(*(fail() for _ in range(12)), write())
    assert version == 1


async def test_a_storage_error_of_the_clean_up_hides_nothing(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise Unavailable("the disk is gone", reason="STORAGE_ERROR")

    with monkeypatch.context() as patched:
        patched.setattr(Store, "delete", broken)
        with pytest.raises(InvalidArgument):
            await house.memorize("book", "")
    await house.memorize("book", make_text(2))  # the writer's right was given back


async def test_a_call_cancelled_while_it_takes_the_right_gives_it_back(
    house: House, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    before = files_of(tmp_path)
    catalog, loop = house.pipeline._catalog, asyncio.get_running_loop()
    begin, begun = catalog.begin, asyncio.Event()

    def slow(header: MemorizeHeader) -> Any:
        writer = begin(header)
        loop.call_soon_threadsafe(begun.set)
        asyncio.run_coroutine_threadsafe(asyncio.sleep(0.1), loop).result(5)
        return writer

    with monkeypatch.context() as patched:
        patched.setattr(catalog, "begin", slow)
        task = asyncio.create_task(house.memorize("book", make_text(2)))
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert files_of(tmp_path) == before
    await house.memorize("book", make_text(2))


async def test_an_expected_version_of_an_unknown_memory_makes_nothing(
    house: House, tmp_path: Path
) -> None:
    before = files_of(tmp_path)
    with pytest.raises(Aborted) as caught:
        await house.memorize("book", make_text(2), expected_version=3)
    assert caught.value.reason == "VERSION_MISMATCH"
    assert files_of(tmp_path) == before


async def test_what_another_call_asked_for_and_failed_with_settles_nothing(house: House) -> None:
    house.pipeline._catalog.ensure(MemorizeHeader(named("book"), ratio=2))
    assert (await house.memorize("book", make_text(3), ratio=8)).memory.ratio == 8


# -- many sources


async def test_many_small_sources_are_one_file_and_come_back(tmp_path: Path) -> None:
    texts = {f"s{n}": make_text(1, n) for n in range(40)}
    pieces = [TextPiece(source_id, text) for source_id, text in texts.items()]
    async with open_house(tmp_path / "store") as house:
        await house.memorize("book", pieces[:25])
        await house.memorize("book", pieces[25:])
        parts = house.assembled.runtime.store.get(named("book")).parts
        assert [part for part in parts if part.startswith("text/")] == ["text/0", "text/1"]
    async with open_house(tmp_path / "store") as house:
        assert house.contents("book").sources == 40
        found = [
            event
            for event in await house.retrieve("book", top_k=1000)
            if getattr(event, "source_id", "") in texts
        ]
        assert {passage.source_id for passage in found} == set(texts)
        for passage in found:
            whole = texts[passage.source_id]
            assert whole[passage.start_char : passage.end_char] == passage.text
        await house.check_clean()
