"""Text from the engine: a token sequence in, whole characters out."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass

from memoserve.engine.sequence import Done, SequenceRequest, Started, TokenOut
from memoserve.engine.worker import EngineWorker
from memoserve.models.tokenizer import TextTokenizer


@dataclass(frozen=True)
class Piece:
    """Text of one drawn token; may be empty while a character is incomplete.

    ``tokens`` were drawn so far, ``queued_s`` passed until pages were given.
    """

    text: str
    tokens: int
    queued_s: float


@dataclass(frozen=True)
class Written:
    """The end. ``reason``: stop or length; the rest as in ``Piece``."""

    reason: str
    tokens: int
    queued_s: float


async def write(
    worker: EngineWorker, tokenizer: TextTokenizer, request: SequenceRequest
) -> AsyncGenerator[Piece | Written, None]:
    """Run a generation; closing the iterator cancels it and waits for its pages.

    Raises the engine's errors (ResourceExhausted, DeadlineExceeded, Unavailable ...).
    """
    decoder = tokenizer.stream_decoder()
    tokens, queued = 0, 0.0
    async with worker.submit(request) as ticket:
        async for event in ticket.events():
            match event:
                case Started():
                    queued = event.queued_s
                case TokenOut():
                    tokens += 1
                    yield Piece(decoder.feed(event.token), tokens, queued)
                case Done():
                    yield Piece(decoder.flush(), tokens, queued)
                    yield Written(event.reason, tokens, queued)
