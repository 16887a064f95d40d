"""Recognises a tokenizer's family and builds the encoders that read ordinary text.

Special tokens are taken out of the encoders altogether, so no text can name one. A family whose
first piece gets a word mark needs a second encoder, without it, for the pieces that follow.
"""

from __future__ import annotations

import enum
import json
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from tokenizers import Tokenizer

from memoserve.errors import InvalidArgument
from memoserve.models.byte_level import BYTE_OF_CHAR, straddles, token_bytes
from memoserve.models.seams import (
    WORD_MARK,
    LetterSeams,
    NoSeams,
    PairSeams,
    RegexSeams,
    Seams,
    char_pairs,
)
from memoserve.models.tokenizer_files import Json, TokenizerFiles
from memoserve.models.unicode_kinds import Kind, kind_of

_LETTERS = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_SIGNS = r" ?[^\s\p{L}\p{N}]+[\r\n]*"
_SPACES = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_ENDINGS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_QWEN2 = "|".join((_ENDINGS, _LETTERS, r"\p{N}", _SIGNS, _SPACES))
_LLAMA3 = "|".join((_ENDINGS, _LETTERS, r"\p{N}{1,3}", _SIGNS, _SPACES))

# The expressions RegexSeams is proved for; the value says whether every digit stands alone.
_EXPRESSIONS = {_GPT2: False, _QWEN2: True, _LLAMA3: False}


class Prefix(enum.Enum):
    """Where a word mark is put before a text."""

    NONE = "none"
    EVERY_SEGMENT = "every segment"  # also behind each special token
    TEXT_START = "text start"


@dataclass(frozen=True)
class TextCodec:
    """Encoders of ordinary text: ``first`` for the start of a segment, ``rest`` for what follows.

    The two are one where the family puts no prefix.
    """

    first: Tokenizer
    rest: Tokenizer
    seams: Seams
    prefix: Prefix

    def encode(self, text: str, *, at_segment_start: bool = True) -> list[int]:
        """Ids of a text; a lone surrogate raises InvalidArgument."""
        check_text(text)
        encoder = self.first if at_segment_start else self.rest
        ids: list[int] = encoder.encode_batch_fast([text], add_special_tokens=False)[0].ids
        return ids


def check_text(text: str) -> None:
    """Raise InvalidArgument where a text has no UTF-8 form (lone surrogates)."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InvalidArgument(
            "text", f"character {error.start} is a lone surrogate, which no UTF-8 text holds"
        ) from error


def build_codec(files: TokenizerFiles) -> TextCodec:
    """Raises InvalidArgument where it cannot be loaded or text could make a special token."""
    special = {token.content for token in files.added.values() if token.special}
    spec = _ordinary_text_only(files.spec, special)
    first = _load(spec)
    prefix, continuing = _without_prefix(spec)
    rest = first if prefix is Prefix.NONE else _load(continuing)
    return TextCodec(first, rest, _seams(spec, first), prefix)


def _ordinary_text_only(spec: Json, special: Collection[str]) -> Json:
    model = spec["model"]
    made = [token for token in _products(model) if token in special]
    if made:
        raise InvalidArgument("tokenizer.json", f"ordinary text can merge to special {made[0]!r}")
    kept = {
        token: index
        for token, index in model["vocab"].items()
        if token not in special or token == model.get("unk_token")
    }
    plain: Json = {"added_tokens": [], "post_processor": None, "truncation": None, "padding": None}
    return {**spec, **plain, "model": {**model, "dropout": None, "vocab": kept}}


def _load(spec: Json) -> Tokenizer:
    try:
        return Tokenizer.from_str(json.dumps(spec, ensure_ascii=False))
    except Exception as error:  # the library raises bare Exception for whatever it cannot read
        raise InvalidArgument("tokenizer.json", f"cannot be loaded: {error}") from error


def _products(model: Json) -> Iterator[str]:
    """What each merge makes; merges are written as pairs or as two words."""
    for merge in model["merges"]:
        yield "".join(merge.split(" ") if isinstance(merge, str) else merge)


def _parts(model: Json) -> Iterator[str]:
    for merge in model["merges"]:
        yield from merge.split(" ") if isinstance(merge, str) else merge


def _without_prefix(spec: Json) -> tuple[Prefix, Json]:
    """Which prefix the tokenizer puts, and the same tokenizer without it."""
    steps = _steps(spec.get("normalizer"), "normalizers")
    others = [step for step in steps if step["type"] != "Prepend"]
    if len(others) < len(steps):
        normalizer = {"type": "Sequence", "normalizers": others} if others else None
        return Prefix.EVERY_SEGMENT, {**spec, "normalizer": normalizer}
    splitter = spec.get("pre_tokenizer") or {}
    scheme = splitter.get("prepend_scheme", "always")
    if splitter.get("type") != "Metaspace" or scheme == "never":
        return Prefix.NONE, spec
    plain = {key: value for key, value in splitter.items() if key != "add_prefix_space"}
    prefix = Prefix.TEXT_START if scheme == "first" else Prefix.EVERY_SEGMENT
    return prefix, {**spec, "pre_tokenizer": {**plain, "prepend_scheme": "never"}}


def _steps(node: Json | None, key: str) -> list[Json]:
    """A pipeline node as a flat list: null, one step, or a Sequence of steps."""
    if node is None:
        return []
    return list(node[key]) if node["type"] == "Sequence" else [node]


def _seams(spec: Json, tokenizer: Tokenizer) -> Seams:
    model = spec["model"]
    if model.get("continuing_subword_prefix") or model.get("end_of_word_suffix"):
        return NoSeams()
    normalizers = _steps(spec.get("normalizer"), "normalizers")
    splitters = _steps(spec.get("pre_tokenizer"), "pretokenizers")
    expression = _expression(splitters)
    if expression in _EXPRESSIONS and normalizers in ([], [{"type": "NFC"}]):
        return RegexSeams(
            nfc=bool(normalizers),
            lone_digits=_EXPRESSIONS[expression],
            letters=_letter_seams(model, tokenizer),
        )
    if _marks_spaces_only(normalizers, splitters):
        return _pair_seams(model, marks_spaces=bool(normalizers or splitters))
    return NoSeams()


def _expression(splitters: list[Json]) -> str:
    """The regular expression of a byte-level pre-tokenizer, "" for any other."""
    last = splitters[-1] if splitters else {}
    if last.get("type") != "ByteLevel" or last.get("add_prefix_space", True):
        return ""
    if len(splitters) == 1:
        return _GPT2 if last.get("use_regex", True) else ""
    split = splitters[0]
    plain = split.get("behavior") == "Isolated" and not split.get("invert")
    if len(splitters) > 2 or last.get("use_regex", True) or split["type"] != "Split" or not plain:
        return ""
    return str(split["pattern"].get("Regex", ""))


def _letter_seams(model: Json, tokenizer: Tokenizer) -> LetterSeams | None:
    vocab = model["vocab"]
    if any(char not in vocab for char in BYTE_OF_CHAR):
        return None  # a byte without a token may vanish between its neighbours
    spelled = [(token, token_bytes(token)) for token in vocab if not token.isascii()]
    found = straddles(data for _, data in spelled)
    if not model.get("ignore_merges"):
        return LetterSeams(found)
    loose = [text for text in _unmerged(tokenizer, spelled) if text]
    ends = frozenset(text[-1] for text in loose)
    return LetterSeams(found, ends, frozenset(text[0] for text in loose))


def _unmerged(tokenizer: Tokenizer, spelled: list[tuple[str, bytes]]) -> Iterator[str]:
    """Texts that are tokens, touch a letter beyond ASCII, and are not what merging gives."""
    bpe = tokenizer.model
    bpe.ignore_merges = False
    try:
        for token, data in spelled:
            text = _letters_at_an_end(data)
            if text and len(bpe.tokenize(token)) != 1:
                yield text
    finally:
        bpe.ignore_merges = True


def _letters_at_an_end(data: bytes) -> str:
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return ""  # no whole pre-token
    wide = [char for char in (text[0], text[-1]) if not char.isascii()]
    return text if any(kind_of(char) is Kind.LETTER for char in wide) else ""


def _marks_spaces_only(normalizers: list[Json], splitters: list[Json]) -> bool:
    """Whether the pipeline only spells spaces as word marks, and perhaps puts one before all."""
    mark = {"type": "Replace", "pattern": {"String": " "}, "content": WORD_MARK}
    if normalizers and normalizers[-1] != mark:
        return False
    if normalizers[:-1] not in ([], [{"type": "Prepend", "prepend": WORD_MARK}]):
        return False
    if not splitters:
        return True
    splitter = splitters[0]
    return (
        len(splitters) == 1
        and not normalizers
        and splitter["type"] == "Metaspace"
        and splitter.get("replacement") == WORD_MARK
    )


def _pair_seams(model: Json, *, marks_spaces: bool) -> Seams:
    bytes_ = {f"<0x{byte:02X}>" for byte in range(256)} if model.get("byte_fallback") else set()
    apart = bytes_ | {model.get("unk_token")}
    if model.get("ignore_merges") or any(part in apart for part in _parts(model)):
        return NoSeams()  # a whole text may be one look-up; or bytes merge, which pairs do not show
    vocab = model["vocab"]
    complete = bool(bytes_) and all(token in vocab for token in bytes_)
    symbols = None if complete else frozenset(token for token in vocab if len(token) == 1)
    return PairSeams(char_pairs(_products(model)), marks_spaces, symbols)
