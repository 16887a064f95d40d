"""What memories there are: frozen records behind a lock, readable from any thread."""

from __future__ import annotations

import base64
import binascii
import bisect
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from memoserve.errors import InvalidArgument
from memoserve.memory.documents import (
    JSON,
    DamagedDocument,
    decode_document,
    encode_document,
    freeze_mapping,
)
from memoserve.memory.names import MemoryName, check_name
from memoserve.memory.snapshot import VersionRecord

HEAD_KIND = "head"
MAX_PAGE_SIZE = 1000


@dataclass(frozen=True)
class KeptVersion:
    """A version the head names, by number and sha256 of its manifest file.

    ``record`` is None where the manifest cannot be read; ``damage`` says what is wrong, else "".
    """

    version: int
    manifest_digest: str
    record: VersionRecord | None = None
    damage: str = ""


@dataclass(frozen=True)
class CommittedRequest:
    """A request id that was committed, as which version, and what its caller was told."""

    request_id: str
    version: int
    receipt: Mapping[str, JSON]


@dataclass(frozen=True)
class MemoryRecord:
    """What a memory is now. ``version`` 0 was never written.

    ``uid`` differs when a name is used again after a delete; ``revision`` grows with every
    change, commits included. ``details`` are the caller's (labels, description ...).
    ``kept`` runs from old to new. ``damage`` tells of an unreadable head, else "".
    """

    name: MemoryName
    uid: str = ""
    revision: int = 0
    created_unix_s: float = 0.0
    updated_unix_s: float = 0.0
    details: Mapping[str, JSON] = field(default_factory=lambda: MappingProxyType({}))
    version: int = 0
    kept: tuple[KeptVersion, ...] = ()
    requests: tuple[CommittedRequest, ...] = ()
    damage: str = ""

    @property
    def etag(self) -> str:
        """Changes whenever anything about the memory does."""
        return f"{self.uid}.{self.revision}"

    @property
    def damages(self) -> tuple[str, ...]:
        """All that was found damaged, one line each; empty for a sound memory."""
        versions = (f"version {one.version}: {one.damage}" for one in self.kept if one.damage)
        return (*([self.damage] if self.damage else []), *versions)


@dataclass(frozen=True)
class Page:
    """A piece of a list; an empty ``next_page_token`` ends it."""

    records: tuple[MemoryRecord, ...]
    next_page_token: str


def encode_head(record: MemoryRecord) -> bytes:
    """Return the head file of a memory."""
    kept: list[JSON] = [
        {"version": one.version, "sha256": one.manifest_digest} for one in record.kept
    ]
    requests: list[JSON] = [
        {"request_id": one.request_id, "version": one.version, "receipt": one.receipt}
        for one in record.requests
    ]
    return encode_document(
        HEAD_KIND,
        {
            "namespace": record.name.namespace,
            "memory_id": record.name.memory_id,
            "uid": record.uid,
            "revision": record.revision,
            "created_unix_s": record.created_unix_s,
            "updated_unix_s": record.updated_unix_s,
            "details": record.details,
            "version": record.version,
            "kept": kept,
            "requests": requests,
        },
    )


def decode_head(data: bytes) -> MemoryRecord:
    """Return the memory a head describes, its manifests unread. Raises DamagedDocument."""
    body = decode_document(HEAD_KIND, data)
    try:
        return MemoryRecord(
            name=MemoryName(body["namespace"], body["memory_id"]),
            uid=body["uid"],
            revision=body["revision"],
            created_unix_s=body["created_unix_s"],
            updated_unix_s=body["updated_unix_s"],
            details=freeze_mapping(body["details"]),
            version=body["version"],
            kept=tuple(KeptVersion(one["version"], one["sha256"]) for one in body["kept"]),
            requests=tuple(_decode_request(one) for one in body["requests"]),
        )
    except (KeyError, TypeError, ValueError, AttributeError, InvalidArgument) as error:
        raise DamagedDocument("the head lacks a field or holds a wrong one") from error


def _decode_request(body: Mapping[str, Any]) -> CommittedRequest:
    return CommittedRequest(body["request_id"], body["version"], freeze_mapping(body["receipt"]))


class Catalog:
    """Records by name, in the order of namespace, then id."""

    def __init__(self, records: Iterable[MemoryRecord]) -> None:
        self._lock = threading.Lock()
        self._records = {record.name: record for record in records}
        self._order = sorted(self._records)

    def get(self, name: MemoryName) -> MemoryRecord | None:
        """Return the record of a memory, or None."""
        with self._lock:
            return self._records.get(name)

    def put(self, record: MemoryRecord) -> None:
        """Add or replace a record."""
        with self._lock:
            if record.name not in self._records:
                bisect.insort(self._order, record.name)
            self._records[record.name] = record

    def remove(self, name: MemoryName) -> None:
        """Forget a record that is there."""
        with self._lock:
            del self._records[name]
            del self._order[bisect.bisect_left(self._order, name)]

    def page(self, namespace: str | None, page_size: int, page_token: str) -> Page:
        """Return up to ``page_size`` (1 to 1000) records after the one the token names.

        ``namespace`` None lists all. A token stays good while memories come and go.
        """
        if not 1 <= page_size <= MAX_PAGE_SIZE:
            raise InvalidArgument("page_size", f"must be 1 to {MAX_PAGE_SIZE}")
        after = _decode_token(page_token, namespace) if page_token else None
        with self._lock:
            start, end = self._span(namespace)
            if after is not None:
                start = bisect.bisect_right(self._order, after)
            names = self._order[start : min(end, start + page_size)]
            records = tuple(self._records[name] for name in names)
            more = bool(names) and start + page_size < end
        return Page(records, _encode_token(names[-1]) if more else "")

    def _span(self, namespace: str | None) -> tuple[int, int]:
        if namespace is None:
            return 0, len(self._order)
        check_name("namespace", namespace)
        start = bisect.bisect_left(self._order, namespace, key=lambda name: name.namespace)
        end = bisect.bisect_right(self._order, namespace, key=lambda name: name.namespace)
        return start, end


def _encode_token(last: MemoryName) -> str:
    return base64.urlsafe_b64encode(str(last).encode()).decode()


def _decode_token(token: str, namespace: str | None) -> MemoryName:
    try:
        text = base64.b64decode(token.encode("ascii"), altchars=b"-_", validate=True)
        name = MemoryName(*text.decode("ascii").split("/"))
        if namespace in (None, name.namespace):
            return name
    except (ValueError, TypeError, binascii.Error, InvalidArgument):
        pass
    raise InvalidArgument("page_token", "not a token that this list gave out")
