"""Sentence encoders: texts in, unit vectors out."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError

from memoserve.errors import InvalidArgument
from memoserve.retrieval.encoder_layout import bad_embedder, read_layout, read_tokenizer
from memoserve.retrieval.worker import Priority, SingleCoreWorker

Vectors = npt.NDArray[np.float32]
"""Rows of unit length, ``[texts, dimension]``; their inner product is the cosine."""


class Embedder(Protocol):
    """What the pipeline needs of a sentence encoder. Methods block and may run on any thread."""

    @property
    def name(self) -> str:
        """Name shown to callers."""

    @property
    def fingerprint(self) -> str:
        """Changes whenever the same text would get another vector; stored with an index."""

    @property
    def dimension(self) -> int:
        """Length of a vector."""

    @property
    def max_tokens(self) -> int:
        """Most tokens of one text that are seen, special tokens included; the rest is cut."""

    def count_tokens(self, text: str) -> int:
        """Tokens of ``text`` as a document, uncut, special tokens and instruction included."""

    def embed_documents(self, texts: Sequence[str]) -> Vectors:
        """Vectors of passages, ``[len(texts), dimension]``."""

    def embed_queries(self, texts: Sequence[str]) -> Vectors:
        """Vectors of questions and clues, ``[len(texts), dimension]``."""


@dataclass(frozen=True)
class EmbedderOptions:
    """How an encoder is run.

    ``max_tokens`` None takes the directory's own limit. ``batch_tokens`` bounds the padded tokens
    of one forward pass: on one core larger batches win nothing for whole passages, and a waiting
    query goes in between two of them. ``bf16_autocast`` doubles the speed on CPUs with bf16
    instructions (cosine to float32 above 0.9999) and is slower by far on those without.
    """

    max_tokens: int | None = None
    batch_tokens: int = 512
    bf16_autocast: bool = False

    def __post_init__(self) -> None:
        if self.max_tokens is not None and self.max_tokens < 8:
            raise InvalidArgument("max_tokens", f"must be at least 8, not {self.max_tokens}")
        if self.batch_tokens < 1:
            raise InvalidArgument("batch_tokens", f"must be positive, not {self.batch_tokens}")


class TransformerEmbedder:
    """A sentence-transformers directory, run on the CPU by one thread of its own.

    Reads config.json, tokenizer.json and model.safetensors; honours 1_Pooling/config.json (mean
    or CLS), sentence_bert_config.json (the length) and the prompts named "query" and "document"
    of config_sentence_transformers.json. No remote code, no pickled weights, no network.

    Raises:
        FailedPrecondition: a file is missing or asks for something that is not supported.
    """

    def __init__(
        self, path: Path, *, name: str = "", options: EmbedderOptions | None = None
    ) -> None:
        options = options or EmbedderOptions()
        self._layout = read_layout(path)
        self._max_tokens = min(
            options.max_tokens or self._layout.max_tokens, self._layout.max_tokens
        )
        self._uncut = read_tokenizer(path)
        self._cut = read_tokenizer(path, max_tokens=self._max_tokens)
        self._model = _load_encoder(path)
        self._name = name or path.name
        self._options = options
        self._worker = SingleCoreWorker(f"embedder-{self._name}")

    @property
    def name(self) -> str:
        """Name shown to callers."""
        return self._name

    @property
    def fingerprint(self) -> str:
        """Digest of the files, and the length texts are cut at."""
        return f"{self._layout.digest}-{self._max_tokens}"

    @property
    def dimension(self) -> int:
        """Length of a vector."""
        return self._layout.dimension

    @property
    def max_tokens(self) -> int:
        """Most tokens of one text that are seen, special tokens included."""
        return self._max_tokens

    def count_tokens(self, text: str) -> int:
        """Tokens of ``text`` as a document, uncut, special tokens and instruction included."""
        return len(self._uncut.encode(self._layout.document_prompt + text).ids)

    def embed_documents(self, texts: Sequence[str]) -> Vectors:
        """Vectors of passages, ``[len(texts), dimension]``."""
        return self._embed(texts, self._layout.document_prompt, Priority.DOCUMENT)

    def embed_queries(self, texts: Sequence[str]) -> Vectors:
        """Vectors of questions and clues; they overtake waiting passages."""
        return self._embed(texts, self._layout.query_prompt, Priority.QUERY)

    def close(self) -> None:
        """End the worker thread; later calls raise Unavailable."""
        self._worker.close()

    def _embed(self, texts: Sequence[str], prompt: str, priority: Priority) -> Vectors:
        rows = [self._cut.encode(prompt + text).ids for text in texts]
        jobs: list[tuple[list[int], Future[Vectors]]] = []
        for batch in batches_by_length([len(row) for row in rows], self._options.batch_tokens):
            work = partial(self._forward, [rows[index] for index in batch])
            jobs.append((batch, self._worker.submit(priority, work)))
        vectors = np.empty((len(texts), self.dimension), dtype=np.float32)
        for batch, future in jobs:
            vectors[batch] = future.result()
        return vectors

    def _forward(self, rows: list[list[int]]) -> Vectors:
        """Run one padded batch of token ids; only ever called on the worker thread."""
        longest = max(len(row) for row in rows)
        ids = torch.tensor([row + [0] * (longest - len(row)) for row in rows])  # [B, T]
        mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])
        with (
            torch.inference_mode(),
            torch.autocast("cpu", dtype=torch.bfloat16, enabled=self._options.bf16_autocast),
        ):
            hidden = self._model(input_ids=ids, attention_mask=mask).last_hidden_state  # [B, T, D]
            pooled = self._layout.pool(hidden.float(), mask.unsqueeze(-1).float())
        unit: Vectors = torch.nn.functional.normalize(pooled, dim=-1).numpy()
        return unit


def batches_by_length(lengths: Sequence[int], batch_tokens: int) -> list[list[int]]:
    """Group indices of similar length so that rows x longest stays within ``batch_tokens``.

    A text longer than that is a batch of its own. Longest first, so that padding is small.
    """
    order = sorted(range(len(lengths)), key=lambda index: -lengths[index])
    batches: list[list[int]] = []
    for index in order:
        if batches and (len(batches[-1]) + 1) * lengths[batches[-1][0]] <= batch_tokens:
            batches[-1].append(index)
        else:
            batches.append([index])
    return batches


def _load_encoder(path: Path) -> torch.nn.Module:
    # Imported here: it takes seconds, and what only cuts or searches never needs it.
    from transformers import AutoModel
    from transformers.utils import logging

    bar_was_on = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()  # a server has no terminal
    try:
        loaded = AutoModel.from_pretrained(
            path,
            local_files_only=True,
            use_safetensors=True,
            trust_remote_code=False,
            dtype=torch.float32,
            output_loading_info=True,
        )
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise bad_embedder(f"{path} cannot be loaded: {error}") from error
    finally:
        if bar_was_on:
            logging.enable_progress_bar()
    model: torch.nn.Module = loaded[0]
    # What is missing would be drawn at random. The pooler is not used here.
    missing = sorted(key for key in loaded[1]["missing_keys"] if not key.startswith("pooler."))
    if missing:
        raise bad_embedder(f"{path} has no weights for {missing[0]} and {len(missing) - 1} others")
    return model.eval().requires_grad_(False)
