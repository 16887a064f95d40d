"""Changes of the catalog, on disk first: create, update, commit, delete."""

from __future__ import annotations

import logging
import secrets
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from types import MappingProxyType

from memoserve.errors import (
    Aborted,
    AlreadyExists,
    DataLoss,
    InvalidArgument,
    NotFound,
    Unavailable,
)
from memoserve.memory.blobs import Blobs
from memoserve.memory.catalog import (
    Catalog,
    CommittedRequest,
    KeptVersion,
    MemoryRecord,
    encode_head,
)
from memoserve.memory.documents import JSON, freeze_mapping
from memoserve.memory.durable import Hook, storage_errors
from memoserve.memory.layout import Layout
from memoserve.memory.memory_dir import MemoryDir
from memoserve.memory.names import MemoryName
from memoserve.memory.snapshot import PartRef, VersionRecord, digest_of, encode_manifest
from memoserve.memory.staging import Writer

MAX_REQUESTS_KEPT = 16
MAX_REQUEST_ID_CHARS = 128

_LOG = logging.getLogger(__name__)


class Ledger:
    """One change at a time, each of a few small files; the catalog follows the disk.

    When a step fails after the head was renamed, the change is kept, because a reopened store
    would see it, and the error is raised, because a loss of power could still undo it.
    """

    def __init__(
        self,
        layout: Layout,
        blobs: Blobs,
        catalog: Catalog,
        *,
        keep_versions: int,
        clock: Callable[[], float],
        hook: Hook,
    ) -> None:
        self._layout = layout
        self._blobs = blobs
        self._catalog = catalog
        self._keep_versions = keep_versions
        self._clock = clock
        self._hook = hook
        self._lock = threading.Lock()
        self._closed = False

    def require(self, name: MemoryName) -> MemoryRecord:
        """Return a memory's record. Raises NotFound."""
        record = self._catalog.get(name)
        if record is None:
            raise NotFound("memory", str(name))
        return record

    def require_sound(self, name: MemoryName) -> MemoryRecord:
        """Return the record of a memory whose head is readable. Raises NotFound, DataLoss."""
        record = self.require(name)
        if record.damage:
            raise DataLoss(f"memory {name}: {record.damage}", memory=name)
        return record

    def create(self, name: MemoryName, details: Mapping[str, JSON]) -> MemoryRecord:
        """Make a memory of version 0. Raises AlreadyExists."""
        frozen = freeze_mapping(details)
        with self._lock:
            self._require_open()
            if self._catalog.get(name) is not None:
                raise AlreadyExists("memory", str(name))
            now = self._clock()
            record = MemoryRecord(name, secrets.token_hex(8), 1, now, now, frozen)
            place = self._place(name)
            with storage_errors(f"creating memory {name}"):
                place.make()
                self._publish(place, record)
            return record

    def update_details(
        self, name: MemoryName, details: Mapping[str, JSON], expected_etag: str
    ) -> MemoryRecord:
        """Replace the details. Raises NotFound, DataLoss, Aborted for another etag."""
        frozen = freeze_mapping(details)
        with self._lock:
            self._require_open()
            old = self.require_sound(name)
            _require_etag(old, expected_etag)
            new = replace(
                old,
                details=frozen,
                revision=old.revision + 1,
                updated_unix_s=self._clock(),
            )
            with storage_errors(f"updating memory {name}"):
                self._publish(self._place(name), new)
            return new

    def delete(self, name: MemoryName, expected_etag: str) -> None:
        """Remove a memory, damaged or not; files stay while readers hold them."""
        with self._lock:
            self._require_open()
            record = self.require(name)
            _require_etag(record, expected_etag)
            place = self._place(name)
            with storage_errors(f"deleting memory {name}"):
                try:
                    place.bury()
                except Exception:
                    if place.is_buried():
                        self._catalog.remove(name)
                    raise
            self._catalog.remove(name)
            _tidy(place.remove)
            for kept in record.kept:
                self._release(kept)

    def commit(
        self,
        writer: Writer,
        parts: Mapping[str, PartRef],
        meta: Mapping[str, JSON],
        request: CommittedRequest | None,
    ) -> VersionRecord:
        """Make staged parts the next version; see ``Staging.commit``."""
        name = writer.name
        record = VersionRecord(
            name=name,
            uid=writer.uid,
            version=writer.version + 1,
            created_unix_s=self._clock(),
            meta=freeze_mapping(meta),
            parts=MappingProxyType(dict(parts)),
        )
        with storage_errors(f"committing memory {name}"):
            self._blobs.sync(record.digests)
            with self._lock:
                self._require_open()
                old = self._base_of(writer, request)
                self._commit_locked(old, record, request)
                writer.version = record.version
        return record

    def close(self) -> None:
        """Refuse changes from now on."""
        with self._lock:
            self._closed = True

    def _commit_locked(
        self, old: MemoryRecord, record: VersionRecord, request: CommittedRequest | None
    ) -> None:
        manifest = encode_manifest(record)
        kept = KeptVersion(record.version, digest_of(manifest), record)
        new = self._successor(old, kept, request)
        place = self._place(old.name)
        self._blobs.adopt(record.digests)
        try:
            place.write_manifest(record.version, manifest)
            self._publish(place, new)
        except Exception:
            if self._catalog.get(old.name) is not new:
                _tidy(partial(place.drop_manifest, record.version))
                self._blobs.release(record.digests)
            raise
        for dropped in old.kept[: len(old.kept) + 1 - len(new.kept)]:
            _tidy(partial(place.drop_manifest, dropped.version))
            self._release(dropped)

    def _base_of(self, writer: Writer, request: CommittedRequest | None) -> MemoryRecord:
        old = self.require_sound(writer.name)
        if (old.uid, old.version) != (writer.uid, writer.version):
            raise Aborted(
                f"memory {old.name} is at version {old.version}, not {writer.version}, "
                "or was made anew",
                reason="VERSION_MISMATCH",
                version=old.version,
            )
        if request is not None:
            _check_request(old, request)
        return old

    def _successor(
        self, old: MemoryRecord, kept: KeptVersion, request: CommittedRequest | None
    ) -> MemoryRecord:
        requests = old.requests
        if request is not None:
            frozen = replace(request, receipt=freeze_mapping(request.receipt))
            requests = (*requests, frozen)[-MAX_REQUESTS_KEPT:]
        return replace(
            old,
            version=kept.version,
            kept=(*old.kept, kept)[-self._keep_versions :],
            requests=requests,
            revision=old.revision + 1,
            updated_unix_s=self._clock(),
        )

    def _publish(self, place: MemoryDir, record: MemoryRecord) -> None:
        data = encode_head(record)
        try:
            place.write_head(data)
        except Exception:
            if place.head_is(data):
                self._catalog.put(record)
            raise
        self._catalog.put(record)

    def _release(self, kept: KeptVersion) -> None:
        if kept.record is not None:
            self._blobs.release(kept.record.digests)

    def _place(self, name: MemoryName) -> MemoryDir:
        return MemoryDir(self._layout, name, self._hook)

    def _require_open(self) -> None:
        if self._closed:
            raise Unavailable("the store is closed", reason="STORE_CLOSED")


def _require_etag(record: MemoryRecord, expected: str) -> None:
    if expected and expected != record.etag:
        raise Aborted(
            f"memory {record.name} has changed: its etag is {record.etag}",
            reason="ETAG_MISMATCH",
            etag=record.etag,
        )


def _check_request(record: MemoryRecord, request: CommittedRequest) -> None:
    if len(request.request_id) > MAX_REQUEST_ID_CHARS:
        raise InvalidArgument("request_id", f"is longer than {MAX_REQUEST_ID_CHARS} characters")
    if any(one.request_id == request.request_id for one in record.requests):
        raise Aborted(
            f"request {request.request_id} was committed to memory {record.name} before",
            reason="REQUEST_COMMITTED",
        )


def _tidy(remove: Callable[[], None]) -> None:
    try:
        remove()
    except OSError as error:
        # What is left is removed at the next open; the change itself is done.
        _LOG.warning("files that are no longer used could not be removed: %s", error.strerror)
