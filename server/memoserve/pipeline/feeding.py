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
from memoserve.pipeline.tasks import in_thread
from memoserve.pipeline.values import Language, TextPiece

# Text of one source is set off from the next as paragraphs are.
SOURCE_BREAK = "\n\n"
# Text that is encoded and indexed at one go.
PART_CHARS = 8192
# Less is encoded on the event loop: a thread would take longer.
INLINE_CHARS = 512
# Text without a seam is cut each time so much of it is held. Every query feeds what is held, so
# that it must fit a query's tokens also where each character takes four.
MAX_PENDING_CHARS = 2048


def bounded_feed(encoder: StreamEncoder, text: str) -> list[int]:
    """Feed text; what is held is flushed, a cut, whenever it is MAX_PENDING_CHARS long.

    The text alone says where that is, not its pieces: what is held can only have reached the
    bound where the part that is fed ends.
    """
    ids: list[int] = []
    at = 0
    while at < len(text):
        room = max(MAX_PENDING_CHARS - encoder.held_chars, 1)
        ids += encoder.feed(text[at : at + room])
        at += room
        if encoder.held_chars >= MAX_PENDING_CHARS:
            ids += encoder.flush()
    return ids


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
        chars = 0
        async for piece in pieces:
            if not piece.text:
                continue
            held.append(piece)
            chars += len(piece.text)
            if chars >= lang.SAMPLE_CHARS:
                break
        return Opening(held, pieces, lang.detect("".join(p.text for p in held)))

    async def pieces(self) -> AsyncIterator[TextPiece]:
        """All pieces that hold text, the held ones first."""
        for piece in self._held:
            yield piece
        async for piece in self._rest:
            if piece.text:
                yield piece


class Feeder:
    """Encodes pieces and sends their ids, recording in a draft what was sent."""

    def __init__(self, ticket: Ticket, draft: Draft, check: CapacityCheck) -> None:
        self._ticket = ticket
        self._draft = draft
        self._check = check
        self._encoder: StreamEncoder | None = None
        # The chat's prefix waits for the first text: that the engine's windows are as full as they
        # can be shall not hang on which of the two is faster.
        self._unfed: list[int] = []

    def start(self, tokenizer: TextTokenizer, conversation: Conversation) -> None:
        """Go on from the base, or open a fresh document with the chat's prefix."""
        base = self._draft.base
        if base is None:
            ids, self._encoder = conversation.open_document()
            self._note(ids)
            self._unfed = ids
        else:
            self._encoder = tokenizer.stream_encoder(
                base.pending_text, at_segment_start=base.at_segment_start
            )

    async def take(self, piece: TextPiece) -> None:
        """Send one piece; raises InvalidArgument, or OutOfRange beyond the capacity.

        Large pieces are worked off in parts, so that the engine and the index move on together.
        """
        for start in range(0, len(piece.text), PART_CHARS):
            await self._take(TextPiece(piece.source_id, piece.text[start : start + PART_CHARS]))

    async def _take(self, piece: TextPiece) -> None:
        if "\x00" in piece.text:
            raise InvalidArgument("text.text_utf8", "holds a NUL character")
        encoder, sources = self._started(), self._draft.sources
        if sources.begins(piece.source_id):
            if not sources.is_first:
                # A new source is always a cut: nothing of the last one may still change.
                await self._send(encoder.flush() + encoder.feed(SOURCE_BREAK) + encoder.flush())
            sources.open(piece.source_id, self._draft.next_token)
        sources.add(piece.text)
        await self._draft.indexer.feed(piece, sources)
        if len(piece.text) <= INLINE_CHARS:
            ids = bounded_feed(encoder, piece.text)
        else:
            ids = await in_thread(bounded_feed, encoder, piece.text)
        await self._send(ids)

    async def finish(self) -> None:
        """Record the tail that is not encoded yet, and end the engine's input."""
        encoder = self._started()
        self._draft.pending_text = encoder.pending_text
        self._draft.at_segment_start = encoder.at_segment_start
        await self._ticket.feed(self._unfed, last=True)

    def _started(self) -> StreamEncoder:
        if self._encoder is None:
            raise ValueError("the feeder was not started")
        return self._encoder

    async def _send(self, ids: list[int]) -> None:
        if not ids:
            return
        self._note(ids)
        batch, self._unfed = self._unfed + ids, []
        await self._ticket.feed(batch)

    def _note(self, ids: list[int]) -> None:
        self._check(self._draft.next_token + len(ids))
        self._draft.tokens += ids
