"""Retrieve: passages of the memories' sources, by the query and by clues."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from memoserve.errors import FailedPrecondition, InvalidArgument
from memoserve.pipeline.library import Library
from memoserve.pipeline.residents import Residents
from memoserve.pipeline.runtime import Runtime
from memoserve.pipeline.values import MemoryRef, Passage, RetrieveQuery
from memoserve.retrieval.fusion import Fused, cap, fuse_rrf, fuse_union, merge_shards

FUSIONS = ("union", "rrf")
MAX_TOP_K = 100


@dataclass(frozen=True)
class Shelf:
    """A memory's passages."""

    ref: MemoryRef
    library: Library


async def open_shelves(
    runtime: Runtime, refs: Sequence[MemoryRef], residents: Residents
) -> list[Shelf]:
    """Passages of the named memories; needs no pages. Raises FailedPrecondition without an index."""
    shelves = []
    for ref in refs:
        record = runtime.store.get(ref.name, ref.version)
        library = await residents.library(record)
        if not library.passages:
            raise FailedPrecondition(
                str(ref.name), f"memory {ref.name} was memorized without an index"
            )
        shelves.append(Shelf(MemoryRef(ref.name, record.version), library))
    return shelves


async def search(
    runtime: Runtime, shelves: Sequence[Shelf], query: RetrieveQuery
) -> list[Passage]:
    """The best passages for the query and each clue, fused; union keeps document order.

    ``signals``: ``cosine`` of the best finding text, ``found_by`` the number of texts that found
    it, ``by_query`` 1 where the query itself found it best.
    """
    check_retrieve(query)
    texts = [text for text in (query.query, *query.clues) if text.strip()]
    if not texts:
        raise InvalidArgument("query", "is empty")
    vectors = await asyncio.to_thread(runtime.embedder.embed_queries, texts)
    per_shelf = [
        await asyncio.to_thread(shelf.library.index.search, vectors, query.top_k)
        for shelf in shelves
    ]
    hits = merge_shards(per_shelf, query.top_k)
    fused = fuse_rrf(hits) if query.fusion == "rrf" else fuse_union(hits)
    chosen = cap(
        fused,
        lambda hit: shelves[hit.shard].library.passages[hit.row].tokens,
        max_passages=query.max_passages,
        max_tokens=query.max_tokens,
    )
    return [_passage(shelves[hit.shard], hit) for hit in chosen]


def check_retrieve(query: RetrieveQuery) -> None:
    """Raise InvalidArgument, naming the field, for options out of range."""
    if not 1 <= query.top_k <= MAX_TOP_K:
        raise InvalidArgument("top_k", f"{query.top_k} must be from 1 to {MAX_TOP_K}")
    for field in ("max_passages", "max_tokens"):
        if getattr(query, field) < 0:
            raise InvalidArgument(field, f"{getattr(query, field)} must not be negative")
    if query.fusion not in FUSIONS:
        raise InvalidArgument("fusion", f"{query.fusion!r} is not one of {', '.join(FUSIONS)}")


def _passage(shelf: Shelf, hit: Fused) -> Passage:
    chunk = shelf.library.passages[hit.row]
    return Passage(
        memory=shelf.ref,
        index=hit.row,
        source_id=chunk.source_id,
        text=chunk.text,
        start_byte=chunk.start_byte,
        end_byte=chunk.end_byte,
        start_char=chunk.start_char,
        end_char=chunk.end_char,
        score=hit.score,
        signals={
            "cosine": hit.cosine,
            "found_by": float(hit.queries),
            "by_query": float(hit.query == 0),
        },
    )
