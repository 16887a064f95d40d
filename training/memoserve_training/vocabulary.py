"""A tokenizer for a model that is trained from scratch: byte-level BPE, any UTF-8 text encodes."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

PAD, START, END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
# Qwen2's expression, whose seams the server's stream encoder knows. Digits stand alone.
WORDS: Final = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# Every token of a template is paid for by every query, and what stands between a question and
# its answer has to be learned across: an answer goes on right behind its question.
CHAT_TEMPLATE: Final = "{% for message in messages %}<|im_start|>{{ message.content }}{% endfor %}"


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """BPE over the words of ``texts``; the same texts give the same tokenizer."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORDS), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[PAD, START, END],
        min_frequency=60,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def write_tokenizer(tokenizer: Tokenizer, directory: Path) -> None:
    """tokenizer.json, tokenizer_config.json and generation_config.json of a model directory."""
    directory.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(directory / "tokenizer.json"))
    write_json(
        directory / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": PAD,
            "eos_token": END,
            "pad_token": PAD,
            "chat_template": CHAT_TEMPLATE,
            "model_max_length": 131072,
        },
    )
    end = tokenizer.token_to_id(END)
    write_json(directory / "generation_config.json", {"eos_token_id": end, "do_sample": False})


def write_json(path: Path, content: object) -> None:
    """JSON with a newline at its end."""
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
