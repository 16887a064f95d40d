"""What the queries tell, and in which order."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from memoserve.errors import OutOfRange
from memoserve.pipeline.conversation import Conversation
from memoserve.pipeline.prompts import BUILT_IN
from memoserve.pipeline.retrieve import SPREAD_PASSAGES
from memoserve.pipeline.values import (
    Clue,
    ClueKind,
    Passage,
    Quote,
    SamplingOptions,
    Stage,
    StageName,
    Task,
    TextPiece,
    Token,
)
from tests.server.pipeline.house import (
    House,
    final,
    make_parts,
    make_text,
    of_kind,
    open_house,
    refs,
)

FEW = SamplingOptions(max_tokens=12)


def stages(events: list[Any]) -> list[StageName]:
    return [event.name for event in of_kind(events, Stage)]


# -- recall


async def test_recall_tells_tokens_clues_and_counts(house: House) -> None:
    await house.memorize("book", make_text(9))
    events = await house.recall(
        "book",
        kinds=(ClueKind.SPAN, ClueKind.DRAFT_ANSWER),
        sampling=SamplingOptions(max_tokens=30),
        return_dropped=True,
        stream_tokens=True,
    )
    assert stages(events) == [StageName.RECALL]
    end = final(events)
    assert end.memories == refs("book@1")
    assert end.usage.generated_tokens == 60
    assert end.finish_reason == "length"
    assert end.usage.prompt_tokens > 50
    assert end.usage.first_token_s is not None
    assert 0 < end.usage.first_token_s <= end.usage.recall_s
    for kind in (ClueKind.SPAN, ClueKind.DRAFT_ANSWER):
        said = "".join(t.text for t in of_kind(events, Token) if t.clue_kind is kind)
        lines = [line for line in said.split("\n") if line.strip()]
        clues = [c for c in of_kind(events, Clue) if c.kind is kind and c.dropped != "empty"]
        assert len(clues) == len(lines)
        assert all(c.text in line for c, line in zip(clues, lines, strict=True))
        assert all(c.memory == refs("book@1")[0] for c in clues)


async def test_dropped_clues_and_tokens_are_told_only_on_wish(house: House) -> None:
    await house.memorize("book", make_text(9))
    events = await house.recall("book", sampling=FEW)
    assert not of_kind(events, Token)
    assert all(not clue.dropped for clue in of_kind(events, Clue))


async def test_key_points_need_no_question(house: House) -> None:
    await house.memorize("book", make_text(9))
    events = await house.recall("book", query="", kinds=(ClueKind.KEY_POINT,), sampling=FEW)
    assert final(events).usage.generated_tokens == 12


async def test_a_stop_string_ends_a_recall_and_is_counted(house: House) -> None:
    await house.memorize("book", make_text(9))
    whole = await house.answer("book", sampling=SamplingOptions(max_tokens=40))
    stop = whole[len(whole) // 2 : len(whole) // 2 + 2]
    events = await house.generate(
        "book", task=Task.MEMORY_ONLY, sampling=SamplingOptions(max_tokens=40, stop=(stop,))
    )
    end = final(events)
    assert end.text == whole[: whole.index(stop)]
    assert end.text == "".join(token.text for token in of_kind(events, Token))
    assert end.finish_reason == "stop"
    assert 0 < end.usage.generated_tokens < 40


async def test_several_memories_answer_as_each_alone(house: House) -> None:
    for number, name in enumerate(("a", "b", "c")):
        await house.memorize(name, make_text(9, number))
    alone = [await house.answer(name, sampling=FEW) for name in ("a", "b", "c")]
    assert len(set(alone)) > 1
    assert await house.answer("a", "b", "c", sampling=FEW) == "\n".join(alone)
    clues = of_kind(
        await house.recall(
            "a", "b", "c", kinds=(ClueKind.DRAFT_ANSWER,), sampling=FEW, return_dropped=True
        ),
        Clue,
    )
    for name, text in zip(("a", "b", "c"), alone, strict=True):
        said = [clue.text for clue in clues if clue.memory == refs(f"{name}@1")[0]]
        assert "".join(said).split() == text.split()


async def test_a_memory_named_twice_is_asked_once(house: House) -> None:
    await house.memorize("a", make_text(9))
    assert await house.answer("a", "a", sampling=FEW) == await house.answer("a", sampling=FEW)


async def test_sampling_is_repeatable_by_its_seed(house: House) -> None:
    await house.memorize("a", make_text(9))
    hot = [
        await house.answer("a", sampling=SamplingOptions(max_tokens=20, temperature=1.5, seed=seed))
        for seed in (1, 1, 2)
    ]
    assert hot[0] == hot[1] != hot[2]


async def test_the_checkpoints_own_sampling_is_the_default(tmp_path: Path) -> None:
    parts = make_parts(generation={"do_sample": True, "temperature": 3.0})
    async with open_house(tmp_path / "store", parts) as house:
        await house.memorize("a", make_text(9))
        answers = {await house.answer("a", sampling=FEW) for _ in range(4)}
        assert len(answers) > 1
        cold = SamplingOptions(max_tokens=12, temperature=0.0)
        assert await house.answer("a", sampling=cold) == await house.answer("a", sampling=cold)
        await house.check_clean()


async def test_versions_are_asked_by_number(house: House) -> None:
    await house.memorize("a", make_text(9))
    first = await house.answer("a", sampling=FEW)
    await house.memorize("a", make_text(9, 1))
    second = await house.answer("a", sampling=FEW)
    assert first != second
    assert await house.answer("a@1", sampling=FEW) == first
    assert await house.answer("a@2", sampling=FEW) == second
    one = of_kind(await house.retrieve("a@1", top_k=100), Passage)
    two = of_kind(await house.retrieve("a", top_k=100), Passage)
    assert len(one) < len(two)
    assert {p.memory.version for p in one} == {1}


async def test_special_tokens_in_a_question_are_ordinary_text(house: House) -> None:
    await house.memorize("a", make_text(3))
    tokenizer, contents = house.assembled.runtime.tokenizer, house.contents("a")
    marks = "".join(tokenizer.decode([i], skip_special=False) for i in tokenizer.special_ids)
    talk = Conversation(tokenizer, BUILT_IN.en)

    def specials(instruction: str) -> list[int]:
        return [i for i in talk.ask(contents, instruction) if i in tokenizer.special_ids]

    assert specials(f"what is {marks}?") == specials("what is it?")
    assert len(talk.ask(contents, marks)) > len(talk.ask(contents, ""))
    assert await house.answer("a", query=marks, sampling=FEW) != ""


async def test_the_pending_tail_is_asked_with_the_closing_words(house: House) -> None:
    """A question sees every character of the text, also those that wait to be encoded."""
    text = "The amber bridge was of iro"
    await house.memorize("a", text)
    tokenizer, contents = house.assembled.runtime.tokenizer, house.contents("a")
    assert contents.pending_text
    ids = Conversation(tokenizer, BUILT_IN.en).ask(contents, "Why?")
    whole = tokenizer.decode([*house.ids("a"), *ids])
    before, after = BUILT_IN.en.context.split("{context}")
    assert before + text + after in whole
    assert "Why?" in whole[whole.index(after) :]


# -- retrieve and generate from evidence


async def test_retrieval_only_quotes_the_evidence_with_places(house: House) -> None:
    text = make_text(200) + "\n\nThe zeppelin landed near Größe harbour at noon. " + make_text(9, 5)
    await house.memorize("book", text)
    events = await house.generate(
        "book", query="Where did the zeppelin land?", task=Task.RETRIEVAL_ONLY
    )
    assert stages(events) == [StageName.RETRIEVE, StageName.GENERATE]
    end = final(events)
    assert "zeppelin landed" in end.text
    assert (end.finish_reason, end.memories) == ("evidence", refs("book@1"))
    passages, quotes = of_kind(events, Passage), of_kind(events, Quote)
    assert 1 <= len(passages) <= 3
    assert end.text == "\n".join(quote.text for quote in quotes)
    data = text.encode()
    for found in (*passages, *quotes):
        assert text[found.start_char : found.end_char] == found.text
        assert data[found.start_byte : found.end_byte].decode() == found.text
        assert found.memory == refs("book@1")[0]
    usage = end.usage
    assert usage.first_clue_s is None
    assert usage.retrieve_s > 0


async def test_passages_of_several_memories_and_their_limits(house: House) -> None:
    for number, name in enumerate(("a", "b")):
        await house.memorize(name, [TextPiece(f"{name}.txt", make_text(120, number))])
    found = of_kind(await house.retrieve("a", "b", query="amber bridge", top_k=5), Passage)
    assert len(found) == 5
    assert {p.source_id for p in found} <= {"a.txt", "b.txt"}
    places = [(p.memory.name.memory_id, p.index) for p in found]
    assert places == sorted(places)
    ranked = of_kind(await house.retrieve("a", "b", top_k=5, fusion="rrf"), Passage)
    assert [p.score for p in ranked] == sorted((p.score for p in ranked), reverse=True)
    assert len(of_kind(await house.retrieve("a", "b", max_passages=2), Passage)) == 2
    tokenizer = house.assembled.runtime.tokenizer
    sizes = sorted(len(tokenizer.encode(p.text)) for p in found)
    capped = of_kind(
        await house.retrieve("a", "b", top_k=5, max_tokens=sizes[0] + sizes[1]), Passage
    )
    assert 1 <= len(capped) <= 2
    assert sum(len(tokenizer.encode(p.text)) for p in capped) <= sizes[0] + sizes[1]


async def test_clues_find_what_the_question_does_not(house: House) -> None:
    rare = ("The xylophone was blue.", "The zeppelin landed at noon.")
    text = rare[0] + make_text(150) + f"\n\n{rare[1]}\n\n" + make_text(50, 3)
    await house.memorize("a", text)
    by_question = of_kind(await house.retrieve("a", query="xylophone", top_k=1), Passage)
    by_clue = of_kind(
        await house.retrieve("a", query="xylophone", clues=("zeppelin landed noon",), top_k=1),
        Passage,
    )
    assert not any("zeppelin" in p.text for p in by_question)
    (found,) = [p for p in by_clue if "zeppelin" in p.text]
    assert found.signals["by_query"] == 0.0
    alone = of_kind(await house.retrieve("a", query="", clues=("zeppelin",), top_k=1), Passage)
    assert alone[0].signals == {"cosine": alone[0].score, "found_by": 1.0, "by_query": 0.0}


@pytest.mark.parametrize(
    ("trusted", "asked", "recalls"),
    [(True, None, True), (False, None, False), (False, True, True), (True, False, False)],
)
async def test_clues_are_used_where_the_card_vouches_or_the_caller_wants(
    tmp_path: Path, trusted: bool, asked: bool | None, recalls: bool
) -> None:
    async with open_house(tmp_path / "store", make_parts(trusted=trusted)) as house:
        await house.memorize("a", make_text(9))
        for task in (Task.MEMORAG, Task.SUMMARIZE):
            events = await house.generate("a", task=task, use_clues=asked)
            assert (StageName.RECALL in stages(events)) == recalls, task
            assert stages(events)[-2:] == [StageName.RETRIEVE, StageName.GENERATE]
            assert final(events).text
            kinds = {clue.kind for clue in of_kind(events, Clue)}
            assert kinds <= ({ClueKind.KEY_POINT} if task is Task.SUMMARIZE else set(ClueKind))
        await house.check_clean()


async def test_a_summary_without_clues_looks_at_the_whole_text(house: House) -> None:
    await house.memorize("a", make_text(400), ratio=8)
    every = of_kind(await house.retrieve("a", top_k=1000), Passage)
    events = await house.generate("a", query="", task=Task.SUMMARIZE, use_clues=False)
    taken = [p.index for p in of_kind(events, Passage)]
    assert len(every) > SPREAD_PASSAGES == len(taken)
    assert taken == sorted(set(taken))
    gaps = {b - a for a, b in pairwise(taken)}
    assert max(gaps) - min(gaps) <= 1
    assert taken[0] == 0
    fewer = await house.generate(
        "a", query="", task=Task.SUMMARIZE, use_clues=False, max_passages=3
    )
    assert len(of_kind(fewer, Passage)) == 3
    tokenizer = house.assembled.runtime.tokenizer
    capped = await house.generate(
        "a", query="", task=Task.SUMMARIZE, use_clues=False, max_tokens=900
    )
    texts = [p.text for p in of_kind(capped, Passage)]
    assert 1 <= len(texts) < len(taken)
    assert sum(len(tokenizer.encode(text)) for text in texts) <= 900


async def test_the_memory_model_writes_from_the_evidence(house: House) -> None:
    await house.memorize("a", make_text(9))
    options: dict[str, Any] = {"task": Task.RETRIEVAL_ONLY, "generator": "memory-model"}
    events = await house.generate("a", sampling=FEW, **options)
    end = final(events)
    assert end.text == "".join(token.text for token in of_kind(events, Token))
    assert (end.finish_reason, end.usage.generated_tokens) == ("length", 12)
    assert not of_kind(events, Quote)
    evidence = "\n\n".join(p.text for p in of_kind(events, Passage))
    tokenizer = house.assembled.runtime.tokenizer
    assert end.usage.prompt_tokens > len(tokenizer.encode(evidence))
    # A template changes the prompt, and what stands in braces otherwise is text.
    plain = final(await house.generate("a", sampling=FEW, template="{context}{input}", **options))
    odd = final(
        await house.generate("a", sampling=FEW, template="{0}{context}{x}{input}", **options)
    )
    assert plain.usage.prompt_tokens < end.usage.prompt_tokens
    assert plain.usage.prompt_tokens < odd.usage.prompt_tokens
    stop = end.text[3:5]
    cut = final(
        await house.generate("a", sampling=SamplingOptions(max_tokens=12, stop=(stop,)), **options)
    )
    assert cut.text == end.text[: end.text.index(stop)]
    assert (cut.finish_reason, cut.usage.prompt_tokens) == ("stop", end.usage.prompt_tokens)
    assert 0 < cut.usage.generated_tokens <= 12


async def test_evidence_beyond_the_models_length_is_refused_with_numbers(tmp_path: Path) -> None:
    async with open_house(tmp_path / "s", make_parts(max_position_embeddings=512)) as house:
        await house.memorize("a", make_text(60), ratio=8)
        with pytest.raises(OutOfRange) as caught:
            await house.generate(
                "a", generator="memory-model", top_k=20, sampling=FEW, use_clues=False
            )
        assert caught.value.metadata["max_tokens"] == "500"
        await house.check_clean()


async def test_too_little_room_for_any_passage_is_an_empty_answer(house: House) -> None:
    await house.memorize("a", make_text(9))
    end = final(await house.generate("a", task=Task.RETRIEVAL_ONLY, max_tokens=1))
    assert (end.text, end.finish_reason) == ("", "evidence")
