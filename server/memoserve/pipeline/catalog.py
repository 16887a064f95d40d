"""Memories by name: made, looked at, listed, removed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

from memoserve.errors import Aborted, AlreadyExists, DataLoss, InvalidArgument, NotFound
from memoserve.memory.catalog import MAX_PAGE_SIZE, MemoryRecord
from memoserve.memory.memory import pages_of
from memoserve.memory.names import MemoryName
from memoserve.memory.ratio import capacity, check_ratio, settle
from memoserve.memory.snapshot import VersionRecord
from memoserve.pipeline.contents import Contents, read_contents
from memoserve.pipeline.runtime import Runtime
from memoserve.pipeline.values import (
    Committed,
    CreateSpec,
    Language,
    MemorizeHeader,
    MemoryRef,
    MemoryStats,
    MemoryView,
    Tier,
)

MAX_LABELS = 64
# Marks a memory that a Memorize made: it goes again if that call writes nothing.
IMPLICIT = "implicit"


class Catalog:
    """What callers see of the store. Methods that write block on the disk."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._store = runtime.store

    # -- made and removed ------------------------------------------------------------------------

    def create(self, spec: CreateSpec) -> MemoryView:
        """Make a memory of version 0. Raises AlreadyExists, InvalidArgument."""
        _check_labels(spec.labels)
        return self.view(self._create(spec, implicit=False))

    def _create(self, spec: CreateSpec, *, implicit: bool) -> MemoryRecord:
        if spec.ratio is not None:
            check_ratio(self._runtime.worker.rules, spec.ratio)
        details: dict[str, Any] = {
            "labels": dict(spec.labels),
            "description": spec.description,
            "language": spec.language.value,
            "ratio": spec.ratio,
            IMPLICIT: implicit,
        }
        return self._store.create(spec.name, details)

    def ensure(self, header: MemorizeHeader) -> None:
        """Make the memory that a Memorize names, where it may and must. Raises NotFound."""
        if self._store.exists(header.name):
            return
        if not header.create_missing:
            raise NotFound("memory", str(header.name))
        spec = CreateSpec(header.name, ratio=header.ratio, language=header.language)
        # Where another writer is first the writer's lock decides between the two.
        with suppress(AlreadyExists):
            self._create(spec, implicit=True)

    def drop_unwritten(self, name: MemoryName) -> None:
        """Take back a memory that Memorize made, where nothing was and nothing is being written."""
        with suppress(NotFound, Aborted, DataLoss):
            record = self._store.memory(name)
            if record.version == 0 and record.details.get(IMPLICIT) is True:
                with self._store.writer(name, expected_version=0):
                    self._store.delete(name)

    def drop_leftovers(self) -> None:
        """At start: take back what calls made that a crash cut short."""
        for record in self._all():
            self.drop_unwritten(record.name)

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
            _check_labels(labels)
            changes["labels"] = dict(labels)
        if description is not None:
            changes["description"] = description
        while True:
            record = self._store.memory(name)
            details = {**record.details, **changes}
            try:
                expected = etag or record.etag
                return self.view(self._store.update_details(name, details, expected_etag=expected))
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
        """Ratio that the memory was created with, None where none was named."""
        return _ratio(self._store.memory(name).details)

    def created_language(self, name: MemoryName) -> Language:
        """Language that the memory was created with."""
        return _language(self._store.memory(name).details)

    def replay(self, header: MemorizeHeader) -> Committed | None:
        """The first answer to a request_id that was committed before."""
        if not header.request_id or not self._store.exists(header.name):
            return None
        found = self._store.find_request(header.name, header.request_id)
        if found is None:
            return None
        view = self.view(self._store.memory(header.name), found.version)
        added = found.receipt.get("tokens_added")
        return Committed(view, 0.0, added if isinstance(added, int) else 0, replayed=True)

    def get(self, ref: MemoryRef) -> MemoryView:
        """One memory, at a version. Raises NotFound, DataLoss."""
        self._store.get(ref.name, ref.version)
        return self.view(self._store.memory(ref.name), ref.version)

    def list(self, namespace: str, page_size: int, page_token: str) -> tuple[list[MemoryView], str]:
        """A page of memories in the order of their ids, and the token of the next."""
        page = self._store.list_memories(
            namespace=namespace, page_size=page_size, page_token=page_token
        )
        return [self.view(record) for record in page.records], page.next_page_token

    def view(self, record: MemoryRecord, version: int | None = None) -> MemoryView:
        """A memory as callers see it, its newest version unless another is named."""
        number = record.version if version is None else version
        contents, stored = self._contents(record, number)
        details = record.details
        labels, ratios = details.get("labels"), self._ratios(contents, details)
        return MemoryView(
            name=record.name,
            version=number,
            etag=record.etag,
            model=contents.model if contents else self._runtime.model_info.name,
            ratio=ratios[0],
            ratios=ratios,
            window=self._runtime.worker.rules.window,
            language=contents.language if contents else _language(details),
            labels=_labels(labels),
            description=str(details.get("description", "")),
            created_unix_s=record.created_unix_s,
            updated_unix_s=record.updated_unix_s,
            tier=self._runtime.residents.tier(record.uid, number) if contents else Tier.COLD,
            pinned=False,
            stats=self._stats(contents, stored) if contents else MemoryStats(),
        )

    def _contents(self, record: MemoryRecord, number: int) -> tuple[Contents | None, int]:
        if number == 0:
            return None, 0
        kept: VersionRecord | None = next(
            (one.record for one in record.kept if one.version == number), None
        )
        if kept is None:
            return None, 0
        try:
            return read_contents(kept), kept.stored_bytes
        except DataLoss:
            return None, kept.stored_bytes  # listed all the same; a query says what is wrong

    def _ratios(self, contents: Contents | None, details: Mapping[str, Any]) -> tuple[int, ...]:
        if contents:
            return contents.ratios
        runtime = self._runtime
        return settle(runtime.worker.rules, runtime.policy, requested=_ratio(details)).ratios

    def _stats(self, contents: Contents, stored_bytes: int) -> MemoryStats:
        size = self._runtime.worker.page_size
        pages = [pages_of(n, size) for n in (contents.state.memory_rows, contents.window_rows)]
        rows = contents.state.memory_rows + contents.window_rows
        positions = self._runtime.model.rope.max_positions
        limits = [capacity(self._runtime.worker.rules, positions, r) for r in contents.ratios]
        return MemoryStats(
            raw_tokens=contents.tokens,
            memory_rows=contents.state.memory_rows,
            window_rows=contents.window_rows,
            windows_closed=contents.state.windows_closed,
            pages=sum(pages),
            wasted_slots=sum(pages) * size - rows,
            kv_bytes=contents.kv_bytes,
            full_kv_bytes=contents.full_kv_bytes,
            stored_bytes=stored_bytes,
            text_bytes=contents.text_bytes,
            sources=contents.sources,
            passages=contents.passages,
            capacity_tokens=min(limits),
        )


def _check_labels(labels: Mapping[str, str]) -> None:
    if len(labels) > MAX_LABELS:
        raise InvalidArgument("labels", f"at most {MAX_LABELS} labels are kept")


def _ratio(details: Mapping[str, Any]) -> int | None:
    ratio = details.get("ratio")
    return ratio if isinstance(ratio, int) else None


def _language(details: Mapping[str, Any]) -> Language:
    return Language(details.get("language", Language.AUTO.value))


def _labels(value: object) -> dict[str, str]:
    return {str(k): str(v) for k, v in value.items()} if isinstance(value, Mapping) else {}
