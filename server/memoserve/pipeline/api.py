"""What the recipes offer to the floor above: one protocol, and the sizes the contract promises."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from typing import Protocol

from memoserve.pipeline.values import (
    CreateSpec,
    GenerateQuery,
    MemorizeEvent,
    MemorizeHeader,
    MemoryName,
    MemoryRef,
    MemoryView,
    QueryEvent,
    RecallQuery,
    RetrieveQuery,
    ServerInfo,
    TextPiece,
)

# Told to clients by GetServerInfo and held at the edge, in bytes.
MAX_MESSAGE_BYTES = 4 * 1024 * 1024
MAX_PIECE_BYTES = 1024 * 1024
MAX_QUERY_BYTES = 64 * 1024

# What the contract's comments promise; held at the edge and by the recipes alike.
DEFAULT_PAGE_SIZE = 100
MAX_LABELS = 64
MAX_SOURCE_ID_CHARS = 256
MAX_STOPS = 16
MAX_TOP_K = 1000


class Pipeline(Protocol):
    """The recipes as a server calls them; every method may raise a MemoserveError.

    Streams are async generators: closing one, or cancelling the task that waits on it, cancels
    the work and gives its pages back. ``deadline`` is a time on ``time.monotonic``'s clock;
    work that passes it ends in DeadlineExceeded. None means no deadline.
    """

    @property
    def healthy(self) -> bool:
        """True while requests can be answered: loaded, and the engine runs."""

    def info(self) -> ServerInfo:
        """Return what GetServerInfo tells."""

    async def create(self, spec: CreateSpec) -> MemoryView:
        """Create an empty memory; AlreadyExists when the name is taken."""

    async def get(self, ref: MemoryRef) -> MemoryView:
        """Return a memory as it is now; NotFound when there is none."""

    async def list(
        self, namespace: str, page_size: int, page_token: str, filter: str
    ) -> tuple[list[MemoryView], str]:
        """Return one page of at most ``page_size`` memories, and the next page's token or ''.

        Raises InvalidArgument for a ``page_token`` that is not its own, Unimplemented for a
        ``filter``.
        """

    async def update(
        self,
        name: MemoryName,
        labels: Mapping[str, str] | None,
        description: str | None,
        etag: str,
    ) -> MemoryView:
        """Change what is not None; Aborted when ``etag`` is neither empty nor the current one."""

    async def delete(self, name: MemoryName, etag: str) -> None:
        """Delete a memory; NotFound, or Aborted as in ``update`` or while it is written."""

    def memorize(
        self,
        header: MemorizeHeader,
        pieces: AsyncIterator[TextPiece],
        *,
        deadline: float | None = None,
    ) -> AsyncGenerator[MemorizeEvent, None]:
        """Write text into a memory.

        ``pieces`` is read only as fast as the text is used, so that the sender is held back; what
        it raises (InvalidArgument for hostile text) ends the call and nothing is kept. A text
        that is empty as a whole is InvalidArgument.
        """

    def recall(
        self, query: RecallQuery, *, deadline: float | None = None
    ) -> AsyncGenerator[QueryEvent, None]:
        """Draw clues: Stage, Clue, Token and Notice events, Final last."""

    def retrieve(
        self, query: RetrieveQuery, *, deadline: float | None = None
    ) -> AsyncGenerator[QueryEvent, None]:
        """Search passages: Stage, Passage and Notice events, Final last."""

    def generate(
        self, query: GenerateQuery, *, deadline: float | None = None
    ) -> AsyncGenerator[QueryEvent, None]:
        """Answer: any event, Final last."""
