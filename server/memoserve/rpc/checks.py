"""Checks of single request values: every one is hostile until it has passed here.

Each takes the value's path in the request message first and raises InvalidArgument with it.
"""

from __future__ import annotations

import enum
import math
import re
from collections.abc import Collection, Mapping
from typing import TypeVar

from google.protobuf.internal.enum_type_wrapper import EnumTypeWrapper

from memoserve.errors import InvalidArgument
from memoserve.pipeline.api import MAX_LABELS

MAX_LABEL_KEY_CHARS = 63
MAX_LABEL_VALUE_CHARS = 256

_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}")

E = TypeVar("E", bound=enum.Enum)


def check_name(field: str, text: str) -> str:
    """Return one half of a memory's name, or raise."""
    if not _NAME.fullmatch(text):
        raise InvalidArgument(
            field, "must be 1 to 128 characters of A-Z a-z 0-9 . _ - and not start with a dot"
        )
    return text


def check_text(
    field: str, text: str, *, max_bytes: int | None = None, max_chars: int | None = None
) -> str:
    """Return text without NUL and within its limits; what protobuf calls a string is UTF-8."""
    if "\0" in text:
        raise InvalidArgument(field, "must not contain NUL", reason="NUL_IN_TEXT")
    if max_chars is not None and len(text) > max_chars:
        raise InvalidArgument(
            field, f"has {len(text)} characters, at most {max_chars}", reason="TOO_LONG"
        )
    if max_bytes is not None and (size := len(text.encode())) > max_bytes:
        raise InvalidArgument(
            field, f"has {size} bytes of UTF-8, at most {max_bytes}", reason="TOO_LONG"
        )
    return text


def decode_utf8(field: str, raw: bytes, *, max_bytes: int) -> str:
    """Return one whole piece of text; code points cut between pieces are refused by contract."""
    if len(raw) > max_bytes:
        raise InvalidArgument(
            field, f"has {len(raw)} bytes, at most {max_bytes}", reason="TOO_LONG"
        )
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        raise InvalidArgument(
            field,
            f"is not UTF-8 at byte {error.start} of this piece: {error.reason}",
            reason="NOT_UTF8",
        ) from None
    return check_text(field, text)


def check_number(
    field: str, value: float, *, above: float = -math.inf, low: float = -math.inf, high: float
) -> None:
    """Refuse a number outside ``above < value``, ``low <= value <= high``, NaN and infinities."""
    if math.isfinite(value) and value > above and low <= value <= high:
        return
    lower = f"above {above:g}" if math.isfinite(above) else f"at least {low:g}"
    upper = f" and at most {high:g}" if math.isfinite(high) else ""
    raise InvalidArgument(field, f"must be {lower}{upper}, not {value:g}", reason="OUT_OF_BOUNDS")


def check_count(field: str, values: Collection[object], most: int) -> None:
    """Refuse more than ``most`` values."""
    if len(values) > most:
        raise InvalidArgument(field, f"has {len(values)} values, at most {most}", reason="TOO_MANY")


def check_labels(field: str, labels: Mapping[str, str]) -> dict[str, str]:
    """Return labels within the contract's limits."""
    check_count(field, labels, MAX_LABELS)
    for key, value in labels.items():
        if not key:
            raise InvalidArgument(field, "has an empty key")
        check_text(field, key, max_chars=MAX_LABEL_KEY_CHARS)
        check_text(field, value, max_chars=MAX_LABEL_VALUE_CHARS)
    return dict(labels)


def read_enum(
    field: str,
    wrapper: EnumTypeWrapper,
    number: int,
    kind: type[E],
    prefix: str,
    default: E | None = None,
) -> E:
    """Return the member of ``kind`` whose name is the proto value's name without ``prefix``.

    The unspecified value takes ``default`` and is refused where there is none; proto3 lets any
    number through, and those the contract does not name are refused.
    """
    if number == 0 and default is not None:
        return default
    known = [member for member in kind if wrapper.Value(prefix + member.name) == number]
    if not known:
        names = ", ".join(prefix + member.name for member in kind)
        raise InvalidArgument(
            field, f"must be one of {names}, not {number}", reason="UNKNOWN_ENUM_VALUE"
        )
    return known[0]
