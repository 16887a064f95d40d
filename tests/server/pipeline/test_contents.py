"""What a manifest says comes back as it was; the places of sources are kept."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memoserve.errors import DataLoss, InvalidArgument
from memoserve.memory.documents import freeze_mapping
from memoserve.memory.names import MemoryName
from memoserve.memory.snapshot import VersionRecord
from memoserve.memory.window import WindowState
from memoserve.pipeline.api import MAX_SOURCE_ID_CHARS
from memoserve.pipeline.contents import Contents, Run, TextRun, read_contents
from memoserve.pipeline.sources import MAX_SOURCES, SourceTexts
from memoserve.pipeline.values import Language

TEXT = st.text(st.characters(codec="utf-8"), max_size=20)


def make_contents(**changes: Any) -> Contents:
    contents = Contents(
        model="m",
        model_fingerprint="mf",
        tokenizer_fingerprint="tf",
        embedder_fingerprint="ef",
        chunker_version=3,
        ratios=(2, 4),
        window=32,
        language=Language.ZH,
        state=replace(WindowState(), windows_closed=2, open_tokens=5),
        window_rows=6,
        pending_text="Größ",
        at_segment_start=False,
        full_kv_bytes=100,
        kv_bytes=40,
        memory_runs=(Run("kv/0", 0, 8), Run("kv/1", 8, 16)),
        token_runs=(Run("tokens/0", 0, 69),),
        text_runs=(TextRun("a", "text/0", 0, 0, 4, 6, 12), TextRun("a", "text/1", 4, 6, 3, 3, 30)),
        passage_runs=(Run("passages/0", 0, 2),),
    )
    return replace(contents, **changes)


def stored(meta: dict[str, Any]) -> VersionRecord:
    """As it comes from disk: through JSON, and frozen."""
    frozen = freeze_mapping(json.loads(json.dumps(meta)))
    return VersionRecord(MemoryName("default", "book"), "uid", 1, 0.0, frozen)


def test_contents_come_back_as_they_were() -> None:
    contents = make_contents()
    assert read_contents(stored(contents.to_meta())) == contents
    assert (contents.tokens, contents.passages, contents.text_bytes) == (69, 2, 9)
    assert contents.sources == 1


@pytest.mark.parametrize(
    "damage",
    [
        {"contents_format": 2},
        {"language": "xx"},
        {"state": 7},
        {"memory_runs": [{"part": "kv/0"}]},
        {"surplus": 1},
        {"text_runs": None},
    ],
    ids=str,
)
def test_a_manifest_that_is_not_ours_is_data_loss(damage: dict[str, Any]) -> None:
    with pytest.raises(DataLoss):
        read_contents(stored(make_contents().to_meta() | damage))


@given(st.lists(st.tuples(st.sampled_from("abc"), TEXT), max_size=6), st.integers(0, 5))
def test_runs_hold_the_texts_with_their_places(pieces: list[tuple[str, str]], at: int) -> None:
    sources = SourceTexts(None)
    wanted: dict[str, str] = {}
    for token, (source_id, text) in enumerate(pieces):
        if source_id in wanted and source_id != list(wanted)[-1]:
            with pytest.raises(InvalidArgument) as caught:
                sources.begins(source_id)
            assert caught.value.field == "text.source_id"
            continue
        if sources.begins(source_id):
            sources.open(source_id, token)
        wanted[source_id] = wanted.get(source_id, "") + text
        sources.add(text)
    runs, data = sources.runs(f"text/{at}", 0)
    assert data.decode() == "".join(wanted.values())
    texts = [data[run.part_byte :][: run.num_bytes].decode() for run in runs]
    assert list(zip([run.source_id for run in runs], texts, strict=True)) == [
        (source_id, text) for source_id, text in wanted.items() if text
    ]
    for run, text in zip(runs, texts, strict=True):
        assert run.part == f"text/{at}"
        assert (run.chars, run.num_bytes) == (len(text), len(text.encode()))
        assert (run.start_char, run.start_byte) == (0, 0)


def test_only_the_last_source_of_a_base_goes_on_and_its_offsets_with_it() -> None:
    text_runs = (TextRun("a", "text/0", 0, 0, 9, 9, 3), TextRun("b", "text/1", 0, 0, 4, 6, 12))
    sources = SourceTexts(make_contents(text_runs=text_runs))
    assert not sources.is_first
    with pytest.raises(InvalidArgument):
        sources.begins("a")
    assert not sources.begins("b")
    assert sources.place == ("b", 4, 6)
    sources.add("更多")
    (run,), data = sources.runs("text/2", 69)
    assert run == TextRun("b", "text/2", 4, 6, 2, 6, 69)
    assert data == "更多".encode()


def test_a_source_id_has_a_limit() -> None:
    sources = SourceTexts(None)
    assert sources.begins("x" * MAX_SOURCE_ID_CHARS)
    with pytest.raises(InvalidArgument) as caught:
        sources.begins("x" * (MAX_SOURCE_ID_CHARS + 1))
    assert caught.value.field == "text.source_id"


def test_sources_of_one_call_have_a_limit() -> None:
    sources = SourceTexts(None)
    for number in range(MAX_SOURCES):
        assert sources.begins(str(number))
        sources.open(str(number), number)
    with pytest.raises(InvalidArgument, match=str(MAX_SOURCES)) as caught:
        sources.begins("one more")
    assert caught.value.field == "text.source_id"
