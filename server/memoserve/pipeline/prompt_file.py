"""``memoserve_prompts.json``: the prompts a model was trained with, beside its weights.

By language, each field optional; what is left out stays the built-in text:

    {"en": {"context": "...{context}...", "acknowledgement": "...",
            "clues": {"span": "...{input}...", "surrogate": "...{input}...",
                      "draft_answer": "...{input}...", "key_point": "..."},
            "answer": "...{context}...{input}...", "summary": "...{context}..."},
     "zh": {...}}

A placeholder stands once where it is needed. ``summary`` and ``key_point`` may hold ``{input}``.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from memoserve.errors import InvalidArgument
from memoserve.pipeline.prompts import BUILT_IN, Prompts, PromptSet
from memoserve.pipeline.values import ClueKind

PROMPTS_FILE = "memoserve_prompts.json"
MAX_BYTES = 64 * 1024


@dataclass(frozen=True)
class _Rule:
    """Placeholders a text needs, and those it may hold; any other would never be filled."""

    needed: frozenset[str] = frozenset()
    allowed: frozenset[str] = frozenset()


_CONTEXT, _INPUT = frozenset({"context"}), frozenset({"input"})
_TEXTS = {
    "context": _Rule(_CONTEXT),
    "acknowledgement": _Rule(),
    "answer": _Rule(_CONTEXT | _INPUT),
    "summary": _Rule(_CONTEXT, _INPUT),
}
_CLUES = {kind.value: _Rule(_INPUT) for kind in ClueKind} | {
    ClueKind.KEY_POINT.value: _Rule(allowed=_INPUT)
}


def read_prompts(directory: Path) -> PromptSet:
    """Prompts of a model directory; the built-in ones where it holds no such file.

    Raises InvalidArgument, whose field is the file's name and the path in it, as in
    ``memoserve_prompts.json: en.clues.span``.
    """
    raw = _read(directory / PROMPTS_FILE)
    if raw is None:
        return BUILT_IN
    languages = _object("", _parse(raw), ("en", "zh"))
    return PromptSet(
        en=_prompts("en", languages.get("en", {}), BUILT_IN.en),
        zh=_prompts("zh", languages.get("zh", {}), BUILT_IN.zh),
    )


def _prompts(at: str, value: object, built_in: Prompts) -> Prompts:
    given = _object(at, value, (*_TEXTS, "clues"))
    clues = _object(f"{at}.clues", given.get("clues", {}), _CLUES)
    texts = {
        name: _text(f"{at}.{name}", given[name], rule)
        for name, rule in _TEXTS.items()
        if name in given
    }
    own_clues = {
        ClueKind(kind): _text(f"{at}.clues.{kind}", clues[kind], rule)
        for kind, rule in _CLUES.items()
        if kind in clues
    }
    return replace(built_in, clues={**built_in.clues, **own_clues}, **texts)


def _read(path: Path) -> bytes | None:
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _wrong("", f"cannot be read: {error.strerror}") from error
    if len(raw) > MAX_BYTES:
        raise _wrong("", f"is longer than {MAX_BYTES} bytes")
    return raw


def _parse(raw: bytes) -> object:
    try:
        return json.loads(raw.decode(), object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        raise _wrong("", f"is not JSON: {error}") from error


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object whose keys differ: of two prompts of one name, one would be lost unseen."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise _wrong("", f"the key {twice!r} stands twice in one object")
    return found


def _object(at: str, value: object, known: Iterable[str]) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise _wrong(at, "is not an object")
    unknown = sorted(value.keys() - set(known))
    if unknown:
        path = f"{at}.{unknown[0]}" if at else unknown[0]
        raise _wrong(path, f"is not known; known: {', '.join(known)}")
    return value


def _text(at: str, value: object, rule: _Rule) -> str:
    if not isinstance(value, str):
        raise _wrong(at, "is not a string")
    if not value.strip():
        raise _wrong(at, "is empty")
    try:
        value.encode()
    except UnicodeEncodeError as error:  # JSON can write half of a surrogate pair
        raise _wrong(at, "is not text that UTF-8 can hold") from error
    for name in ("context", "input"):
        count, hole = value.count(f"{{{name}}}"), f"the placeholder {{{name}}}"
        if not count and name in rule.needed:
            raise _wrong(at, f"{hole} is missing")
        if count and name not in rule.needed | rule.allowed:
            raise _wrong(at, f"{hole} means nothing here")
        if count > 1:
            raise _wrong(at, f"{hole} stands there {count} times")
    return value


def _wrong(at: str, message: str) -> InvalidArgument:
    return InvalidArgument(f"{PROMPTS_FILE}: {at}" if at else PROMPTS_FILE, message)
