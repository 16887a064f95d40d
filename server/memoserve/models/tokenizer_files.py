"""Reads a checkpoint's tokenizer files; decides what is special; runs none of their code."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from memoserve.errors import InvalidArgument

Json = dict[str, Any]

_NAMED = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token")
_NAMED_LISTS = ("additional_special_tokens", "extra_special_tokens")


@dataclass(frozen=True)
class AddedToken:
    """A token beside the model's vocabulary; ``lstrip``/``rstrip`` eat template white space."""

    id: int
    content: str
    special: bool
    lstrip: bool = False
    rstrip: bool = False


@dataclass(frozen=True)
class TokenizerFiles:
    """``tokenizer.json`` as parsed, the added tokens by id, the named ones, the chat template.

    ``named`` maps e.g. ``bos_token`` to its content; ``fingerprint`` is a sha256 in hex over
    tokenizer.json and the template.
    """

    spec: Json
    added: dict[int, AddedToken]
    named: dict[str, str]
    chat_template: str | None
    adds_bos: bool
    fingerprint: str


def read_tokenizer_files(directory: str | Path) -> TokenizerFiles:
    """Read ``tokenizer.json``, ``tokenizer_config.json`` and ``chat_template.jinja``.

    Only the first must exist. Raises InvalidArgument, whose field is the name of the file, also
    for a model that is not BPE.
    """
    folder = Path(directory)
    raw = _read(folder / "tokenizer.json")
    if raw is None:
        raise InvalidArgument("tokenizer.json", f"there is none in {folder}")
    spec = _parse("tokenizer.json", raw)
    _check_bpe(spec.get("model"))
    config = _parse("tokenizer_config.json", _read(folder / "tokenizer_config.json") or b"{}")
    try:
        return _interpreted(raw, spec, config, _template(folder, config))
    except (AttributeError, IndexError, KeyError, TypeError) as error:
        raise InvalidArgument("tokenizer_config.json", f"has an odd shape: {error}") from error


def _interpreted(raw: bytes, spec: Json, config: Json, template: str | None) -> TokenizerFiles:
    named = {key: text for key in _NAMED if (text := _content(config.get(key))) is not None}
    return TokenizerFiles(
        spec=spec,
        added=_added_tokens(spec, config, named),
        named=named,
        chat_template=template,
        adds_bos=_adds_bos(spec, config, named.get("bos_token")),
        fingerprint=_fingerprint(raw, template),
    )


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise InvalidArgument(path.name, f"cannot be read: {error.strerror}") from error


def _parse(name: str, raw: bytes) -> Json:
    try:
        value = json.loads(raw)
    except ValueError as error:
        raise InvalidArgument(name, f"is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise InvalidArgument(name, "is not a JSON object")
    return value


def _check_bpe(model: object) -> None:
    if not isinstance(model, dict):
        raise InvalidArgument("tokenizer.json", "it has no model")
    parts = isinstance(model.get("vocab"), dict) and isinstance(model.get("merges"), list)
    if model.get("type", "BPE") != "BPE" or not parts:
        raise InvalidArgument("tokenizer.json", f"model {model.get('type')!r} is not BPE")


def _content(value: object) -> str | None:
    """A token is written as its text or as an object that holds it."""
    text = value.get("content") if isinstance(value, dict) else value
    return text if isinstance(text, str) else None


def _template(folder: Path, config: Json) -> str | None:
    raw = _read(folder / "chat_template.jinja")
    if raw is not None:
        try:
            return raw.decode()
        except UnicodeDecodeError as error:
            raise InvalidArgument("chat_template.jinja", "is not UTF-8") from error
    value = config.get("chat_template")
    if isinstance(value, list):
        named = {entry.get("name"): entry.get("template") for entry in value}
        value = named.get("default")
    if value is not None and not isinstance(value, str):
        raise InvalidArgument("tokenizer_config.json", "chat_template is no text")
    return value


def _added_tokens(spec: Json, config: Json, named: dict[str, str]) -> dict[int, AddedToken]:
    found = {token.id: token for token in _listed(spec, config)}
    taken = {token.content for token in found.values()}
    vocab = spec["model"]["vocab"]
    for content in _special_contents(config, named):
        if content not in taken and content in vocab:
            found[vocab[content]] = AddedToken(vocab[content], content, special=True)
    return found


def _listed(spec: Json, config: Json) -> Iterator[AddedToken]:
    """tokenizer_config.json first: what tokenizer.json says of the same id wins."""
    entries: list[tuple[object, Any]] = list((config.get("added_tokens_decoder") or {}).items())
    entries += [(entry.get("id"), entry) for entry in spec.get("added_tokens") or []]
    for key, entry in entries:
        content = _content(entry)
        if not content or not str(key).isdecimal():
            raise InvalidArgument("tokenizer.json", f"added token {key!r} has no id or no content")
        flags = {flag: bool(entry.get(flag)) for flag in ("special", "lstrip", "rstrip")}
        yield AddedToken(int(str(key)), content, **flags)


def _special_contents(config: Json, named: dict[str, str]) -> Iterator[str]:
    yield from named.values()
    for key in _NAMED_LISTS:
        value = config.get(key) or []
        for entry in value.values() if isinstance(value, dict) else value:
            if content := _content(entry):
                yield content


def _adds_bos(spec: Json, config: Json, bos: str | None) -> bool:
    """Whether whole texts begin with BOS: by the config's word, else by the post-processor."""
    if bos is None:
        return False
    if isinstance(config.get("add_bos_token"), bool):
        return bool(config["add_bos_token"])
    processor = spec.get("post_processor") or {}
    for step in processor.get("processors", [processor]):
        first = (step.get("single") or [{}])[0]
        if first.get("SpecialToken", {}).get("id") == bos:
            return True
    return False


def _fingerprint(raw: bytes, template: str | None) -> str:
    digest = hashlib.sha256(len(raw).to_bytes(8, "little") + raw)
    digest.update(b"\0" if template is None else b"\1" + template.encode())
    return digest.hexdigest()
