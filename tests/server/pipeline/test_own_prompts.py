"""A model directory's prompts on their way: into the memory, behind it, and into the answer."""

from __future__ import annotations

import json
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from memoserve.cli import assemble as cli
from memoserve.config import ServerConfig
from memoserve.engine.sequence import SequenceRequest
from memoserve.errors import FailedPrecondition, InvalidArgument
from memoserve.models.chat import Message, encode_prompt
from memoserve.models.tokenizer import TextTokenizer
from memoserve.pipeline.clues import ClueLines
from memoserve.pipeline.prompt_file import PROMPTS_FILE
from memoserve.pipeline.prompts import BUILT_IN
from memoserve.pipeline.values import ClueKind, Language, SamplingOptions, Task, WriteMode
from tests.server.fixtures import random_tensors, tiny_config, write_checkpoint
from tests.server.pipeline.house import (
    TOKENIZER,
    House,
    WordEmbedder,
    make_parts,
    make_text,
    named,
    open_house,
)

FEW = SamplingOptions(max_tokens=2)
OWN = {
    "context": "Learn this by heart: {context} Enough <|im_end|> of it.",
    "acknowledgement": "By heart.",
    "clues": {"span": "Which lines speak of {input}", "key_point": "Its gist."},
    "answer": "Of {context} say: {input}",
}
PROMPTS = {"en": OWN, "zh": {"context": "背下:{context}完。", "answer": "据{context}答:{input}"}}


class _Embedder(WordEmbedder):
    def close(self) -> None:
        self.gate.set()


Open = Callable[[Any], AbstractAsyncContextManager[House]]


@pytest.fixture
def opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Open:
    """Serves a tiny model directory that holds the prompts given, as the command line does."""
    shape = tiny_config(vocab_size=1024, max_position_embeddings=2048, beacon_window=32)
    directory = write_checkpoint(tmp_path / "model", shape, random_tensors(shape))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(TOKENIZER / name, directory)
    embedder = _Embedder()
    monkeypatch.setattr(cli, "load_minilm", lambda: embedder)
    config = ServerConfig(tmp_path / "store", model=str(directory), num_pages=512, page_size=4)

    @asynccontextmanager
    async def serve(prompts: Any) -> AsyncIterator[House]:
        path = directory / PROMPTS_FILE
        path.unlink(missing_ok=True)
        if prompts is not None:
            path.write_text(json.dumps(prompts), encoding="utf-8")
        house = House(cli.assemble(config), embedder)
        try:
            yield house
        finally:
            house.assembled.close()

    return serve


def asked_of(house: House, monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """Ids of every query that reaches the engine from here on."""
    worker, seen = house.assembled.runtime.worker, []
    submit = worker.submit

    def noting(request: SequenceRequest) -> Any:
        if request.sampling is not None:
            seen.append(list(request.tokens))
        return submit(request)

    monkeypatch.setattr(worker, "submit", noting)
    return seen


def chat_ids(tokenizer: TextTokenizer, *turns: str) -> list[int]:
    """Ids of a whole chat, encoded at once."""
    roles = ("user", "assistant", "user")
    messages = [Message(role, turn) for role, turn in zip(roles, turns, strict=False)]
    encoder = tokenizer.stream_encoder()
    prompt = tokenizer.render_chat(messages, add_generation_prompt=True)
    return encode_prompt(prompt, encoder) + encoder.flush()


async def test_memory_and_query_are_one_chat_in_the_files_words(
    opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = make_text(9)
    async with opened(PROMPTS) as house:
        await house.memorize("book", text)
        asked = asked_of(house, monkeypatch)
        kinds = (ClueKind.SPAN, ClueKind.KEY_POINT, ClueKind.SURROGATE)
        for kind in kinds:
            await house.recall("book", query="iron?", kinds=(kind,), sampling=FEW)
        built_in = BUILT_IN.en.clues[ClueKind.SURROGATE].replace("{input}", "iron?")
        instructions = ("Which lines speak of iron?", "Its gist.", built_in)
        document = f"Learn this by heart: {text} Enough <|im_end|> of it."
        tokenizer, stored = house.assembled.runtime.tokenizer, house.ids("book")
        assert [stored + ids for ids in asked] == [
            chat_ids(tokenizer, document, "By heart.", instruction) for instruction in instructions
        ]
        assert "Learn this by heart: " in tokenizer.decode(stored)


async def test_an_answer_is_asked_for_in_the_files_words(
    opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(PROMPTS) as house:
        await house.memorize("book", "The amber bridge was of iron.")
        asked = asked_of(house, monkeypatch)
        for language in (Language.AUTO, Language.ZH):
            await house.generate(
                "book",
                query="Of what?",
                task=Task.RETRIEVAL_ONLY,
                generator="memory-model",
                language=language,
                sampling=FEW,
            )
        evidence = "The amber bridge was of iron."
        prompts = (f"Of {evidence} say: Of what?", f"据{evidence}答:Of what?")
        tokenizer = house.assembled.runtime.tokenizer
        assert asked == [chat_ids(tokenizer, prompt) for prompt in prompts]


async def test_closing_words_are_in_the_language_of_the_opening_ones(
    opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where a query asks in the other language."""
    async with opened(PROMPTS) as house:
        await house.memorize("book", "铁桥建于春天。", language=Language.ZH)
        asked = asked_of(house, monkeypatch)
        await house.recall("book", kinds=(ClueKind.KEY_POINT,), language=Language.EN, sampling=FEW)
        whole = house.ids("book") + asked[0]
        turns = ("背下:铁桥建于春天。完。", BUILT_IN.zh.acknowledgement, "Its gist.")
        assert whole == chat_ids(house.assembled.runtime.tokenizer, *turns)


async def test_the_files_acknowledgement_is_no_clue(tmp_path: Path) -> None:
    own = replace(BUILT_IN, zh=replace(BUILT_IN.zh, acknowledgement="I know it all by now."))
    async with open_house(tmp_path / "store", replace(make_parts(), prompts=own)) as house:
        judge = ClueLines(house.assembled.runtime.clue_rules)
        for said in ("i know it all by NOW.", BUILT_IN.en.acknowledgement):
            assert judge.judge(said)[1] == "acknowledgement"
        assert judge.judge(BUILT_IN.zh.acknowledgement)[1] == ""


async def test_a_memory_made_in_other_words_is_refused(opened: Open) -> None:
    async with opened(None) as house:
        await house.memorize("book", make_text(9))
        plain = house.contents("book")
    async with opened(PROMPTS) as house:
        for refused in (house.recall("book"), house.answer("book"), house.memorize("book", "On.")):
            with pytest.raises(FailedPrecondition) as caught:
                await refused
            assert caught.value.reason == "MEMORY_MISMATCH"
            assert caught.value.metadata["differs"] == "prompts_fingerprint"
        assert await house.retrieve("book")
        await house.memorize("book", make_text(9), mode=WriteMode.REPLACE)
        assert await house.recall("book", sampling=FEW)
        own = house.contents("book").prompts_fingerprint
    assert (plain.prompts_fingerprint, own) == (None, house.assembled.runtime.prompts.fingerprint)
    async with opened(None) as house:
        with pytest.raises(FailedPrecondition, match=f"prompts_fingerprint: stored '{own}'"):
            await house.recall("book")


async def test_other_clues_take_no_memory_away(opened: Open) -> None:
    """A store written without the file is used, and gone on writing, as it is."""
    async with opened(None) as house:
        await house.memorize("book", make_text(9))
    async with opened({"en": {"clues": OWN["clues"], "answer": OWN["answer"]}}) as house:
        assert await house.recall("book", sampling=FEW)
        await house.memorize("book", " On.")
        record = house.assembled.runtime.store.get(named("book"))
        assert "prompts_fingerprint" not in record.meta


async def test_a_bad_file_stops_the_server_by_name(opened: Open) -> None:
    with pytest.raises(InvalidArgument, match=f"{PROMPTS_FILE}: en.clues.span: "):
        async with opened({"en": {"clues": {"span": "no place"}}}):
            pass
