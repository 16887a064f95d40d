"""Text on its way in: what is held is bounded, the loop stays free, pieces cost what they hold."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from memoserve.errors import OutOfRange
from memoserve.models.seams import NoSeams
from memoserve.models.stream_encoder import StreamEncoder
from memoserve.models.tokenizer import TextTokenizer
from memoserve.pipeline.feeding import MAX_PENDING_CHARS, Opening, bounded_feed
from memoserve.pipeline.values import Language, MemorizeHeader, SamplingOptions, TextPiece
from tests.server.pipeline.house import House, cut, make_parts, make_text, named, pieces_of

FEW = SamplingOptions(max_tokens=2)
SEAMLESS = ["-", "=", " ", "\n", "é", "\U0001f71a"]


@pytest.fixture(scope="module")
def tokenizer() -> TextTokenizer:
    return make_parts().tokenizer


def encoder_of(tokenizer: TextTokenizer, *, seams: bool) -> StreamEncoder:
    codec = tokenizer.codec if seams else replace(tokenizer.codec, seams=NoSeams())
    return StreamEncoder(codec)


@pytest.mark.parametrize("seams", [True, False], ids=["seams", "none"])
@pytest.mark.parametrize("seed", range(4))
def test_cuts_lie_where_the_text_says_however_it_is_split(
    tokenizer: TextTokenizer, seams: bool, seed: int
) -> None:
    draw = random.Random(seed)
    runs = [draw.choice(SEAMLESS) * draw.randint(1, 2 * MAX_PENDING_CHARS) for _ in range(4)]
    text = "".join(make_text(draw.randint(1, 9), seed) + run for run in runs)
    whole = encoder_of(tokenizer, seams=seams)
    wanted = bounded_feed(whole, text)
    for most in (3, 700, 9000):
        encoder = encoder_of(tokenizer, seams=seams)
        ids: list[int] = []
        for piece in cut(text, seed + most, most):
            ids += bounded_feed(encoder, piece)
            assert encoder.held_chars == len(encoder.pending_text) < MAX_PENDING_CHARS
        assert ids == wanted
        assert encoder.pending_text == whole.pending_text
    assert tokenizer.decode(wanted) + whole.pending_text == text


def test_a_family_without_seams_is_cut_in_blocks(tokenizer: TextTokenizer) -> None:
    text = make_text(60)
    encoder = encoder_of(tokenizer, seams=False)
    ids = bounded_feed(encoder, text)
    blocks = len(text) // MAX_PENDING_CHARS * MAX_PENDING_CHARS
    assert blocks > 0
    starts = range(0, blocks, MAX_PENDING_CHARS)
    assert ids == [i for at in starts for i in tokenizer.encode(text[at : at + MAX_PENDING_CHARS])]
    assert encoder.pending_text == text[blocks:]


def test_a_text_with_seams_is_not_cut(tokenizer: TextTokenizer) -> None:
    text = make_text(200)
    assert len(text) > 4 * MAX_PENDING_CHARS
    encoder = encoder_of(tokenizer, seams=True)
    assert bounded_feed(encoder, text) + encoder.flush() == tokenizer.encode(text)


@pytest.mark.parametrize("mark", SEAMLESS[:5])
async def test_a_run_without_a_seam_can_be_asked_about(house: House, mark: str) -> None:
    await house.memorize("book", "Ada built the bridge. " + mark * 3_000)
    assert len(house.contents("book").pending_text) < MAX_PENDING_CHARS
    assert await house.answer("book", sampling=FEW) is not None
    await house.memorize("book", mark * 2_500)
    assert len(house.contents("book").pending_text) < MAX_PENDING_CHARS


async def test_text_without_a_seam_meets_the_capacity_while_it_comes(house: House) -> None:
    sent = 0

    async def endless() -> AsyncIterator[TextPiece]:
        nonlocal sent
        while sent < 1_000_000:
            sent += 5_000
            yield TextPiece("book", "\U0001f71a" * 5_000)

    header = MemorizeHeader(named("book"), ratio=2, index=False)
    with pytest.raises(OutOfRange):
        async for _ in house.pipeline.memorize(header, endless()):
            pass
    assert sent < 100_000


async def test_large_pieces_are_encoded_beside_the_loop(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: set[int] = set()
    feed = StreamEncoder.feed

    def noting(encoder: StreamEncoder, text: str) -> list[int]:
        if len(text) > 512:
            threads.add(threading.get_ident())
        return feed(encoder, text)

    monkeypatch.setattr(StreamEncoder, "feed", noting)
    await house.memorize("book", make_text(200))
    assert threads
    assert threading.get_ident() not in threads


async def test_an_opening_holds_no_empty_pieces() -> None:
    async def pieces() -> AsyncIterator[TextPiece]:
        for number in range(5_000):
            yield TextPiece(str(number), "")
        async for piece in pieces_of(make_text(40)):
            yield piece
        yield TextPiece("late", "")

    opening = await asyncio.wait_for(Opening.read(pieces(), Language.AUTO), 5)
    assert len(opening._held) == 1
    assert [piece.source_id async for piece in opening.pieces()] == ["book"]
