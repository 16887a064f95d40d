"""Memories by name: made, looked at, listed, removed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

from memoserve.errors import (
    Aborted,
    AlreadyExists,
    DataLoss,
    InvalidArgument,
    MemoserveError,
    NotFound,
)
from memoserve.memory.catalog import MAX_PAGE_SIZE, MemoryRecord
from memoserve.memory.names import MemoryName
from memoserve.memory.ratio import check_ratio
from memoserve.memory.staging import Writer
from memoserve.pipeline.api import MAX_LABELS
from memoserve.pipeline.receipts import from_receipt
from memoserve.pipeline.runtime import Runtime
from memoserve.pipeline.values import (
    Committed,
    CreateSpec,
    Language,
    MemorizeHeader,
    MemoryRef,
    MemoryView,
    Tier,
)
from memoserve.pipeline.views import Views, language_of, ratio_of

# Marks a memory that a Memorize made: it goes again if that call writes nothing.
IMPLICIT = "implicit"


class Catalog:
    """What callers see of the store. Methods that write block on the disk."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._store = runtime.store
        self.views = Views(runtime)

    # -- made and removed ------------------------------------------------------------------------

    def create(self, spec: CreateSpec) -> MemoryView:
        """Make a memory of version 0. Raises AlreadyExists, InvalidArgument."""
        _check_labels("labels", spec.labels)
        if spec.ratio is not None:
            check_ratio(self._runtime.worker.rules, spec.ratio)
        return self.views.view(self._create(spec, implicit=False))

    def _create(self, spec: CreateSpec, *, implicit: bool) -> MemoryRecord:
        details: dict[str, Any] = {
            "labels": dict(spec.labels),
            "description": spec.description,
            "language": spec.language.value,
            "ratio": spec.ratio,
            IMPLICIT: implicit,
        }
        return self._store.create(spec.name, details)

    def begin(self, header: MemorizeHeader) -> Writer:
        """Become the writer of the memory that a Memorize names, making it where it must.

        Give the writer to ``end``. Raises InvalidArgument, NotFound, Aborted, DataLoss.
        """
        if header.ratio is not None:
            check_ratio(self._runtime.worker.rules, header.ratio, "header.ratio")
        while True:
            self.ensure(header)
            # Who made it may have failed and taken it back since: then it is made again.
            with suppress(NotFound):
                return self._store.writer(header.name, expected_version=header.expected_version)

    def end(self, writer: Writer) -> None:
        """Let others write; first take back a memory that a Memorize made and left empty."""
        try:
            with suppress(MemoserveError):  # the next start takes it back
                record = self._store.memory(writer.name)
                if record.uid == writer.uid and _is_left_empty(record):
                    self._store.delete(writer.name)
        finally:
            writer.release()

    def ensure(self, header: MemorizeHeader) -> None:
        """Make the memory that a Memorize names, where it may and must.

        Raises NotFound, or Aborted where another version than 0 is expected of it.
        """
        if self._store.exists(header.name):
            return
        if not header.create_missing:
            raise NotFound("memory", str(header.name))
        if header.expected_version:
            raise Aborted(
                f"there is no memory {header.name} yet, so it is not at version "
                f"{header.expected_version}",
                reason="VERSION_MISMATCH",
                version=0,
            )
        spec = CreateSpec(header.name, ratio=header.ratio, language=header.language)
        # Where another writer is first the writer's lock decides between the two.
        with suppress(AlreadyExists):
            self._create(spec, implicit=True)

    def drop_leftovers(self) -> None:
        """At start, before anything is written: take back what a crash cut short."""
        for record in self._all():
            if _is_left_empty(record):
                with suppress(MemoserveError):
                    self._store.delete(record.name)

    def update(
        self,
        name: MemoryName,
        labels: Mapping[str, str] | None,
        description: str | None,
        etag: str,
    ) -> MemoryView:
        """Replace labels or description; None leaves them. Raises NotFound, Aborted."""
        changes: dict[str, Any] = {}
        if labels is not None:
            _check_labels("memory.labels", labels)
            changes["labels"] = dict(labels)
        if description is not None:
            changes["description"] = description
        while True:
            record = self._store.memory(name)
            details = {**record.details, **changes}
            try:
                expected = etag or record.etag
                return self.views.view(
                    self._store.update_details(name, details, expected_etag=expected)
                )
            except Aborted:
                if etag:
                    raise  # else another change came between: do it again on top of that

    def delete(self, name: MemoryName, etag: str) -> str:
        """Remove a memory; readers finish. Returns its uid.

        Raises NotFound, or Aborted for another etag and while the memory is written.
        """
        uid = self._store.memory(name).uid
        try:
            with self._store.writer(name):
                self._store.delete(name, expected_etag=etag)
        except DataLoss:  # damaged: nobody can write it
            self._store.delete(name, expected_etag=etag)
        return uid

    def count(self, tier: Tier) -> int:
        """Memories whose newest version is on a tier; may be asked from any thread."""
        residents = self._runtime.residents
        return sum(residents.tier(one.uid, one.version) is tier for one in self._all())

    def _all(self) -> Iterator[MemoryRecord]:
        token = ""
        while True:
            page = self._store.list_memories(page_size=MAX_PAGE_SIZE, page_token=token)
            yield from page.records
            token = page.next_page_token
            if not token:
                return

    # -- looked at -----------------------------------------------------------------------------

    def newest(self, name: MemoryName) -> MemoryRef:
        """The newest committed version."""
        return MemoryRef(name, self._store.memory(name).version)

    def created_ratio(self, name: MemoryName) -> int | None:
        """Ratio that CreateMemory settled, None where it named none or Memorize made the memory."""
        details = self._store.memory(name).details
        return None if details.get(IMPLICIT) is True else ratio_of(details)

    def created_language(self, name: MemoryName) -> Language:
        """Language that the memory was created with."""
        return language_of(self._store.memory(name).details)

    def replay(self, header: MemorizeHeader) -> Committed | None:
        """The first answer to a request_id that was committed before."""
        if not header.request_id or not self._store.exists(header.name):
            return None
        found = self._store.find_request(header.name, header.request_id)
        if found is None:
            return None
        return from_receipt(header.name, found.receipt)

    def get(self, ref: MemoryRef) -> MemoryView:
        """One memory, at a version. Raises NotFound, DataLoss."""
        self._store.get(ref.name, ref.version)
        return self.views.view(self._store.memory(ref.name), ref.version)

    def list(self, namespace: str, page_size: int, page_token: str) -> tuple[list[MemoryView], str]:
        """A page of memories in the order of their ids, and the token of the next."""
        page = self._store.list_memories(
            namespace=namespace, page_size=page_size, page_token=page_token
        )
        return [self.views.view(record) for record in page.records], page.next_page_token


def _is_left_empty(record: MemoryRecord) -> bool:
    """A Memorize made it, and nothing was committed."""
    return record.version == 0 and record.details.get(IMPLICIT) is True


def _check_labels(field: str, labels: Mapping[str, str]) -> None:
    if len(labels) > MAX_LABELS:
        raise InvalidArgument(field, f"at most {MAX_LABELS} labels are kept")
