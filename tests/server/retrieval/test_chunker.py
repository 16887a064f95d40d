from __future__ import annotations

import random
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memoserve.errors import InvalidArgument
from memoserve.retrieval.chunker import Chunk, ChunkLimits, StreamChunker
from memoserve.retrieval.encoder_layout import read_tokenizer
from memoserve.retrieval.minilm import find_minilm

LIMITS = ChunkLimits(max_tokens=12, max_chars=60, block_chars=130)
ALPHABET = "ab .\n\t。é中😀-’\u0301\u00a0\u3000x"


def count(text: str) -> int:
    """Two special tokens, and one for each three characters of a word."""
    return 2 + sum(-(-len(word) // 3) for word in text.split())


def cut(pieces: list[str], limits: ChunkLimits = LIMITS) -> list[Chunk]:
    chunker = StreamChunker("s", count, limits)
    chunks = [chunk for piece in pieces for chunk in chunker.feed(piece)]
    return chunks + chunker.finish()


def check_law(text: str, chunks: list[Chunk], limits: ChunkLimits) -> None:
    encoded = text.encode()
    for chunk in chunks:
        assert chunk.text == text[chunk.start_char : chunk.end_char] != ""
        assert chunk.text.encode() == encoded[chunk.start_byte : chunk.end_byte]
        assert chunk.tokens == count(chunk.text) <= limits.max_tokens
        assert len(chunk.text) <= limits.max_chars
    borders = [0, *(at for chunk in chunks for at in (chunk.start_char, chunk.end_char)), len(text)]
    assert borders == sorted(borders)
    for end, start in list(pairwise(borders))[::2]:
        assert text[end:start].strip() == ""


@given(st.text(ALPHABET, max_size=600), st.data())
def test_any_split_of_a_text_gives_the_same_chunks(text: str, data: st.DataObject) -> None:
    whole = cut([text])
    check_law(text, whole, LIMITS)
    places = data.draw(st.lists(st.integers(0, len(text)), max_size=8).map(sorted))
    pieces = [text[start:end] for start, end in pairwise([0, *places, len(text)])]
    assert cut(pieces) == whole
    assert cut(list(text)) == whole


@pytest.mark.parametrize("size", [129, 130, 131, 260, 1000])
@pytest.mark.parametrize("filling", ["x", " ", "\n", "中", "😀", "a ", "a\n\n", "word. "])
def test_blocks_of_one_kind_come_to_an_end(filling: str, size: int) -> None:
    text = (filling * size)[:size]
    check_law(text, cut([text]), LIMITS)
    assert cut([text[:7], text[7:]]) == cut([text])


def test_a_word_in_a_desert_of_whitespace_is_found_once() -> None:
    # At 127 to 129 the word lies across a block's border, with only whitespace before it.
    for before, after in (
        (0, 400),
        (400, 0),
        (131, 129),
        (64, 200),
        (127, 9),
        (128, 200),
        (129, 0),
    ):
        text = " " * before + "word" + "\n" * after
        chunks = cut([text])
        assert [(chunk.text, chunk.start_char) for chunk in chunks] == [("word", before)]


def test_paragraphs_are_kept_whole_where_they_fit() -> None:
    paragraphs = ["one two three four five six.", "seven eight nine.", "ten."]
    assert [chunk.text for chunk in cut(["\n\n".join(paragraphs)])] == [
        paragraphs[0],
        "\n\n".join(paragraphs[1:]),
    ]


def test_chunks_leave_as_soon_as_a_block_is_full() -> None:
    chunker = StreamChunker("s", count, LIMITS)
    assert chunker.feed("word " * 25) == []
    early = chunker.feed("word " * 25)
    assert early and early[0].start_char == 0
    assert early[-1].end_char < 250  # what further text may join is held back


@pytest.mark.parametrize("piece", [1, 50, 10_000])
def test_a_block_border_cuts_no_word_and_holds_back_less_than_a_block(piece: int) -> None:
    text = " ".join(f"word{number}" for number in range(300))
    chunker = StreamChunker("s", count, LIMITS)
    early = [
        chunk for at in range(0, len(text), piece) for chunk in chunker.feed(text[at : at + piece])
    ]
    assert len(text) - early[-1].end_char <= LIMITS.block_chars
    words = [word for chunk in early + chunker.finish() for word in chunk.text.split()]
    assert words == text.split()


def test_a_long_piece_is_cut_like_short_ones() -> None:
    words = random.Random(5).choices(["alpha", "be", "c.", "delta\n\n", "é"], k=4000)
    text = " ".join(words)
    check_law(text, cut([text]), LIMITS)
    assert cut([text]) == cut([text[at : at + 97] for at in range(0, len(text), 97)])


def test_a_continued_source_goes_on_counting() -> None:
    text = "Ünter den Linden. Second sentence here."
    plain = StreamChunker("s", count, LIMITS)
    moved = StreamChunker("s", count, LIMITS, start_char=100, start_byte=140)
    for a, b in zip(
        plain.feed(text) + plain.finish(), moved.feed(text) + moved.finish(), strict=True
    ):
        assert (b.start_char - a.start_char, b.end_char - a.end_char) == (100, 100)
        assert (b.start_byte - a.start_byte, b.end_byte - a.end_byte) == (140, 140)


@pytest.mark.parametrize("words", [["[SEP]", "[CLS]"], ["中文", "沒有空格。"], ["wörd", "x" * 500]])
def test_no_chunk_exceeds_what_minilm_sees(words: list[str]) -> None:
    tokenizer = read_tokenizer(find_minilm())
    text = "".join(random.Random(1).choices([*words, " "], k=900))
    chunker = StreamChunker("s", lambda piece: len(tokenizer.encode(piece).ids))
    chunks = chunker.feed(text) + chunker.finish()
    assert max(chunk.tokens for chunk in chunks) <= 256
    assert max(len(chunk.text) for chunk in chunks) <= 2048
    visible = sum(len(chunk.text) for chunk in chunks)
    assert visible >= len("".join(text.split()))


def test_a_text_without_utf8_form_is_refused() -> None:
    with pytest.raises(InvalidArgument) as caught:
        StreamChunker("s", count).feed("fine \ud800")
    assert caught.value.field == "text"


@pytest.mark.parametrize(
    ("field", "limits"),
    [
        ("max_tokens", {"max_tokens": 7}),
        ("max_chars", {"max_chars": 7}),
        ("block_chars", {"max_chars": 100, "block_chars": 199}),
    ],
)
def test_limits_are_checked(field: str, limits: dict[str, int]) -> None:
    with pytest.raises(InvalidArgument) as caught:
        ChunkLimits(**limits)
    assert caught.value.field == field
