"""Text in pieces gives the ids of the whole; the held tail stays short; work is linear."""

from __future__ import annotations

import dataclasses
import itertools
import random
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from memoserve.errors import InvalidArgument
from memoserve.models.seams import LetterSeams, NoSeams, PairSeams, RegexSeams
from memoserve.models.stream_encoder import StreamEncoder
from memoserve.models.tokenizer import TextTokenizer
from tests.server.models.tokenizers import (
    BYTE_LEVEL,
    FAMILIES,
    SENTENCEPIECE,
    chinese,
    corpus,
    english,
    loaded,
    messy_texts,
    transformers_tokenizer,
)

families = pytest.mark.parametrize("name", FAMILIES)
bounded_families = pytest.mark.parametrize("name", [n for n in FAMILIES if n != "unknown"])


def streamed(tokenizer: TextTokenizer, pieces: list[str]) -> list[int]:
    encoder = tokenizer.stream_encoder()
    ids = [index for piece in pieces for index in encoder.feed(piece)]
    return ids + encoder.flush()


def cut(text: str, cuts: list[int]) -> list[str]:
    borders = [0, *sorted(min(c, len(text)) for c in cuts), len(text)]
    return [text[a:b] for a, b in itertools.pairwise(borders)]


@families
@settings(max_examples=100)
@given(text=messy_texts, cuts=st.lists(st.integers(0, 120), max_size=6))
def test_any_split_gives_the_ids_of_the_whole(name: str, text: str, cuts: list[int]) -> None:
    tokenizer = loaded(name)
    assert streamed(tokenizer, cut(text, cuts)) == tokenizer.encode(text)


@families
@settings(max_examples=100)
@given(text=messy_texts)
def test_one_character_at_a_time(name: str, text: str) -> None:
    tokenizer = loaded(name)
    assert streamed(tokenizer, list(text)) == tokenizer.encode(text)


def pretokens(tokenizer: Tokenizer, text: str) -> list[str]:
    if tokenizer.normalizer is not None:
        text = tokenizer.normalizer.normalize_str(text)
    return [token for token, _ in tokenizer.pre_tokenizer.pre_tokenize_str(text)]


def assert_seams_are_borders(name: str, text: str) -> None:
    """Whatever the vocabulary: outside runs of letters a seam is a border of pre-tokens."""
    seams = loaded(name).codec.seams
    assert isinstance(seams, RegexSeams)
    outside = dataclasses.replace(seams, letters=None)
    library = loaded(name).codec.first
    whole = pretokens(library, text)
    for at in range(1, len(text)):
        if outside.is_seam(text[at - 1], text[at], text[at + 1 : at + 2]):
            halves = pretokens(library, text[:at]) + pretokens(library, text[at:])
            assert halves == whole, (text, at)


@pytest.mark.parametrize("name", BYTE_LEVEL)
@settings(max_examples=100)
@given(text=messy_texts)
def test_seams_are_borders_of_pre_tokens(name: str, text: str) -> None:
    assert_seams_are_borders(name, text)


@pytest.mark.parametrize("name", BYTE_LEVEL)
def test_seams_are_borders_in_all_words_of_four(name: str) -> None:
    for chars in itertools.product("a'1 \n\t!记\u0301", repeat=4):
        assert_seams_are_borders(name, "".join(chars))


@families
@settings(max_examples=60)
@given(text=messy_texts, cuts=st.lists(st.integers(0, 120), min_size=1, max_size=6))
def test_a_stored_state_goes_on_as_if_nothing_had_happened(
    name: str, text: str, cuts: list[int]
) -> None:
    tokenizer = loaded(name)
    pending, at_start, ids = "", True, []
    for piece in cut(text, cuts):
        encoder = tokenizer.stream_encoder(pending, at_segment_start=at_start)
        ids += encoder.feed(piece)
        pending, at_start = encoder.pending_text, encoder.at_segment_start
    last = StreamEncoder(tokenizer.codec, pending, at_start)
    assert ids + last.flush() == tokenizer.encode(text)


@bounded_families
@pytest.mark.parametrize(
    "alphabet", ["a'1 \n记的e\u0301", "'lſ\r\n \t!9"], ids=["letters", "signs"]
)
def test_all_words_of_four_troublemakers(name: str, alphabet: str) -> None:
    tokenizer = loaded(name)
    for chars in itertools.product(alphabet, repeat=4):
        text = "".join(chars)
        encoder = tokenizer.stream_encoder()
        ids = [index for char in text for index in encoder.feed(char)]
        assert ids + encoder.flush() == tokenizer.encode(text), text


@pytest.mark.parametrize("text", ["的龖记忆", "记忆龗答", "记的龖记龗答记", " 的龖", "x龗答的龖记"])
def test_whole_word_tokens_are_not_made_by_a_cut(text: str) -> None:
    """Llama 3's look-up of whole pre-tokens must not see the halves of one."""
    tokenizer = loaded("llama3")
    assert streamed(tokenizer, list(text)) == tokenizer.encode(text)


@families
@pytest.mark.parametrize("word", ["한국어", "ガギ", "x한국어한국어"])
def test_letters_in_any_mixture_of_composed_and_decomposed(name: str, word: str) -> None:
    tokenizer = loaded(name)
    both = [(char, unicodedata.normalize("NFD", char)) for char in word]
    for chars in itertools.product(*both):
        text = "".join(chars)
        assert streamed(tokenizer, list(text)) == tokenizer.encode(text), ascii(text)


@bounded_families
@pytest.mark.parametrize("seed", [2, 3])
def test_long_chinese_runs_of_letters(name: str, seed: int) -> None:
    tokenizer = loaded(name)
    text = chinese(4000, seed)
    for size in (1, 7, 1000):
        pieces = [text[i : i + size] for i in range(0, len(text), size)]
        assert streamed(tokenizer, pieces) == tokenizer.encode(text)


@pytest.mark.parametrize("name", ["qwen2", "llama3", "gpt2", "mistral", "mistral_first"])
@pytest.mark.parametrize("text", [english(5000), chinese(5000), "\n".join(corpus(40, 9))])
def test_the_held_tail_is_short(name: str, text: str) -> None:
    tokenizer = loaded(name)
    assert tokenizer.bounded
    encoder = tokenizer.stream_encoder()
    longest = 0
    for char in text:
        encoder.feed(char)
        longest = max(longest, len(encoder.pending_text))
    assert longest <= 64


def test_which_rule_each_family_gets() -> None:
    seams = {name: loaded(name).codec.seams for name in FAMILIES}
    assert all(isinstance(seams[name], RegexSeams) for name in BYTE_LEVEL)
    assert all(isinstance(seams[name], PairSeams) for name in SENTENCEPIECE)
    assert isinstance(seams["unknown"], NoSeams)
    llama3 = seams["llama3"]
    assert isinstance(llama3, RegexSeams)
    assert isinstance(llama3.letters, LetterSeams)
    assert "龖" in llama3.letters.loose_ends
    assert "龗" in llama3.letters.loose_starts


def test_an_unknown_family_holds_everything_until_the_flush() -> None:
    tokenizer = loaded("unknown")
    assert not tokenizer.bounded
    encoder = tokenizer.stream_encoder()
    assert encoder.feed(english(500)) == []
    assert encoder.pending_text == english(500)
    assert encoder.flush() == tokenizer.encode(english(500))


@families
@settings(max_examples=60)
@given(text=messy_texts)
def test_whole_texts_agree_with_transformers(name: str, text: str) -> None:
    theirs = transformers_tokenizer(name)
    for special in [*theirs.all_special_tokens, *theirs.get_added_vocab()]:
        text = text.replace(special, "")
    expected = theirs(text, add_special_tokens=False)["input_ids"]
    assert loaded(name).encode(text) == expected


@families
def test_special_strings_in_text_are_ordinary(name: str) -> None:
    tokenizer = loaded(name)
    contents = [token.content for token in tokenizer.table.added.values()]
    assert contents
    text = "x".join(contents)
    for ids in (tokenizer.encode(text), streamed(tokenizer, list(text))):
        assert not tokenizer.special_ids.intersection(ids) or name == "llama2_unk"
        assert not set(tokenizer.table.added).intersection(ids) or name == "llama2_unk"
        if name != "llama2_unk":  # where a sign it never saw is <unk>
            assert tokenizer.decode(ids) == text


@families
def test_special_begins_a_new_segment(name: str) -> None:
    tokenizer = loaded(name)
    theirs = transformers_tokenizer(name)
    mark = theirs.eos_token
    encoder = tokenizer.stream_encoder()
    ids = encoder.feed("the text") + encoder.special(theirs.eos_token_id)
    ids += encoder.special(theirs.eos_token_id) + encoder.feed("记忆 of") + encoder.flush()
    whole = f"the text{mark}{mark}记忆 of"
    assert ids == theirs(whole, add_special_tokens=False)["input_ids"]


@families
def test_a_special_at_the_start_of_all(name: str) -> None:
    tokenizer = loaded(name)
    theirs = transformers_tokenizer(name)
    encoder = tokenizer.stream_encoder()
    ids = encoder.special(theirs.eos_token_id) + encoder.feed("the text") + encoder.flush()
    assert ids == theirs(theirs.eos_token + "the text", add_special_tokens=False)["input_ids"]


@families
def test_flush_of_nothing_keeps_the_start(name: str) -> None:
    encoder = loaded(name).stream_encoder()
    assert encoder.flush() == []
    assert encoder.feed("") == []
    assert encoder.at_segment_start


def test_a_lone_surrogate_is_refused_and_changes_nothing() -> None:
    encoder = loaded("qwen2").stream_encoder()
    encoder.feed("mem")
    with pytest.raises(InvalidArgument, match="surrogate"):
        encoder.feed("ab\ud800")
    assert encoder.pending_text == "mem"
    with pytest.raises(InvalidArgument):
        loaded("qwen2").encode("\udfff")
    with pytest.raises(InvalidArgument):
        loaded("qwen2").stream_encoder("\udfff")


@pytest.mark.parametrize("name", ["qwen2", "mistral"])
def test_a_text_without_seams_is_scanned_once(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that cannot be cut, in small pieces: the rule is asked a constant times a character."""
    rule = type(loaded(name).codec.seams)
    asked = 0
    original = rule.is_seam

    def counted(self: object, *chars: str) -> bool:
        nonlocal asked
        asked += 1
        return original(self, *chars)  # type: ignore[arg-type]

    monkeypatch.setattr(rule, "is_seam", counted)
    encoder = loaded(name).stream_encoder()
    run = "=" if name == "qwen2" else " "
    for _ in range(500):
        encoder.feed(run * 4)
    assert len(encoder.pending_text) >= 1900
    assert asked <= 3 * 2000


def test_random_long_texts_in_random_pieces() -> None:
    draw = random.Random(11)
    text = "\n".join(corpus(60, 21)) + chinese(500, 8)
    for name in FAMILIES:
        pieces, at = [], 0
        while at < len(text):
            size = draw.choice([1, 2, 3, 50, 400])
            pieces.append(text[at : at + size])
            at += size
        assert streamed(loaded(name), pieces) == loaded(name).encode(text)
