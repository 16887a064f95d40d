"""What a sentence-transformers directory says about itself, read as plain JSON."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer

from memoserve.errors import FailedPrecondition

WEIGHTS = "model.safetensors"
_REQUIRED = ("config.json", "tokenizer.json", WEIGHTS)
_OPTIONAL = (
    "1_Pooling/config.json",
    "sentence_bert_config.json",
    "config_sentence_transformers.json",
)


@dataclass(frozen=True)
class EncoderLayout:
    """How token states become a sentence vector, and which texts the encoder was made for."""

    dimension: int
    max_tokens: int
    use_cls: bool
    document_prompt: str
    query_prompt: str
    digest: str

    def pool(self, hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """``hidden`` [B, T, D] and ``mask`` [B, T, 1] (1 = real) to one row a text, [B, D]."""
        if self.use_cls:
            return hidden[:, 0]
        return (hidden * mask).sum(dim=1) / mask.sum(dim=1)


def read_layout(path: Path) -> EncoderLayout:
    """Read the layout of the encoder in ``path``; its digest covers every file that matters.

    Raises:
        FailedPrecondition: a file is missing or damaged, or the pooling is not mean or CLS.
    """
    for file in _REQUIRED:
        if not (path / file).is_file():
            raise bad_embedder(f"{path} holds no {file}")
    config = _read_json(path / "config.json")
    dimension, positions = config.get("hidden_size"), config.get("max_position_embeddings")
    if not isinstance(dimension, int) or not isinstance(positions, int):
        raise bad_embedder(f"{path}/config.json names no hidden_size or max_position_embeddings")
    length = _read_json(path / "sentence_bert_config.json").get("max_seq_length") or positions
    prompts = _read_json(path / "config_sentence_transformers.json").get("prompts") or {}
    return EncoderLayout(
        dimension=dimension,
        max_tokens=min(int(length), positions),
        use_cls=_uses_cls(_read_json(path / "1_Pooling/config.json")),
        document_prompt=str(prompts.get("document") or ""),
        query_prompt=str(prompts.get("query") or ""),
        digest=_digest(path),
    )


def read_tokenizer(path: Path, *, max_tokens: int | None = None) -> Tokenizer:
    """The directory's tokenizer without padding, cutting at ``max_tokens`` when given.

    Strings that look like special tokens are encoded as the ordinary text they are.

    Raises:
        FailedPrecondition: the file is no tokenizer.
    """
    try:
        tokenizer = Tokenizer.from_file(str(path / "tokenizer.json"))
    except Exception as error:  # the library raises nothing more specific
        raise bad_embedder(f"{path}/tokenizer.json cannot be read: {error}") from error
    tokenizer.encode_special_tokens = True
    tokenizer.no_padding()
    if max_tokens is None:
        tokenizer.no_truncation()
    else:
        tokenizer.enable_truncation(max_tokens)
    return tokenizer


def sha256_of(file: Path) -> str:
    """Hex SHA-256 of a file's bytes."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _uses_cls(pooling: dict[str, Any]) -> bool:
    wanted = sorted(
        key for key, value in pooling.items() if key.startswith("pooling_mode_") and value
    )
    if wanted == ["pooling_mode_cls_token"]:
        return True
    if wanted in ([], ["pooling_mode_mean_tokens"]):  # a directory without the file means mean
        return False
    raise bad_embedder(f"pooling {wanted} is not supported, only mean or CLS")


def _digest(path: Path) -> str:
    total = hashlib.sha256()
    for file in sorted((*_REQUIRED, *_OPTIONAL)):
        if (path / file).is_file():
            total.update(f"{file} {sha256_of(path / file)}\n".encode())
    return total.hexdigest()


def _read_json(file: Path) -> dict[str, Any]:
    """The file's object; empty when there is no such file."""
    if not file.is_file():
        return {}
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise bad_embedder(f"{file} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise bad_embedder(f"{file} holds no JSON object")
    return value


def bad_embedder(message: str) -> FailedPrecondition:
    """The error for a directory that cannot be used as an encoder."""
    return FailedPrecondition("embedder", message, reason="BAD_EMBEDDER")
