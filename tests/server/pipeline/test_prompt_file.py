"""A model directory's own prompts: what is left out is built in, what is wrong is named."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from memoserve.errors import InvalidArgument
from memoserve.pipeline.prompt_file import MAX_BYTES, PROMPTS_FILE, read_prompts
from memoserve.pipeline.prompts import BUILT_IN, EN, ZH, Prompts, PromptSet
from memoserve.pipeline.values import ClueKind, Language

WHOLE: dict[str, Any] = {
    "context": "Read: {context} Done.",
    "acknowledgement": "Ok.",
    "clues": {
        "span": "Quote: {input}",
        "surrogate": "Ask: {input}",
        "draft_answer": "Say: {input}",
        "key_point": "List.",
    },
    "answer": "{context} {input}",
    "summary": "Sum: {context}",
}
AS_PROMPTS = Prompts(
    context="Read: {context} Done.",
    acknowledgement="Ok.",
    clues={
        ClueKind.SPAN: "Quote: {input}",
        ClueKind.SURROGATE: "Ask: {input}",
        ClueKind.DRAFT_ANSWER: "Say: {input}",
        ClueKind.KEY_POINT: "List.",
    },
    answer="{context} {input}",
    summary="Sum: {context}",
)


def read(directory: Path, content: Any) -> PromptSet:
    raw = content if isinstance(content, bytes) else json.dumps(content).encode()
    (directory / PROMPTS_FILE).write_bytes(raw)
    return read_prompts(directory)


def test_without_a_file_prompts_are_the_built_in_ones(tmp_path: Path) -> None:
    assert read_prompts(tmp_path) is BUILT_IN
    assert (BUILT_IN.en, BUILT_IN.zh, BUILT_IN.fingerprint) == (EN, ZH, None)
    assert read(tmp_path, {}) == read(tmp_path, {"en": {}, "zh": {"clues": {}}}) == BUILT_IN


def test_the_built_in_words_around_a_document_are_those_of_every_store() -> None:
    """Stores written with them carry no fingerprint: a change would go unnoticed there."""
    words = json.dumps([EN.context, ZH.context]).encode()
    told = hashlib.sha256(words).hexdigest()
    assert told == "464f7d5294f81e132c893747ae1767b9e6fa2452f6b561b2b8c0e6f886381544"


def test_a_whole_language_is_taken_and_the_other_stays(tmp_path: Path) -> None:
    prompts = read(tmp_path, {"zh": WHOLE})
    assert prompts == PromptSet(en=EN, zh=AS_PROMPTS)
    assert prompts.of(Language.ZH) == AS_PROMPTS
    assert prompts.acknowledgements == (EN.acknowledgement, "Ok.")
    assert read(tmp_path, {"en": WHOLE}) == PromptSet(en=AS_PROMPTS, zh=ZH)


@pytest.mark.parametrize("name", ["context", "acknowledgement", "answer", "summary"])
def test_a_field_alone_replaces_that_field(name: str, tmp_path: Path) -> None:
    wanted = replace(EN, **{name: WHOLE[name]})
    assert read(tmp_path, {"en": {name: WHOLE[name]}}).en == wanted


@pytest.mark.parametrize("kind", list(ClueKind))
def test_a_clue_alone_replaces_that_clue(kind: ClueKind, tmp_path: Path) -> None:
    own = WHOLE["clues"][kind.value]
    wanted = replace(EN, clues={**EN.clues, kind: own})
    assert read(tmp_path, {"en": {"clues": {kind.value: own}}}).en == wanted


def test_the_question_may_stand_in_a_summary_and_in_key_points(tmp_path: Path) -> None:
    given = {"summary": "{input}: {context}", "clues": {"key_point": "About {input}."}}
    prompts = read(tmp_path, {"en": given}).en
    assert (prompts.summary, prompts.clues[ClueKind.KEY_POINT]) == (
        given["summary"],
        "About {input}.",
    )


def test_the_fingerprint_is_of_the_words_around_the_document_alone(tmp_path: Path) -> None:
    """A clue's wording, or the file's layout, makes no stored memory useless."""
    first = read(tmp_path, {"en": {"context": "A {context} B"}}).fingerprint
    assert first is not None
    assert read(tmp_path, {"en": WHOLE | {"context": "A {context} B"}}).fingerprint == first
    assert read(tmp_path, {"en": {"context": EN.context}}).fingerprint is None
    assert read(tmp_path, {"en": {"clues": WHOLE["clues"]}}).fingerprint is None
    others = [{"en": {"context": "A {context} C"}}, {"zh": {"context": "A {context} B"}}]
    assert len({first, *(read(tmp_path, one).fingerprint for one in others)}) == 3


@pytest.mark.parametrize(
    ("content", "path", "message"),
    [
        (b"{", "", "is not JSON"),
        (b"\xff\xfe", "", "is not JSON"),
        (b"[" * MAX_BYTES, "", "is not JSON"),
        (b" " * MAX_BYTES + b"{}", "", "longer than 65536 bytes"),
        (b'{"en": {"answer": "a", "answer": "b"}}', "", "the key 'answer' stands twice"),
        ([], "", "is not an object"),
        ({"fr": {}}, "fr", "is not known; known: en, zh"),
        ({"en": None}, "en", "is not an object"),
        ({"en": {"clue": {}}}, "en.clue", "is not known"),
        ({"en": {"clues": []}}, "en.clues", "is not an object"),
        ({"zh": {"clues": {"spans": "{input}"}}}, "zh.clues.spans", "is not known"),
        ({"en": {"clues": {"span": 7}}}, "en.clues.span", "is not a string"),
        ({"en": {"answer": None}}, "en.answer", "is not a string"),
        ({"en": {"summary": ["{context}"]}}, "en.summary", "is not a string"),
        ({"en": {"context": "text"}}, "en.context", "{context} is missing"),
        ({"en": {"context": "{context} {context}"}}, "en.context", "{context} stands there 2"),
        ({"en": {"context": "{context} {input}"}}, "en.context", "{input} means nothing here"),
        ({"zh": {"acknowledgement": " \n"}}, "zh.acknowledgement", "is empty"),
        ({"zh": {"acknowledgement": "{input}?"}}, "zh.acknowledgement", "means nothing here"),
        ({"en": {"clues": {"span": ""}}}, "en.clues.span", "is empty"),
        ({"en": {"clues": {"span": "say"}}}, "en.clues.span", "{input} is missing"),
        ({"en": {"clues": {"surrogate": "{Input}"}}}, "en.clues.surrogate", "{input} is missing"),
        ({"en": {"clues": {"draft_answer": "-"}}}, "en.clues.draft_answer", "{input} is missing"),
        ({"en": {"clues": {"key_point": ""}}}, "en.clues.key_point", "is empty"),
        ({"en": {"clues": {"key_point": "{input}" * 2}}}, "en.clues.key_point", "stands there 2"),
        ({"en": {"clues": {"span": "{context} {input}"}}}, "en.clues.span", "means nothing here"),
        ({"en": {"answer": "{context}"}}, "en.answer", "{input} is missing"),
        ({"en": {"answer": "{input}"}}, "en.answer", "{context} is missing"),
        ({"en": {"answer": "{input}{input}{context}"}}, "en.answer", "{input} stands there 2"),
        ({"en": {"summary": "{input}"}}, "en.summary", "{context} is missing"),
        ({"en": {"acknowledgement": "\ud800"}}, "en.acknowledgement", "UTF-8"),
    ],
    ids=lambda value: value[:20] if isinstance(value, bytes) else str(value)[:60],
)
def test_what_is_wrong_is_named(content: Any, path: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument) as caught:
        read(tmp_path, content)
    assert caught.value.field == (f"{PROMPTS_FILE}: {path}" if path else PROMPTS_FILE)
    assert message in caught.value.description


def test_the_example_of_the_documentation_is_good(tmp_path: Path) -> None:
    page = Path(__file__).parents[3] / "docs/prompts.md"
    example = page.read_text(encoding="utf-8").split("```json\n")[1].split("```")[0]
    prompts = read(tmp_path, example.encode())
    assert prompts.en.acknowledgement == "I have read it."
    assert set(json.loads(example)["en"]) == set(WHOLE)


def test_a_file_may_be_as_long_as_the_limit(tmp_path: Path) -> None:
    assert read(tmp_path, b" " * (MAX_BYTES - 2) + b"{}") == BUILT_IN


def test_what_cannot_be_read_is_not_taken_for_absent(tmp_path: Path) -> None:
    (tmp_path / PROMPTS_FILE).mkdir()
    with pytest.raises(InvalidArgument, match=f"{PROMPTS_FILE}: cannot be read"):
        read_prompts(tmp_path)
