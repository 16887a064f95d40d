"""Retrieve: passages of the memories' sources, by the query and by clues."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from memoserve.errors import FailedPrecondition, InvalidArgument
from memoserve.memory.snapshot import VersionRecord, require_match
from memoserve.pipeline.api import MAX_TOP_K
from memoserve.pipeline.contents import read_contents
from memoserve.pipeline.library import Library
from memoserve.pipeline.residents import require_written
from memoserve.pipeline.runtime import INDEX_KEYS, Runtime
from memoserve.pipeline.values import (
    Final,
    Language,
    MemoryRef,
    Passage,
    QueryEvent,
    RetrieveQuery,
    Stage,
    StageName,
    Usage,
)
from memoserve.retrieval.chunker import Chunk
from memoserve.retrieval.fusion import Fused, cap, fuse_rrf, fuse_union, merge_shards

FUSIONS = ("union", "rrf")
# Passages that stand for a whole text where nothing was asked, unless a limit is named.
SPREAD_PASSAGES = 12


@dataclass(frozen=True)
class Shelf:
    """A memory's passages, and the language it is asked in."""

    ref: MemoryRef
    library: Library
    language: Language


async def retrieve(runtime: Runtime, query: RetrieveQuery) -> AsyncGenerator[QueryEvent, None]:
    """Stream the passages that query and clues find; the last event is Final.

    Raises InvalidArgument naming the field, NotFound, DataLoss, FailedPrecondition (no index, or
    another embedder's).
    """
    check_retrieve(query)
    if not _texts(query):
        raise InvalidArgument("query", "is empty, and there are no clues")
    began = time.monotonic()
    yield Stage(StageName.RETRIEVE)
    records = [runtime.store.get(ref.name, ref.version) for ref in query.memories]
    shelves = await open_shelves(runtime, records)
    for passage in await search(runtime, shelves, query):
        yield passage
    usage = Usage(retrieve_s=time.monotonic() - began)
    yield Final("", "evidence", usage, tuple(shelf.ref for shelf in shelves))


async def open_shelves(runtime: Runtime, records: Sequence[VersionRecord]) -> list[Shelf]:
    """Passages of memories; needs no pages. Raises FailedPrecondition without any."""
    shelves = []
    with ExitStack() as stack:
        # All are held before the first is waited for: readers outlive a delete.
        for record in records:
            stack.enter_context(runtime.store.hold(record))
        for record in records:
            shelves.append(await _open_shelf(runtime, record))
    return shelves


async def _open_shelf(runtime: Runtime, record: VersionRecord) -> Shelf:
    require_written(record)
    contents = read_contents(record)
    if not contents.passages:
        raise FailedPrecondition(
            str(record.name),
            f"memory {record.name} has no passages: it was memorized without an index, or its "
            "text is white space",
            reason="NO_INDEX",
        )
    require_match(record, runtime.identity_of(INDEX_KEYS))
    library = await runtime.residents.library(record, contents)
    return Shelf(MemoryRef(record.name, record.version), library, contents.language)


def _texts(query: RetrieveQuery) -> list[str]:
    return [text for text in (query.query, *query.clues) if text.strip()]


async def search(runtime: Runtime, shelves: Sequence[Shelf], query: RetrieveQuery) -> list[Passage]:
    """The best passages for the query and each clue, fused; union keeps document order.

    ``signals``: ``cosine`` of the best finding text, ``found_by`` the number of texts that found
    it, ``by_query`` 1 where the query itself found it best.
    """
    texts = _texts(query)
    vectors = await asyncio.to_thread(runtime.embedder.embed_queries, texts)
    per_shelf = [
        await asyncio.to_thread(shelf.library.index.search, vectors, query.top_k)
        for shelf in shelves
    ]
    hits = merge_shards(per_shelf, query.top_k)
    fused = fuse_rrf(hits) if query.fusion == "rrf" else fuse_union(hits)

    def size(hit: Fused) -> int:
        chunk = shelves[hit.shard].library.passages[hit.row]
        return _tokens(runtime, chunk) if query.max_tokens else 0

    chosen = await asyncio.to_thread(
        cap, fused, size, max_passages=query.max_passages, max_tokens=query.max_tokens
    )
    asked = bool(query.query.strip())
    return [_passage(shelves[hit.shard], hit, asked) for hit in chosen]


def spread(runtime: Runtime, shelves: Sequence[Shelf], query: RetrieveQuery) -> list[Passage]:
    """Passages evenly over the whole texts, in their order; for a summary without clues.

    As many as ``max_passages`` and ``max_tokens`` let in; the score of all is 0.
    """
    places = [(shelf, row) for shelf in shelves for row in range(len(shelf.library.passages))]
    for count in range(min(query.max_passages or SPREAD_PASSAGES, len(places)), 0, -1):
        chosen = [places[place * len(places) // count] for place in range(count)]
        sizes = [_tokens(runtime, shelf.library.passages[row]) for shelf, row in chosen]
        if not query.max_tokens or sum(sizes) <= query.max_tokens:
            return [_placed(shelf, row, 0.0, {}) for shelf, row in chosen]
    return []


def _tokens(runtime: Runtime, chunk: Chunk) -> int:
    """Tokens of a passage for the model that is to read it."""
    return len(runtime.tokenizer.encode(chunk.text))


def check_retrieve(query: RetrieveQuery) -> None:
    """Raise InvalidArgument, naming the field, for options out of range."""
    if not 1 <= query.top_k <= MAX_TOP_K:
        raise InvalidArgument("top_k", f"{query.top_k} must be from 1 to {MAX_TOP_K}")
    for field in ("max_passages", "max_tokens"):
        if getattr(query, field) < 0:
            raise InvalidArgument(field, f"{getattr(query, field)} must not be negative")
    if query.fusion not in FUSIONS:
        raise InvalidArgument("fusion", f"{query.fusion!r} is not one of {', '.join(FUSIONS)}")


def _passage(shelf: Shelf, hit: Fused, asked: bool) -> Passage:
    signals = {
        "cosine": hit.cosine,
        "found_by": float(hit.queries),
        "by_query": float(asked and hit.query == 0),
    }
    return _placed(shelf, hit.row, hit.score, signals)


def _placed(shelf: Shelf, row: int, score: float, signals: dict[str, float]) -> Passage:
    chunk = shelf.library.passages[row]
    return Passage(
        memory=shelf.ref,
        index=row,
        source_id=chunk.source_id,
        text=chunk.text,
        start_byte=chunk.start_byte,
        end_byte=chunk.end_byte,
        start_char=chunk.start_char,
        end_char=chunk.end_char,
        score=score,
        signals=signals,
    )
