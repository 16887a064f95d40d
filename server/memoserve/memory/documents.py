"""Small JSON files that notice damage to themselves, and JSON values that cannot change.

A document is one line of canonical JSON, ``{"body": ..., "kind": ..., "sha256": ...}``. Reading
encodes the parsed body again and compares every byte, so any flipped bit is found.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

JSON = None | bool | int | float | str | Mapping[str, "JSON"] | Sequence["JSON"]

_MAX_DEPTH = 32
_MAX_INT = 2**63


class DamagedDocument(Exception):
    """The bytes are not a whole document of the wanted kind; the text says what is wrong."""


def freeze(value: object, depth: int = 0) -> JSON:
    """Copy a JSON value into read-only mappings and tuples.

    Raises ValueError for what would not come back the same: other types, keys that are no
    strings, NaN and infinities, integers beyond 64 bits, nesting deeper than 32.
    """
    if depth > _MAX_DEPTH:
        raise ValueError(f"nested deeper than {_MAX_DEPTH}")
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, int):
        if not -_MAX_INT <= value < _MAX_INT:
            raise ValueError("integer beyond 64 bits")
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"{value} is no JSON number")
        return value
    if isinstance(value, Mapping):
        return freeze_mapping(value, depth)
    if isinstance(value, list | tuple):
        return tuple(freeze(item, depth + 1) for item in value)
    raise ValueError(f"{type(value).__name__} is no JSON value")


def freeze_mapping(value: Mapping[Any, object], depth: int = 0) -> Mapping[str, JSON]:
    """Copy a JSON object as ``freeze`` does."""
    if not all(isinstance(key, str) for key in value):
        raise ValueError("keys must be strings")
    return MappingProxyType({key: freeze(item, depth + 1) for key, item in value.items()})


def encode_document(kind: str, body: Mapping[str, JSON]) -> bytes:
    """Return the bytes of a document; equal bodies give equal bytes."""
    inner = _canonical(body)
    digest = hashlib.sha256(f"{kind}\n{inner}".encode()).hexdigest()
    return (_canonical({"body": body, "kind": kind, "sha256": digest}) + "\n").encode()


def decode_document(kind: str, data: bytes) -> Mapping[str, Any]:
    """Return the body, frozen. Raises DamagedDocument."""
    try:
        outer = json.loads(data)
        body = freeze_mapping(outer["body"])
        whole = outer["kind"] == kind and encode_document(kind, body) == data
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DamagedDocument(f"not a {kind} document") from error
    if not whole:
        raise DamagedDocument(f"the checksum of the {kind} document does not match")
    return body


def _canonical(value: JSON) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False, default=_plain)


def _plain(value: object) -> object:
    if isinstance(value, Mapping):  # json knows dict only, not the read-only view of one
        return dict(value)
    raise ValueError(f"{type(value).__name__} is no JSON value")
