"""The text on its way into the engine: language, encoding, source borders."""

from __future__ import annotations

from collections.abc import AsyncIterator

from memoserve.engine.ticket import Ticket
from memoserve.errors import InvalidArgument
from memoserve.models.stream_encoder import StreamEncoder
from memoserve.models.tokenizer import TextTokenizer
from memoserve.pipeline import language as lang
from memoserve.pipeline.capacity import CapacityCheck
from memoserve.pipeline.commit import Draft
from memoserve.pipeline.conversation import Conversation
from memoserve.pipeline.values import Language, TextPiece

# Text of one source is set off from the next as paragraphs are.
SOURCE_BREAK = "\n\n"
# Text that is encoded and indexed at one go: some milliseconds of the event loop.
PART_CHARS = 8192


class Opening:
    """The first characters of a text, held until its language is known."""

    def __init__(
        self, held: list[TextPiece], rest: AsyncIterator[TextPiece], language: Language
    ) -> None:
        self._held = held
        self._rest = rest
        self.language = language

    @staticmethod
    async def read(pieces: AsyncIterator[TextPiece], settled: Language) -> Opening:
        """Take the settled language, or find it by the script of the text's beginning."""
        if settled is not Language.AUTO:
            return Opening([], pieces, settled)
        held: list[TextPiece] = []
        async for piece in pieces:
            held.append(piece)
            if sum(len(p.text) for p in held) >= lang.SAMPLE_CHARS:
                break
        return Opening(held, pieces, lang.detect("".join(p.text for p in held)))

    async def pieces(self) -> AsyncIterator[TextPiece]:
        """All pieces, the held ones first."""
        for piece in self._held:
            yield piece
        async for piece in self._rest:
            yield piece


class Feeder:
    """Encodes pieces and sends their ids, recording in a draft what was sent."""

    def __init__(self, ticket: Ticket, draft: Draft, check: CapacityCheck) -> None:
        self._ticket = ticket
        self._draft = draft
        self._check = check
        self._encoder: StreamEncoder | None = None

    async def start(self, tokenizer: TextTokenizer, conversation: Conversation) -> None:
        """Go on from the base, or open a fresh document with the chat's prefix."""
        base = self._draft.base
        if base is None:
            ids, self._encoder = conversation.open_document()
            await self._send(ids)
        else:
            self._encoder = tokenizer.stream_encoder(
                base.pending_text, at_segment_start=base.at_segment_start
            )

    async def take(self, piece: TextPiece) -> None:
        """Send one piece; raises InvalidArgument, or OutOfRange beyond the capacity.

        Large pieces are worked off in parts, so that the engine and the index move on together.
        """
        for start in range(0, max(len(piece.text), 1), PART_CHARS):
            await self._take(TextPiece(piece.source_id, piece.text[start : start + PART_CHARS]))

    async def _take(self, piece: TextPiece) -> None:
        if "\x00" in piece.text:
            raise InvalidArgument("text", "holds a NUL character")
        encoder, sources = self._started(), self._draft.sources
        if sources.begins(piece.source_id):
            if not sources.is_first:
                # A new source is always a cut: nothing of the last one may still change.
                await self._send(encoder.flush() + encoder.feed(SOURCE_BREAK) + encoder.flush())
            sources.open(piece.source_id, self._draft.next_token)
        sources.add(piece.text)
        await self._draft.indexer.feed(piece, sources)
        await self._send(encoder.feed(piece.text))

    def finish(self) -> None:
        """Record the tail that is not encoded yet."""
        encoder = self._started()
        self._draft.pending_text = encoder.pending_text
        self._draft.at_segment_start = encoder.at_segment_start

    def _started(self) -> StreamEncoder:
        if self._encoder is None:
            raise ValueError("the feeder was not started")
        return self._encoder

    async def _send(self, ids: list[int]) -> None:
        if not ids:
            return
        self._check(self._draft.next_token + len(ids))
        self._draft.tokens += ids
        await self._ticket.feed(ids)
