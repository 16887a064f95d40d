"""The law of cutting: joined pieces are the text, each fits and is whole."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator
from typing import cast

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from memoserve_client.text import (
    MAX_PIECE_BYTES,
    AsyncText,
    Piece,
    PlainText,
    Source,
    aiter_pieces,
    iter_pieces,
)

# One to four bytes a code point, in any order.
TEXTS = st.text(st.sampled_from("aZ\nßéж€漢\ufeff𝄞🙂"), max_size=60) | st.text(max_size=60)


class Trickle:
    """A file of bytes that hands out at most ``step`` of them at a time."""

    def __init__(self, data: bytes, step: int) -> None:
        self._file = io.BytesIO(data)
        self._step = step

    def read(self, size: int, /) -> bytes:
        return self._file.read(min(size, self._step))


def forms(text: str, step: int) -> list[PlainText]:
    """The same text in every form that is taken."""
    raw = text.encode()
    return [text, raw, io.StringIO(text, newline=""), io.BytesIO(raw), Trickle(raw, step)]


@given(TEXTS, st.integers(4, 40), st.integers(1, 7))
@example("𝄞" * 9, 4, 1)
@example("a𝄞" * 9, 5, 3)
def test_pieces_join_fit_and_are_whole(text: str, max_bytes: int, step: int) -> None:
    for form in forms(text, step):
        pieces = list(iter_pieces(form, "s", max_bytes=max_bytes))
        assert b"".join(piece.utf8 for piece in pieces) == text.encode()
        assert {piece.source_id for piece in pieces} <= {"s"}
        for piece in pieces:
            assert 0 < len(piece.utf8) <= max_bytes
            piece.utf8.decode()


@given(st.binary(max_size=60), st.integers(4, 20), st.integers(1, 7))
def test_bytes_that_are_no_utf8_arrive_unchanged(data: bytes, max_bytes: int, step: int) -> None:
    for form in (data, io.BytesIO(data), Trickle(data, step)):
        pieces = list(iter_pieces(form, max_bytes=max_bytes))
        assert b"".join(piece.utf8 for piece in pieces) == data
        assert all(0 < len(piece.utf8) <= max_bytes for piece in pieces)


@pytest.mark.parametrize("character", "aß漢🙂")
def test_the_default_size_is_what_servers_take(character: str) -> None:
    text = character * (MAX_PIECE_BYTES // 2)
    sizes = [len(piece.utf8) for piece in iter_pieces(text)]
    assert max(sizes) <= MAX_PIECE_BYTES == 256 * 1024
    assert sum(sizes) == len(text.encode()) and len(sizes) > 1


def test_sources_keep_their_order_and_ids() -> None:
    items: list[str | Source] = ["a", Source("x", "b"), Source("x", io.BytesIO(b"c")), "d", ""]
    assert list(iter_pieces(iter(items), "own")) == [
        Piece("own", b"a"),
        Piece("x", b"b"),
        Piece("x", b"c"),
        Piece("own", b"d"),
    ]


@given(st.lists(TEXTS, max_size=5))
def test_the_asynchronous_cut_is_the_same(texts: list[str]) -> None:
    async def one_by_one() -> AsyncIterator[str | Source]:
        for text in texts:
            yield text

    async def collect(text: AsyncText) -> list[Piece]:
        return [piece async for piece in aiter_pieces(text, "s", max_bytes=8)]

    expected = list(iter_pieces(iter(texts), "s", max_bytes=8))
    assert asyncio.run(collect(one_by_one())) == expected
    assert asyncio.run(collect(iter(texts))) == expected


@pytest.mark.parametrize("wrong", [7, None, [7], [Source("s", cast("str", 7))], [b"x", None]])
def test_what_is_no_text_is_refused(wrong: object) -> None:
    with pytest.raises(TypeError, match="no text"):
        list(iter_pieces(wrong))  # type: ignore[arg-type]


def test_a_lone_surrogate_is_refused() -> None:
    with pytest.raises(UnicodeEncodeError):
        list(iter_pieces("\udc80"))
