"""What Memorize writes: the same for any split, and appended as if it had come at once."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from memoserve.errors import Aborted, FailedPrecondition
from memoserve.pipeline.conversation import Conversation
from memoserve.pipeline.prompts import BUILT_IN
from memoserve.pipeline.values import (
    Accepted,
    Committed,
    CreateSpec,
    Language,
    MemoryRef,
    Passage,
    Progress,
    SamplingOptions,
    TextPiece,
    WriteMode,
)
from tests.server.pipeline.house import (
    WINDOW,
    House,
    cut,
    make_parts,
    make_text,
    named,
    of_kind,
    open_house,
)

FEW = SamplingOptions(max_tokens=4)


@pytest.fixture
async def exact(tmp_path: Path) -> Any:
    """A house in float64, so that other chunks of the same text show no rounding."""
    async with open_house(tmp_path / "exact", make_parts(dtype=torch.float64)) as opened:
        yield opened
        await opened.check_clean()


def same_memory(house: House, one: str, other: str) -> None:
    """Equal in all that a query can see."""
    assert house.ids(one) == house.ids(other)
    torch.testing.assert_close(house.rows(one), house.rows(other), rtol=0.0, atol=1e-9)
    a, b = house.contents(one), house.contents(other)
    assert (a.state, a.pending_text, a.at_segment_start) == (
        b.state,
        b.pending_text,
        b.at_segment_start,
    )


async def passages(house: House, name: str) -> list[tuple[Any, ...]]:
    found = of_kind(await house.retrieve(name, top_k=1000), Passage)
    return [
        (p.index, p.source_id, p.text, p.start_byte, p.end_byte, p.start_char, p.end_char, p.score)
        for p in found
    ]


@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_any_split_gives_the_same_version(exact: House, seed: int) -> None:
    text = make_text(40, seed)
    whole = await exact.memorize("whole", text)
    split = await exact.memorize("split", cut(text, seed, most=120))
    same_memory(exact, "whole", "split")
    assert await passages(exact, "whole") == await passages(exact, "split")
    assert whole.tokens_added == split.tokens_added == whole.memory.stats.raw_tokens
    parts = [dict(exact.assembled.runtime.store.get(named(n)).parts) for n in ("whole", "split")]
    assert parts[0].keys() == parts[1].keys()
    for part in parts[0]:
        if not part.startswith(("kv", "window")):  # those agree up to rounding, see above
            assert parts[0][part].digest == parts[1][part].digest, part


@pytest.mark.parametrize("at", [1, 37, 700, -1])
async def test_append_of_a_source_going_on_is_memorize_of_the_whole(exact: House, at: int) -> None:
    text = make_text(30)
    await exact.memorize("whole", text)
    first = await exact.memorize("grown", text[:at])
    second = await exact.memorize("grown", text[at:])
    assert (first.memory.version, second.memory.version) == (1, 2)
    same_memory(exact, "whole", "grown")
    assert second.memory.stats.sources == 1
    assert second.memory.stats.text_bytes == len(text.encode())
    if text[at:].strip():
        found = await passages(exact, "grown")
        assert all(text[p[5] : p[6]] == p[2] for p in found)
        assert all(text.encode()[p[3] : p[4]].decode() == p[2] for p in found)


async def test_append_of_a_new_source_is_memorize_of_both(exact: House) -> None:
    one, two = TextPiece("one", make_text(12, 1)), TextPiece("two", make_text(12, 2))
    await exact.memorize("whole", [one, two])
    await exact.memorize("grown", [one])
    grown = await exact.memorize("grown", [two])
    same_memory(exact, "whole", "grown")
    assert await passages(exact, "whole") == await passages(exact, "grown")
    assert grown.memory.stats.sources == 2


async def test_append_many_times_shares_what_was_written(house: House) -> None:
    text = make_text(60)
    names = []
    for start in range(0, len(text), 1000):
        await house.memorize("grown", text[start : start + 1000])
        names.append(house.assembled.runtime.store.get(named("grown")).parts)
    for before, after in pairwise(names):
        assert all(after[n] == p for n, p in before.items() if n != "window")
        assert len(after) > len(before)


async def test_stats_and_events(house: House) -> None:
    text = make_text(60)
    events = await house.events("book", text, ratio=8, expected_tokens=5000)
    accepted, committed = events[0], events[-1]
    assert isinstance(accepted, Accepted)
    assert isinstance(committed, Committed)
    assert (accepted.ratio, accepted.memory.version) == (8, 0)
    progress = of_kind(events, Progress)
    assert len(progress) == len(events) - 2 >= 1
    assert [p.tokens_done for p in progress] == sorted(p.tokens_done for p in progress)
    stats = committed.memory.stats
    ids = house.ids("book")
    assert progress[-1].tokens_done == progress[-1].tokens_received == len(ids) == stats.raw_tokens
    assert stats.windows_closed == len(ids) // WINDOW
    assert stats.memory_rows == len(ids) // WINDOW * (WINDOW // 8)
    assert stats.window_rows == house.contents("book").window_rows
    rows = stats.memory_rows + stats.window_rows
    assert stats.kv_bytes / rows == stats.full_kv_bytes / len(ids)
    assert stats.pages * 4 == rows + stats.wasted_slots
    assert stats.text_bytes == len(text.encode())
    assert committed.memory.ratios == (8,)
    assert accepted.capacity_tokens == stats.capacity_tokens


async def test_passages_are_counted_while_the_text_is_read(house: House) -> None:
    """The index moves on with the engine, not behind it."""
    events = await house.events("book", make_text(330), ratio=8)
    progress = of_kind(events, Progress)
    assert any(p.passages and p.tokens_done < progress[-1].tokens_done for p in progress)


async def test_progress_tells_the_index_too(house: House) -> None:
    house.embedder.gate.clear()
    written = asyncio.create_task(house.events("book", make_text(60)))
    await asyncio.sleep(0.5)
    assert not written.done()
    house.embedder.gate.set()
    events = await written
    last = of_kind(events, Progress)[-1]
    assert last.passages == house.contents("book").passages > 0


async def test_replace_starts_from_nothing(exact: House) -> None:
    await exact.memorize("book", make_text(20, 1))
    replaced = await exact.memorize("book", make_text(10, 2), mode=WriteMode.REPLACE)
    await exact.memorize("fresh", make_text(10, 2))
    assert replaced.memory.version == 2
    same_memory(exact, "book", "fresh")
    assert await passages(exact, "book") == await passages(exact, "fresh")


async def test_replace_may_change_ratio_and_language_append_may_not_change_the_ratio(
    house: House,
) -> None:
    await house.memorize("book", make_text(5), ratio=2)
    with pytest.raises(FailedPrecondition) as caught:
        await house.memorize("book", make_text(5), ratio=4)
    assert caught.value.reason == "RATIO_SETTLED"
    await house.memorize("book", make_text(5), ratio=2)
    replaced = await house.memorize(
        "book", make_text(5), ratio=4, mode=WriteMode.REPLACE, language=Language.ZH
    )
    assert (replaced.memory.ratio, replaced.memory.language) == (4, Language.ZH)
    assert replaced.memory.version == 3


async def test_what_create_settled_counts(house: House) -> None:
    await house.pipeline.create(CreateSpec(named("book"), ratio=8, language=Language.ZH))
    written = await house.memorize("book", make_text(5))
    assert (written.memory.ratio, written.memory.language) == (8, Language.ZH)


async def test_language_is_found_by_script_however_the_text_is_split(house: House) -> None:
    chinese = "铁桥建于春天,河水很深。" * 40
    for name, pieces in (("whole", [chinese]), ("split", list(chinese))):
        written = await house.memorize(name, pieces)
        assert written.memory.language is Language.ZH
    assert house.ids("whole") == house.ids("split")
    assert (await house.memorize("english", make_text(3))).memory.language is Language.EN


async def test_a_request_id_gets_its_first_answer_again(house: House) -> None:
    first = await house.memorize("book", make_text(5), request_id="r1")
    await house.memorize("book", make_text(5, 1), request_id="r2")
    again = await house.events("book", "another text", request_id="r1")
    (replayed,) = again
    assert isinstance(replayed, Committed)
    assert replayed.replayed
    assert not first.replayed
    assert (replayed.memory.version, replayed.tokens_added) == (1, first.tokens_added)
    assert replayed.memory.stats == first.memory.stats
    assert (await house.pipeline.get(MemoryRef(named("book")))).version == 2


async def test_an_expected_version_must_be_the_newest(house: House) -> None:
    await house.memorize("book", make_text(3), expected_version=0)
    with pytest.raises(Aborted) as caught:
        await house.memorize("book", make_text(3), expected_version=0)
    assert caught.value.reason == "VERSION_MISMATCH"
    await house.memorize("book", make_text(3), expected_version=1)


async def test_special_tokens_in_a_text_are_ordinary_text(house: House) -> None:
    tokenizer = house.assembled.runtime.tokenizer
    marks = [tokenizer.decode([i], skip_special=False) for i in sorted(tokenizer.special_ids)]
    assert all(marks)
    hostile = f"before {' '.join(marks)} after {''.join(marks)}."
    await house.memorize("book", hostile * 3)
    prefix, _ = Conversation(tokenizer, BUILT_IN.en).open_document()
    fed = house.ids("book")
    assert fed[: len(prefix)] == prefix
    text_ids = fed[len(prefix) :]
    assert not set(text_ids) & tokenizer.special_ids
    whole = tokenizer.decode(text_ids) + house.contents("book").pending_text
    assert whole.endswith(hostile)


async def test_without_an_index_there_are_no_passages(house: House) -> None:
    written = await house.memorize("book", make_text(5), index=False)
    assert written.memory.stats.passages == 0
    assert house.embedder.batches == 0
    with pytest.raises(FailedPrecondition) as caught:
        await house.retrieve("book")
    assert caught.value.reason == "NO_INDEX"
    assert await house.answer("book", sampling=FEW) is not None


async def test_white_space_is_a_text(house: House) -> None:
    written = await house.memorize("book", " \n\t ")
    assert written.memory.stats.text_bytes == 4
    assert written.memory.stats.passages == 0


async def test_a_new_source_is_always_a_cut(house: House) -> None:
    """White space on both sides would else become tokens that neither source has."""
    one, two = "The amber bridge. \n ", " \n\nThe kettle"
    await house.memorize("both", [TextPiece("one", one), TextPiece("two", two)])
    prefix, encoder = Conversation(house.assembled.runtime.tokenizer, BUILT_IN.en).open_document()
    cuts = [(*encoder.feed(text), *encoder.flush()) for text in (one, "\n\n")]
    wanted = [*prefix, *cuts[0], *cuts[1], *encoder.feed(two)]
    assert house.ids("both") == wanted
    assert house.contents("both").pending_text == encoder.pending_text
    first, second = house.contents("both").text_runs
    assert (first.first_token, second.first_token) == (
        len(prefix),
        len(prefix) + len(cuts[0]) + len(cuts[1]),
    )
