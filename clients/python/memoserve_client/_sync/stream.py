# Written by tools/unasync.py from _async/stream.py; do not edit.
"""What a streaming call tells, as an iterator that can be closed."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, Generic, Self, TypeVar

import grpc

from memoserve_client import _encode
from memoserve_client._status import translated
from memoserve_client._sync.seam import CALL_ENDED, ServerStatus
from memoserve_client.text import Text, iter_pieces
from memoserve_proto.v1.memory_service_pb2 import MemorizeRequest

Event = TypeVar("Event", covariant=True)


class Upload:
    """The client's side of a Memorize; keeps what reading the caller's text raised."""

    def __init__(self, header: MemorizeRequest, text: Text, source_id: str) -> None:
        self._header = header
        self._text = text
        self._source_id = source_id
        self.error: Exception | None = None

    def messages(self) -> Iterator[MemorizeRequest]:
        """The header, the text in pieces, and the end, which lets the server commit.

        An exception of the text goes on to gRPC, which cancels the call.
        """
        yield self._header
        try:
            for piece in iter_pieces(self._text, self._source_id):
                yield _encode.memorize_text(piece.source_id, piece.utf8)
        except Exception as error:
            self.error = error
            raise
        yield _encode.memorize_end()


class EventStream(Generic[Event]):
    """Events of one call, in order. Iterate it once; raises this package's errors.

    Closing it, also by leaving its ``with`` block, cancels a call that is not over; the server then
    gives back what the call held. Iterating a closed stream ends at once.
    """

    def __init__(
        self,
        call: Any,
        decode: Callable[[Any], Event | None],
        upload: Upload | None = None,
    ) -> None:
        self._call = call
        self._replies = call.__iter__()
        self._status = ServerStatus(call)
        self._decode = decode
        self._upload = upload
        self._over = False

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Event:
        while not self._over:
            event = self._decode(self._reply())
            # A newer server may tell what this client does not know.
            if event is not None:
                return event
        raise StopIteration

    def _reply(self) -> Any:
        try:
            return self._replies.__next__()
        except StopIteration:
            self._over = True
            raise
        except CALL_ENDED as error:
            closed, self._over = self._over, True
            if self._upload is not None and self._upload.error is not None:
                raise self._upload.error from None
            if not isinstance(error, grpc.RpcError) and not closed:
                raise
            meant = self._status.behind(error) if isinstance(error, grpc.RpcError) else None
            if closed or meant is None:
                raise StopIteration from None
            raise translated(meant) from error

    def drain(self) -> None:
        """Pass over what is left and let the call end by itself, well or not: it is not cancelled.

        For one who has heard all; what was told stays true however the call ends.
        """
        with contextlib.suppress(Exception):
            for _ in self:
                pass

    def cancel(self) -> None:
        """Cancel the call unless it is over; safe to call again, and while another one iterates."""
        if not self._over:
            self._over = True
            self._call.cancel()

    def close(self) -> None:
        """Cancel the call unless it is over."""
        self.cancel()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
