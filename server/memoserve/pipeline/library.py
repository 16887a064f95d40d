"""The text side of a version: passages with their places, and the index over them."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from memoserve.errors import DataLoss
from memoserve.memory.snapshot import VersionRecord
from memoserve.memory.store import Store
from memoserve.pipeline.contents import Contents, Run
from memoserve.retrieval.chunker import Chunk
from memoserve.retrieval.index import Matrix, PassageIndex

WritePart = Callable[[str, bytes], object]
"""Writes a named part of a version."""


@dataclass(frozen=True)
class Library:
    """Passages in document order; row ``i`` of the index is passage ``i``."""

    passages: tuple[Chunk, ...]
    index: PassageIndex


def vectors_part(passages_part: str) -> str:
    """Name of the part with the vectors of a run of passages."""
    return passages_part.replace("passages/", "vectors/", 1)


def write_passages(
    write: WritePart, part: str, first: int, chunks: Sequence[Chunk], vectors: Matrix
) -> Run:
    """Write a run of passages and their vectors."""
    rows = [
        [c.source_id, c.start_char, c.end_char, c.start_byte, c.end_byte, c.tokens] for c in chunks
    ]
    write(part, json.dumps(rows).encode())
    index = PassageIndex(vectors.shape[1])
    index.add(vectors)
    write(vectors_part(part), index.encode())
    return Run(part, first, len(chunks))


def load_library(
    store: Store, record: VersionRecord, contents: Contents, dimension: int
) -> Library:
    """Read passages, text and vectors of a version; raises DataLoss where they do not fit."""
    texts = _source_texts(store, record, contents)
    index, passages = PassageIndex(dimension), []
    for run in contents.passage_runs:
        vectors = PassageIndex.decode(store.load(record, vectors_part(run.part)), dimension)
        index.add(vectors.vectors())
        passages += _passages(store, record, run, texts)
    if len(index) != len(passages):
        raise DataLoss(f"memory {record.name}: {len(index)} vectors for {len(passages)} passages")
    return Library(tuple(passages), index)


def _source_texts(store: Store, record: VersionRecord, contents: Contents) -> dict[str, str]:
    loaded = {part: store.load(record, part) for part in {r.part for r in contents.text_runs}}
    pieces: dict[str, list[str]] = {}
    for run in contents.text_runs:
        data = memoryview(loaded[run.part])[run.part_byte : run.part_byte + run.num_bytes]
        pieces.setdefault(run.source_id, []).append(str(data, "utf-8"))
    return {source_id: "".join(texts) for source_id, texts in pieces.items()}


def _passages(store: Store, record: VersionRecord, run: Run, texts: dict[str, str]) -> list[Chunk]:
    try:
        rows = json.loads(store.load(record, run.part))
        chunks = [Chunk(row[0], texts[row[0]][row[1] : row[2]], *row[1:]) for row in rows]
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise DataLoss(
            f"memory {record.name} version {record.version}: passages cannot be read",
            memory=record.name,
            part=run.part,
        ) from error
    return chunks


def no_vectors(dimension: int) -> Matrix:
    """Vectors of no passage."""
    return np.zeros((0, dimension), dtype=np.float32)
