"""Text in pieces to ids, as if it had come whole."""

from __future__ import annotations

from memoserve.models.seams import last_seam
from memoserve.models.token_family import Prefix, TextCodec, check_text

# How far behind the end of what is held a new character can matter (see seams.Seams.is_seam).
_EDGE = 2


class StreamEncoder:
    """Encodes a text that arrives in pieces; holds back what further characters could change.

    Law: for any split of a text, the ids of all ``feed`` and the last ``flush`` are those of one
    encode of the whole. ``pending_text`` and ``at_segment_start`` are the whole state: stored at
    any point and given to the constructor later, they go on as if nothing had happened.

    Work is linear in the text whatever the sizes of its pieces. What is held is bounded as the
    family's seams say, and by nothing where ``bounded`` is False or in a run that has no seam (a
    line of dashes). Who needs a bound flushes by ``held_chars``; such a cut is the one exception
    to the law above, and depends on the text alone where it comes at a fixed count (see
    pipeline.feeding). Not for use by two threads.
    """

    def __init__(
        self, codec: TextCodec, pending_text: str = "", at_segment_start: bool = True
    ) -> None:
        check_text(pending_text)
        self._codec = codec
        self._held = [pending_text] if pending_text else []
        self._held_chars = len(pending_text)
        self._edge = pending_text[-_EDGE:]
        self._at_segment_start = at_segment_start

    @property
    def pending_text(self) -> str:
        """The tail that is not encoded yet."""
        return "".join(self._held)

    @property
    def held_chars(self) -> int:
        """Code points of ``pending_text``, without joining it."""
        return self._held_chars

    @property
    def at_segment_start(self) -> bool:
        """Whether nothing of the current segment has been encoded yet."""
        return self._at_segment_start

    def feed(self, text: str) -> list[int]:
        """Take the next piece; returns the ids that are settled by it, perhaps none.

        A lone surrogate raises InvalidArgument and leaves the state as it was.
        """
        check_text(text)
        window = self._edge + text
        seam = last_seam(self._codec.seams, window)
        if seam == 0:
            self._held += [text] if text else []
            self._held_chars += len(text)
            self._edge = window[-_EDGE:]
            return []
        known = self.pending_text + text
        cut = len(known) - len(window) + seam
        self._held = [known[cut:]]
        self._held_chars = len(known) - cut
        self._edge = known[cut:][-_EDGE:]
        return self._encode(known[:cut])

    def flush(self) -> list[int]:
        """The ids of the held tail; what follows goes on in the same segment."""
        text = self.pending_text
        self._held, self._held_chars, self._edge = [], 0, ""
        return self._encode(text)

    def special(self, token_id: int) -> list[int]:
        """Flush, then the id of a special token, behind which a new segment begins."""
        ids = [*self.flush(), token_id]
        self._at_segment_start = self._codec.prefix is not Prefix.TEXT_START
        return ids

    def _encode(self, text: str) -> list[int]:
        if not text:
            return []
        ids = self._codec.encode(text, at_segment_start=self._at_segment_start)
        self._at_segment_start = False
        return ids
