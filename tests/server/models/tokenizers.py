"""Tokenizers of the three families, trained here on a small messy corpus, and text to try them."""

from __future__ import annotations

import functools
import json
import random
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer
from transformers import PreTrainedTokenizerFast

from memoserve.models.tokenizer import TextTokenizer

Json = dict[str, Any]

ENDINGS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
QWEN2 = ENDINGS + r"\p{N}" + REST
LLAMA3 = ENDINGS + r"\p{N}{1,3}" + REST

SPECIAL = {
    "qwen2": ["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
    "llama3": ["<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"],
    "gpt2": ["<|endoftext|>"],
}
SENTENCEPIECE = ("mistral", "mistral_first", "mistral_always", "llama2_unk")
BYTE_LEVEL = ("qwen2", "llama3", "gpt2")
FAMILIES = (*BYTE_LEVEL, *SENTENCEPIECE, "unknown")

# One line of words each, split at spaces.
_ENGLISH_LINE = (
    "the memory of a long text is cut into windows and we don't know what they'll recall"
)
_CHINESE_LINE = "记忆 中文 文本 模型 压缩 长 的 我们 可以 检索 问题 答案 ， 。"
_OTHER_LINE = "été ñandú naïve 한국어 русский שלום مرحبا हिन्दी ไทย 🙂 👩\u200d👩\u200d👧 日本 ガギ"
_ENGLISH, _CHINESE, _OTHER = _ENGLISH_LINE.split(), _CHINESE_LINE.split(), _OTHER_LINE.split()


def corpus(lines: int = 400, seed: int = 5) -> list[str]:
    """Lines of mixed text; Chinese without spaces, numbers, signs, runs of spaces."""
    draw = random.Random(seed)
    made = []
    for _ in range(lines):
        words = draw.choices(_ENGLISH, k=8) + draw.choices(_OTHER, k=3)
        chinese = "".join(draw.choices(_CHINESE, k=12))
        number = str(draw.randrange(10**6))
        made.append(" ".join(words) + f" {chinese}  {number}!?\n\n\tx=={number};")
    return made


def english(chars: int, seed: int = 1) -> str:
    """Plain English-like prose."""
    draw = random.Random(seed)
    words = (
        draw.choice(_ENGLISH) + draw.choice([" ", " ", " ", ", ", ".\n"]) for _ in range(chars)
    )
    return "".join(words)[:chars]


def chinese(chars: int, seed: int = 1) -> str:
    """Chinese without any space or punctuation: one run of letters."""
    draw = random.Random(seed)
    words = (draw.choice([w for w in _CHINESE if w.isalpha()]) for _ in range(chars))
    rare = (chr(draw.randrange(0x4E00, 0x9FA5)) for _ in range(chars))
    return "".join(w if draw.random() < 0.8 else r for w, r in zip(words, rare, strict=True))[
        :chars
    ]


def _train(tokenizer: Tokenizer, special: list[str], **more: Any) -> Json:
    trainer = BpeTrainer(vocab_size=1100, special_tokens=special, show_progress=False, **more)
    tokenizer.train_from_iterator(corpus(), trainer)
    spec: Json = json.loads(tokenizer.to_str())
    return spec


def _byte_level(name: str) -> Json:
    tokenizer = Tokenizer(BPE())
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=name == "gpt2")
    tokenizer.pre_tokenizer = byte_level
    if name != "gpt2":
        split = pre_tokenizers.Split(Regex(QWEN2 if name == "qwen2" else LLAMA3), "isolated")
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level])
    if name == "qwen2":
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.decoder = decoders.ByteLevel()
    spec = _train(tokenizer, SPECIAL[name], initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    if name == "qwen2":  # an added token that is not special
        more = {"id": len(spec["model"]["vocab"]), "content": "<tool_call>", "special": False}
        spec["added_tokens"].append({**spec["added_tokens"][0], **more})
    if name == "llama3":
        _add_words_no_merge_makes(spec)
    return spec


def _add_words_no_merge_makes(spec: Json) -> None:
    """As in Llama 3: tokens that only ``ignore_merges`` can give, a whole pre-token at a time."""
    spec["model"]["ignore_merges"] = True
    vocab = spec["model"]["vocab"]
    alphabet = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    for word in ["的龖", "龗答", "windowed", " カ한"]:
        spelled = alphabet.pre_tokenize_str(word)[0][0]
        vocab.setdefault(spelled, len(vocab))


def _sentencepiece(name: str) -> Json:
    mark = "\u2581"
    byte_tokens = [] if name == "llama2_unk" else [f"<0x{byte:02X}>" for byte in range(256)]
    tokenizer = Tokenizer(BPE(unk_token="<unk>", byte_fallback=bool(byte_tokens), fuse_unk=True))
    split = name != "mistral_always"  # there, tokens run over spaces
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(mark, "always", split=split)
    special = ["<unk>", "<s>", "</s>", *byte_tokens, "[INST]", "[/INST]"]
    spec = _train(tokenizer, special, max_token_length=6, limit_alphabet=150)
    spec["added_tokens"] = [t for t in spec["added_tokens"] if t["content"] not in byte_tokens]
    for size in (2, 4, 8):  # as in Mistral: runs of spaces are tokens
        spec["model"]["vocab"].setdefault(mark * size, len(spec["model"]["vocab"]))
        spec["model"]["merges"].append([mark * (size // 2)] * 2)
    tokenizer = Tokenizer.from_str(json.dumps(spec))
    if name in ("mistral", "llama2_unk"):
        tokenizer.normalizer = normalizers.Sequence(
            [normalizers.Prepend(mark), normalizers.Replace(" ", mark)]
        )
        tokenizer.pre_tokenizer = None
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(mark, name.split("_")[1], split=False)
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace(mark, " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    result: Json = json.loads(tokenizer.to_str())
    return result


def _unknown() -> Json:
    """A family without a proved seam rule: NFKC merges characters, and digits are split."""
    spec = _byte_level("gpt2")
    spec["normalizer"] = {"type": "NFKC"}
    return spec


@functools.cache
def spec_text(name: str) -> str:
    """The tokenizer.json of a family."""
    if name == "unknown":
        return json.dumps(_unknown())
    return json.dumps(_byte_level(name) if name in BYTE_LEVEL else _sentencepiece(name))


def library_tokenizer(name: str) -> Tokenizer:
    """The family in the tokenizer library itself, with its special tokens."""
    return Tokenizer.from_str(spec_text(name))


def config_of(name: str, chat_template: str | None = None) -> Json:
    """A tokenizer_config.json that names the special tokens."""
    special = ["<s>", "</s>"] if name in SENTENCEPIECE else SPECIAL.get(name, ["<|endoftext|>"])
    config: Json = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": special[-1]}
    if name in ("llama3", *SENTENCEPIECE):
        config["bos_token"] = special[0]
    if chat_template is not None:
        config["chat_template"] = chat_template
    return config


def save(name: str, folder: Path, chat_template: str | None = None) -> Path:
    """Write the directory of a checkpoint's tokenizer."""
    (folder / "tokenizer.json").write_text(spec_text(name))
    (folder / "tokenizer_config.json").write_text(json.dumps(config_of(name, chat_template)))
    return folder


@functools.cache
def loaded(name: str, chat_template: str | None = None) -> TextTokenizer:
    """Our tokenizer of a family."""
    with tempfile.TemporaryDirectory() as folder:
        return TextTokenizer.from_directory(save(name, Path(folder), chat_template))


@functools.cache
def transformers_tokenizer(name: str) -> PreTrainedTokenizerFast:
    """The transformers library's tokenizer of a family."""
    config = {k: v for k, v in config_of(name).items() if k.endswith("_token")}
    return PreTrainedTokenizerFast(tokenizer_object=library_tokenizer(name), **config)


SPECIAL_STRINGS = [content for contents in SPECIAL.values() for content in contents]
SPECIAL_STRINGS += ["<tool_call>", "<s>", "</s>", "<unk>", "[INST]", "<0x0A>"]
_SPACES = ["  ", "      ", "\r\n", " \n", *" \n\t\u3000\u00a0\u2028\x85\x1c"]
_MARKS = "\u0301\u0323\u0345\u3099\u093c\u0fb5\u0338\u200d\ufe0f"
_JAMO = "\u1100\u1161\u11a8\uac00\uac01\u11a7"
_ODD = ["'s", "'ſ", "\u2581\u2581", *"'K\u212a\u212b\u0958\u2581ﬁ½Ⅷ①\ufffd\x00"]
_ASTRAL = ["𝔘", "𠀀", "\U0001d165", "\U000110b9\U000110ba", "\U0010ffff"]
_WORDS = [
    *_ENGLISH,
    *_OTHER,
    "的龖",
    "龗答",
    "龘",
    "windowed",
    "123",
    "4",
    "==",
    "--",
    "!?",
    *"ael",
]

_fragments = st.one_of(
    st.sampled_from([*_SPACES, *_MARKS, *_JAMO, *_ODD, *_ASTRAL, *_WORDS]),
    st.sampled_from(_CHINESE),
    st.sampled_from(SPECIAL_STRINGS),
    st.characters(exclude_categories=["Cs"]),
    st.integers(0, 2000).map(str),
)
# Many short fragments: what goes wrong goes wrong between neighbours.
messy_texts = st.lists(_fragments, max_size=40).map("".join)
