"""Names of memories, checked once, and their form as directory names."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Protocol

from memoserve.errors import InvalidArgument

MAX_NAME_CHARS = 128

_NAME = re.compile(rf"[A-Za-z0-9_-][A-Za-z0-9._-]{{0,{MAX_NAME_CHARS - 1}}}")


class Named(Protocol):
    """Anything that carries the two halves of a memory's name."""

    @property
    def namespace(self) -> str:
        """Tenant the memory belongs to."""

    @property
    def memory_id(self) -> str:
        """Name of the memory within its namespace."""


@dataclass(frozen=True, order=True)
class MemoryName:
    """A memory's full name; ``namespace`` isolates tenants.

    Each half is 1 to 128 characters of A-Z a-z 0-9 . _ - and does not start with a dot;
    anything else raises InvalidArgument naming the half.
    """

    namespace: str
    memory_id: str

    def __post_init__(self) -> None:
        check_name("namespace", self.namespace)
        check_name("memory_id", self.memory_id)

    @classmethod
    def of(cls, named: Named) -> MemoryName:
        """Return the checked name of anything that has one."""
        return named if isinstance(named, cls) else cls(named.namespace, named.memory_id)

    def __str__(self) -> str:
        return f"{self.namespace}/{self.memory_id}"


def check_name(field: str, text: str) -> None:
    """Raise InvalidArgument for ``field`` unless ``text`` may be half of a name."""
    if not _NAME.fullmatch(text):
        raise InvalidArgument(
            field,
            f"must be 1 to {MAX_NAME_CHARS} characters of A-Z a-z 0-9 . _ - "
            "and must not start with a dot",
        )


def to_dir_name(text: str) -> str:
    """Return a directory name that stays distinct where the file system ignores case.

    Lower case, then ``~`` and, in hexadecimal, which characters were upper case.
    """
    upper = sum(1 << place for place, char in enumerate(text) if char.isupper())
    return f"{text.lower()}~{upper:x}" if upper else text


def from_dir_name(directory: str) -> str | None:
    """Return the name ``to_dir_name`` was given, or None for a stranger's directory."""
    lower, _, mask = directory.partition("~")
    try:
        upper = int(mask, 16) if mask else 0
    except ValueError:
        return None
    text = "".join(char.upper() if upper >> place & 1 else char for place, char in enumerate(lower))
    known = _NAME.fullmatch(text) is not None and to_dir_name(text) == directory
    return text if known else None
