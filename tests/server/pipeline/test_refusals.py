"""What gets a clear error, with nothing lost and nothing left behind."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from memoserve.errors import (
    Aborted,
    AlreadyExists,
    FailedPrecondition,
    InvalidArgument,
    MemoserveError,
    NotFound,
    OutOfRange,
    ResourceExhausted,
)
from memoserve.pipeline.api import MAX_LABELS
from memoserve.pipeline.values import (
    Committed,
    CreateSpec,
    GenerateQuery,
    MemorizeHeader,
    MemoryRef,
    Notice,
    RecallQuery,
    RetrieveQuery,
    SamplingOptions,
    Task,
    TextPiece,
    WriteMode,
)
from tests.server.pipeline.house import (
    House,
    files_of,
    make_parts,
    make_text,
    named,
    of_kind,
    open_house,
    pieces_of,
    refs,
)


async def failing_pieces() -> AsyncIterator[TextPiece]:
    yield TextPiece("book", make_text(20))
    raise InvalidArgument("text.text_utf8", "is not UTF-8")


BAD_TEXTS: dict[str, list[str | TextPiece] | None] = {
    "no pieces": [],
    "empty pieces": ["", "", ""],
    "NUL": [make_text(20), "a\x00b"],
    "NUL at the start": ["\x00"],
    "lone surrogate": [make_text(20), "\ud800"],
    "a source comes back": [TextPiece(name, make_text(9)) for name in ("a", "b", "a")],
    "the sender fails": None,
}


@pytest.mark.parametrize("case", BAD_TEXTS)
@pytest.mark.parametrize("known", [False, True], ids=["new", "known"])
async def test_a_bad_text_leaves_nothing(
    house: House, tmp_path: Path, case: str, known: bool
) -> None:
    if known:
        await house.memorize("book", make_text(9), request_id="r0")
    before = files_of(tmp_path)
    text = BAD_TEXTS[case]
    pieces = failing_pieces() if text is None else pieces_of(text)
    with pytest.raises(InvalidArgument) as caught:
        async for _ in house.pipeline.memorize(MemorizeHeader(named("book")), pieces):
            pass
    # A lone surrogate cannot come from the edge, which decodes UTF-8.
    other = {"a source comes back": "text.source_id", "lone surrogate": "text"}
    assert caught.value.field == other.get(case, "text.text_utf8")
    assert files_of(tmp_path) == before
    if known:
        assert (await house.pipeline.get(MemoryRef(named("book")))).version == 1
        await house.memorize("book", make_text(3))
    else:
        with pytest.raises(NotFound):
            await house.pipeline.get(MemoryRef(named("book")))


async def test_a_memory_that_was_created_stays_when_its_first_text_is_bad(house: House) -> None:
    await house.pipeline.create(CreateSpec(named("book")))
    with pytest.raises(InvalidArgument):
        await house.memorize("book", "")
    assert (await house.pipeline.get(MemoryRef(named("book")))).version == 0


async def test_beyond_capacity(tmp_path: Path) -> None:
    parts = make_parts(max_position_embeddings=256)
    async with open_house(tmp_path / "store", parts) as house:
        text = make_text(60)
        with pytest.raises(OutOfRange) as caught:
            await house.memorize("book", text, ratio=2)
        capacity = (256 - 32) * 2 + 32
        assert caught.value.metadata["capacity_tokens"] == str(capacity)
        assert caught.value.metadata["fitting_ratio"] in ("4", "8", "16")
        with pytest.raises(NotFound):
            await house.pipeline.get(MemoryRef(named("book")))
        fits = int(caught.value.metadata["fitting_ratio"])
        events = await house.events("far", text, ratio=2, allow_extrapolation=True)
        (notice,) = of_kind(events, Notice)
        assert notice.code == "BEYOND_CAPACITY"
        assert len(house.ids("far")) > capacity
        # An append counts from the beginning of the memory.
        await house.memorize("grown", make_text(6), ratio=2)
        with pytest.raises(OutOfRange):
            await house.memorize("grown", make_text(25))
        assert fits * (256 - 32) + 32 >= int(caught.value.metadata["tokens"])
        await house.check_clean()


@pytest.mark.parametrize("ratio", [-1, -32])
async def test_a_bad_ratio_names_its_field_and_makes_nothing(house: House, ratio: int) -> None:
    with pytest.raises(InvalidArgument) as caught:
        await house.memorize("book", make_text(3), ratio=ratio)
    assert caught.value.field == "header.ratio"
    with pytest.raises(InvalidArgument) as caught:
        await house.pipeline.create(CreateSpec(named("book"), ratio=ratio))
    assert caught.value.field == "ratio"
    assert await house.pipeline.list("default", 10, "", "") == ([], "")


async def test_unknown_memories_versions_and_generators(house: House) -> None:
    await house.memorize("book", make_text(3))
    with pytest.raises(NotFound):
        await house.memorize("other", make_text(3), create_missing=False)
    for call in (house.recall, house.retrieve, house.generate, house.answer):
        for name in ("other", "book@7"):
            with pytest.raises(NotFound) as caught:
                await call("book", name)
            assert name.split("@")[0] in caught.value.resource_name
    with pytest.raises(NotFound) as caught:
        await house.generate("book", generator="gpt")
    assert (caught.value.resource_type, caught.value.resource_name) == ("generator", "gpt")


async def test_a_memory_without_text_cannot_be_asked(house: House) -> None:
    await house.pipeline.create(CreateSpec(named("book")))
    for call in (house.recall, house.retrieve, house.generate, house.answer):
        with pytest.raises(FailedPrecondition, match="nothing was memorized"):
            await call("book")


GENERATE = [
    ({"query": " "}, "query"),
    ({"kinds": ()}, "kinds"),
    ({"template": "only {context}"}, "template"),
    ({"template": "only {input}"}, "template"),
    ({"template": "{input}", "task": Task.SUMMARIZE}, "template"),
    ({"top_k": 0}, "top_k"),
    ({"top_k": 1001}, "top_k"),
    ({"max_passages": -1}, "max_passages"),
    ({"max_tokens": -1}, "max_tokens"),
    ({"fusion": "best"}, "fusion"),
    ({"sampling": SamplingOptions(max_tokens=0)}, "sampling.max_tokens"),
    ({"sampling": SamplingOptions(top_p=2.0), "task": Task.MEMORY_ONLY}, "sampling.top_p"),
    ({"memories": ()}, "memories"),
]
RECALL = [
    ({"query": ""}, "query"),
    ({"kinds": ()}, "kinds"),
    ({"sampling": SamplingOptions(temperature=-1.0)}, "sampling.temperature"),
    ({"memories": ()}, "memories"),
]
RETRIEVE = [
    ({"query": "\n"}, "query"),
    ({"query": "", "clues": (" ",)}, "query"),
    ({"top_k": 0}, "top_k"),
    ({"fusion": ""}, "fusion"),
    ({"memories": ()}, "memories"),
]


@pytest.mark.parametrize(
    ("make", "wrong", "field"),
    [
        *((GenerateQuery, *case) for case in GENERATE),
        *((RecallQuery, *case) for case in RECALL),
        *((RetrieveQuery, *case) for case in RETRIEVE),
    ],
    ids=str,
)
async def test_a_bad_option_is_named_before_any_memory_is_looked_for(
    house: House, make: type, wrong: dict[str, Any], field: str
) -> None:
    query = make(**({"memories": refs("unknown"), "query": "which?"} | wrong))
    calls: dict[type, Any] = {
        GenerateQuery: house.pipeline.generate,
        RecallQuery: house.pipeline.recall,
        RetrieveQuery: house.pipeline.retrieve,
    }
    with pytest.raises(InvalidArgument) as caught:
        async for _ in calls[make](query):
            raise AssertionError("an event came before the refusal")
    assert caught.value.field == field


async def test_a_query_too_long_for_a_fork_is_refused_with_its_length(house: House) -> None:
    await house.memorize("book", make_text(3))
    with pytest.raises(InvalidArgument) as caught:
        await house.recall("book", query="\U0001f71a" * 9_000)
    assert caught.value.field == "query"
    assert "16384" in caught.value.message


async def test_a_query_is_refused_by_its_length_before_it_is_tokenized(house: House) -> None:
    for asked in (house.recall, house.generate, house.answer):
        with pytest.raises(InvalidArgument, match="65537 characters") as caught:
            await asked("unknown", query="x" * 65_537)
        assert caught.value.field == "query"


async def test_a_second_writer_is_aborted_and_the_first_goes_on(house: House) -> None:
    ready, go = asyncio.Event(), asyncio.Event()

    async def slow() -> AsyncIterator[TextPiece]:
        yield TextPiece("book", make_text(20))
        ready.set()
        await go.wait()
        yield TextPiece("book", make_text(20, 1))

    async def write() -> Any:
        stream = house.pipeline.memorize(MemorizeHeader(named("book")), slow())
        return [event async for event in stream][-1]

    first = asyncio.create_task(write())
    await ready.wait()
    with pytest.raises(Aborted) as caught:
        await house.memorize("book", make_text(3))
    assert caught.value.reason == "WRITER_ACTIVE"
    with pytest.raises(Aborted):
        await house.pipeline.delete(named("book"), "")
    go.set()
    committed = await first
    assert isinstance(committed, Committed)
    assert committed.memory.version == 1
    await house.memorize("book", make_text(3))


async def test_a_pool_too_small_for_one_window_is_refused_at_start(tmp_path: Path) -> None:
    with pytest.raises(ResourceExhausted) as caught:
        async with open_house(tmp_path / "store", num_pages=6):
            raise AssertionError("it started")
    numbers = caught.value.metadata
    assert numbers["pages_total"] == "6"
    assert int(numbers["pages_needed"]) > 6
    async with open_house(tmp_path / "store", num_pages=int(numbers["pages_needed"])) as house:
        assert house.pipeline.healthy


async def test_a_text_too_long_for_the_pool_is_refused_with_numbers(tmp_path: Path) -> None:
    async with open_house(tmp_path / "store", num_pages=60) as house:
        with pytest.raises(ResourceExhausted) as caught:
            await house.memorize("book", make_text(100))
        assert caught.value.metadata["pages_total"] == "60"
        assert int(caught.value.metadata["pages_needed"]) > 60
        with pytest.raises(NotFound):
            await house.pipeline.get(MemoryRef(named("book")))
        await house.memorize("book", "Short.")
        await house.check_clean()


async def test_another_models_memory_is_refused_but_its_passages_are_found(tmp_path: Path) -> None:
    store = tmp_path / "store"
    async with open_house(store) as house:
        await house.memorize("book", make_text(9))
    async with open_house(store, make_parts(seed=1, fingerprint="model-2")) as house:
        for refused in (
            house.recall("book"),
            house.answer("book"),
            house.memorize("book", "More."),
        ):
            with pytest.raises(FailedPrecondition) as caught:
                await refused
            assert caught.value.reason == "MEMORY_MISMATCH"
            assert "model-1" in caught.value.message
            assert "model-2" in caught.value.message
        assert len(await house.retrieve("book")) > 2
        replaced = await house.memorize("book", make_text(9), mode=WriteMode.REPLACE)
        assert replaced.memory.version == 2
        assert await house.answer("book", sampling=SamplingOptions(max_tokens=2)) is not None
        await house.check_clean()


async def test_another_embedders_passages_are_refused_but_the_memory_answers(
    tmp_path: Path,
) -> None:
    store = tmp_path / "store"
    async with open_house(store) as house:
        await house.memorize("book", make_text(9))
    parts = make_parts()
    parts.embedder.fingerprint = "words-2"  # type: ignore[misc]
    async with open_house(store, parts) as house:
        for refused in (house.retrieve("book"), house.memorize("book", "More.")):
            with pytest.raises(FailedPrecondition, match="words-2"):
                await refused
        assert await house.answer("book", sampling=SamplingOptions(max_tokens=2)) is not None
        await house.check_clean()


async def test_names_lists_labels_and_etags(house: House) -> None:
    for name in ("c", "a", "b"):
        await house.pipeline.create(CreateSpec(named(name)))
    with pytest.raises(AlreadyExists):
        await house.pipeline.create(CreateSpec(named("a")))
    first, token = await house.pipeline.list("default", 2, "", "")
    rest, end = await house.pipeline.list("default", 2, token, "")
    assert [view.name.memory_id for view in (*first, *rest)] == ["a", "b", "c"]
    assert end == ""
    bad: list[tuple[Any, type[MemoserveError]]] = [
        (house.pipeline.list("default", 2, "nonsense", ""), InvalidArgument),
        (house.pipeline.list("default", -1, "", ""), InvalidArgument),
        (house.pipeline.update(named("a"), {}, None, "old"), Aborted),
        (house.pipeline.delete(named("a"), "old"), Aborted),
        (house.pipeline.delete(named("z"), ""), NotFound),
        (
            house.pipeline.update(
                named("a"), {str(n): "" for n in range(MAX_LABELS + 1)}, None, ""
            ),
            InvalidArgument,
        ),
    ]
    for call, error in bad:
        with pytest.raises(error):
            await call
    updated = await house.pipeline.update(named("a"), {"x": "y"}, None, first[0].etag)
    assert (updated.labels, updated.description) == ({"x": "y"}, "")
    both = await asyncio.gather(
        house.pipeline.update(named("a"), {"x": "z"}, None, ""),
        house.pipeline.update(named("a"), None, "words", ""),
    )
    now = await house.pipeline.get(MemoryRef(named("a")))
    assert (now.labels, now.description) == ({"x": "z"}, "words")
    assert now.etag in {view.etag for view in both}
