"""Ids in a stream give the text of all of them, in whole characters."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import decoders

from memoserve.errors import InvalidArgument
from memoserve.models.stream_decoder import DecodeRules, decode_rules
from memoserve.models.tokenizer import TextTokenizer
from tests.server.models.tokenizers import (
    BYTE_LEVEL,
    FAMILIES,
    SENTENCEPIECE,
    library_tokenizer,
    loaded,
    messy_texts,
)

families = pytest.mark.parametrize("name", FAMILIES)
random_ids = st.lists(st.integers(0, 1400), max_size=30)


def streamed(tokenizer: TextTokenizer, ids: list[int], **options: bool) -> str:
    decoder = tokenizer.stream_decoder(**options)
    return "".join(map(decoder.feed, ids)) + decoder.flush()


@families
@settings(max_examples=80)
@given(ids=random_ids, skip_special=st.booleans())
def test_pieces_join_to_the_decode_of_all(name: str, ids: list[int], skip_special: bool) -> None:
    tokenizer = loaded(name)
    whole = tokenizer.decode(ids, skip_special=skip_special)
    assert streamed(tokenizer, ids, skip_special=skip_special) == whole


@pytest.mark.parametrize("name", BYTE_LEVEL)
@settings(max_examples=80)
@given(ids=random_ids, skip_special=st.booleans())
def test_random_ids_decode_as_in_the_library(name: str, ids: list[int], skip_special: bool) -> None:
    expected = library_tokenizer(name).decode(ids, skip_special_tokens=skip_special)
    assert loaded(name).decode(ids, skip_special=skip_special) == expected


@pytest.mark.parametrize("name", SENTENCEPIECE)
@settings(max_examples=80)
@given(ids=random_ids, skip_special=st.booleans())
def test_random_ids_decode_as_in_the_library_but_for_broken_bytes(
    name: str, ids: list[int], skip_special: bool
) -> None:
    expected = library_tokenizer(name).decode(ids, skip_special_tokens=skip_special)
    if "\ufffd" not in expected:
        assert loaded(name).decode(ids, skip_special=skip_special) == expected


@pytest.mark.parametrize("name", [n for n in FAMILIES if n not in ("llama2_unk", "unknown")])
@settings(max_examples=80)
@given(text=messy_texts)
def test_a_text_comes_back_and_never_broken_on_the_way(name: str, text: str) -> None:
    tokenizer = loaded(name)
    text = text.replace("\ufffd", "").replace("\u2581", "")
    ids = tokenizer.encode(text)
    decoder = tokenizer.stream_decoder()
    pieces = [decoder.feed(index) for index in ids]
    assert not any("\ufffd" in piece for piece in pieces)
    assert decoder.flush() == ""
    normal = library_tokenizer("qwen2").normalizer.normalize_str(text)
    expected = normal if name == "qwen2" else text
    # Metaspace adds its mark only where a text begins without one, and decoding takes one away.
    if name in ("mistral_first", "mistral_always"):
        expected = expected.removeprefix(" ")
    assert "".join(pieces) == expected


@pytest.mark.parametrize("name", ["qwen2", "mistral"])
def test_a_broken_character_is_told_as_soon_as_it_is_certain(name: str) -> None:
    tokenizer = loaded(name)
    spell = {"qwen2": {0xE8: "è", 0x41: "A"}, "mistral": {0xE8: "<0xE8>", 0x41: "<0x41>"}}[name]
    lead, letter = (tokenizer.codec.first.token_to_id(spell[byte]) for byte in (0xE8, 0x41))
    assert lead is not None and letter is not None
    decoder = tokenizer.stream_decoder(continuation=True)
    assert decoder.feed(lead) == ""
    assert decoder.feed(lead) == "\ufffd"
    assert decoder.feed(letter) == "\ufffdA"
    assert decoder.feed(lead) == ""
    assert decoder.flush() == "\ufffd"
    assert decoder.flush() == ""


@pytest.mark.parametrize("name", SENTENCEPIECE)
def test_a_continuation_keeps_its_space(name: str) -> None:
    tokenizer = loaded(name)
    ids = tokenizer.encode("the text")
    assert streamed(tokenizer, ids) == "the text"
    assert streamed(tokenizer, ids, continuation=True) == " the text"


def test_special_and_undefined_ids_are_silent() -> None:
    tokenizer = loaded("qwen2")
    mark = tokenizer.eos_id
    assert mark is not None
    assert tokenizer.decode([mark, tokenizer.vocab_size, -1, 1 << 40]) == ""
    assert tokenizer.decode([mark], skip_special=False) == "<|im_end|>"


DECODERS: list[tuple[Any, DecodeRules]] = [
    (decoders.ByteLevel(), DecodeRules(byte_level=True)),
    (decoders.Metaspace(), DecodeRules(marks_spaces=True, leading_spaces=1)),
    (decoders.Metaspace(prepend_scheme="never"), DecodeRules(marks_spaces=True)),
    (
        decoders.Sequence([decoders.Replace("\u2581", " "), decoders.Fuse()]),
        DecodeRules(marks_spaces=True),
    ),
]


@pytest.mark.parametrize(("decoder", "rules"), DECODERS)
def test_decoders_that_are_known(decoder: Any, rules: DecodeRules) -> None:
    assert decode_rules(json.loads(decoder.__getstate__())) == rules


@pytest.mark.parametrize(
    "decoder", [decoders.WordPiece(), decoders.Replace("x", "y"), decoders.Strip("_", 1, 0)]
)
def test_decoders_that_are_not_known(decoder: Any) -> None:
    with pytest.raises(InvalidArgument, match=r"tokenizer\.json: decoder step"):
        decode_rules(json.loads(decoder.__getstate__()))
    with pytest.raises(InvalidArgument, match="no decoder"):
        decode_rules(None)
