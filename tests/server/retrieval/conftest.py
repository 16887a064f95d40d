"""A tiny random BERT as a sentence-transformers directory, made in-process."""

from __future__ import annotations

import json
import string
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
DIMENSION = 24


def _tokenizer() -> Tokenizer:
    letters = [*string.ascii_lowercase, *string.digits, *string.punctuation]
    pieces = [*SPECIALS, *letters, *(f"##{letter}" for letter in letters), "the", "ship", "##s"]
    vocabulary = {piece: number for number, piece in enumerate(dict.fromkeys(pieces))}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.add_special_tokens(list(SPECIALS))
    # As published encoders have it: both must be undone, or counts lie and rows are padded.
    tokenizer.enable_truncation(8)
    tokenizer.enable_padding(length=8)
    return tokenizer


@pytest.fixture
def make_encoder(tmp_path: Path) -> Callable[..., Path]:
    """Write a directory; keyword arguments are file names (dots as __) and their JSON."""
    from transformers import BertConfig, BertModel

    def make(name: str = "tiny", **files: Any) -> Path:
        path = tmp_path / name
        torch.manual_seed(3)
        config = BertConfig(
            vocab_size=_tokenizer().get_vocab_size(),
            hidden_size=DIMENSION,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=32,
            max_position_embeddings=40,
        )
        BertModel(config).save_pretrained(path)
        _tokenizer().save(str(path / "tokenizer.json"))
        for file, content in files.items():
            target = path / (file.replace("__", "/") + ".json")
            target.parent.mkdir(exist_ok=True)
            target.write_text(json.dumps(content), encoding="utf-8")
        return path

    return make
