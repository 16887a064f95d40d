"""The sample corpus: reproducible, its facts where they are said to be, findable but not easily."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from memoserve.engine.sampler import SamplingParams
from memoserve.generators.base import AnswerRequest, Evidence, QuotedSentence
from memoserve.generators.quote import QuoteGenerator
from memoserve.retrieval.chunker import ChunkLimits, StreamChunker
from memoserve.retrieval.index import PassageIndex
from memoserve.retrieval.minilm import load_minilm

CORPUS = Path(__file__).parents[3] / "benchmarks" / "corpus"
QUOTED = 12
FILES = ("sample.txt", "sample_facts.json")


def make(out: Path, seed: int, words: int) -> tuple[str, list[dict[str, Any]]]:
    script = [sys.executable, str(CORPUS / "make_corpus.py"), "--seed", str(seed)]
    script += ["--words", str(words), "--out", str(out)]
    subprocess.run(script, check=True, timeout=60, stdout=subprocess.PIPE)
    return read(out)


def read(folder: Path) -> tuple[str, list[dict[str, Any]]]:
    text = (folder / "sample.txt").read_bytes().decode()
    facts: list[dict[str, Any]] = json.loads((folder / "sample_facts.json").read_bytes())
    return text, facts


def test_the_committed_files_come_from_the_script(tmp_path: Path) -> None:
    make(tmp_path, seed=7, words=30000)
    for file in FILES:
        assert (tmp_path / file).read_bytes() == (CORPUS / file).read_bytes()


@pytest.mark.parametrize("seed", [7, 8])
def test_facts_stand_once_where_they_are_said_to(tmp_path: Path, seed: int) -> None:
    text, facts = make(tmp_path, seed, 30000)
    assert len(text.split()) >= 30000
    assert len(facts) == 40
    assert len({fact["id"] for fact in facts}) == len({fact["question"] for fact in facts}) == 40
    assert len({fact["kind"] for fact in facts}) >= 8
    encoded = text.encode()
    assert len(encoded) > len(text)  # bytes and characters must not be confused
    for fact in facts:
        assert fact["answer"] in fact["sentence"]
        assert text.count(fact["sentence"]) == 1
        assert text[fact["start_char"] : fact["end_char"]] == fact["sentence"]
        found = encoded[fact["start_byte"] : fact["end_byte"]]
        assert found.decode() == fact["sentence"]
    tenths = {fact["start_char"] * 10 // len(text) for fact in facts}
    assert len(tenths) >= 8  # spread over the whole book
    assert "{" not in text and "}" not in text


def test_another_seed_is_another_book(tmp_path: Path) -> None:
    first, _ = make(tmp_path / "a", 1, 3000)
    second, _ = make(tmp_path / "b", 2, 3000)
    again, _ = make(tmp_path / "c", 1, 3000)
    assert first == again != second


@pytest.fixture(scope="module")
def findings(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[bool], list[bool], list[bool]]:
    """For each fact: its passage among the best three, at the top; for some: quoted best."""
    text, facts = make(tmp_path_factory.mktemp("corpus"), seed=11, words=3000)
    embedder = load_minilm()
    chunker = StreamChunker("book", embedder.count_tokens, ChunkLimits(max_tokens=128))
    chunks = chunker.feed(text) + chunker.finish()
    index = PassageIndex(embedder.dimension)
    index.add(embedder.embed_documents([chunk.text for chunk in chunks]))
    generator = QuoteGenerator(embedder)
    found: list[bool] = []
    first: list[bool] = []
    quoted: list[bool] = []

    async def best_quote(request: AnswerRequest) -> QuotedSentence:
        items = [item async for item in generator.answer(request)]
        quotes = [item for item in items if isinstance(item, QuotedSentence)]
        return max(quotes, key=lambda quote: quote.score)

    hits_of = index.search(embedder.embed_queries([fact["question"] for fact in facts]), 3)
    for fact, hits in zip(facts, hits_of, strict=True):
        passages = [chunks[hit.row] for hit in hits]
        holds = [fact["sentence"] in passage.text for passage in passages]
        evidence = tuple(
            Evidence(passage.text, "book", passage.start_char, passage.start_byte)
            for passage in passages
        )
        found.append(any(holds))
        first.append(holds[0])
        if len(quoted) < QUOTED and any(holds):
            request = AnswerRequest(fact["question"], evidence, "", SamplingParams())
            quoted.append(asyncio.run(best_quote(request)).text == fact["sentence"])
    embedder.close()
    return found, first, quoted


def test_questions_find_their_passage(
    findings: tuple[list[bool], list[bool], list[bool]],
) -> None:
    found, _, _ = findings
    assert sum(found) >= 28  # of 40


def test_questions_can_fail(findings: tuple[list[bool], list[bool], list[bool]]) -> None:
    _, first, _ = findings
    assert sum(first) < 40  # facts of the same kind about others stand around


def test_the_answer_is_quoted_when_its_passage_was_found(
    findings: tuple[list[bool], list[bool], list[bool]],
) -> None:
    _, _, quoted = findings
    assert len(quoted) == QUOTED
    assert sum(quoted) >= QUOTED - 1
