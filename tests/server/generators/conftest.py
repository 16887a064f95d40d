"""An encoder made of word counts: cosine is word overlap, so expectations can be worked out."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np
import pytest

from memoserve.retrieval.embedder import Vectors

DIMENSION = 512


class WordCountEmbedder:
    """Hashes each word to an axis."""

    name = "word-count"
    fingerprint = "word-count-1"
    dimension = DIMENSION
    max_tokens = 256

    def __init__(self) -> None:
        self.embedded: list[str] = []

    def count_tokens(self, text: str) -> int:
        return len(text.split()) + 2

    def embed_documents(self, texts: Sequence[str]) -> Vectors:
        self.embedded += texts
        return np.stack([self._one(text) for text in texts])

    def embed_queries(self, texts: Sequence[str]) -> Vectors:
        return np.stack([self._one(text) for text in texts])

    def _one(self, text: str) -> Vectors:
        vector = np.zeros(DIMENSION, np.float32)
        for word in text.lower().replace(".", " ").replace("?", " ").split():
            vector[zlib.crc32(word.encode()) % DIMENSION] += 1.0
        norm = np.linalg.norm(vector)
        return vector / norm if norm else vector


@pytest.fixture
def embedder() -> WordCountEmbedder:
    return WordCountEmbedder()
