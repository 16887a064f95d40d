"""Memories as callers see them: what the catalog says, what a version holds, where it is."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from memoserve.errors import DataLoss
from memoserve.memory.catalog import MemoryRecord
from memoserve.memory.memory import pages_of
from memoserve.memory.names import MemoryName
from memoserve.memory.ratio import capacity, settle
from memoserve.memory.snapshot import VersionRecord
from memoserve.pipeline.contents import Contents, read_contents
from memoserve.pipeline.runtime import Runtime
from memoserve.pipeline.values import Language, MemoryStats, MemoryView, Tier


class Views:
    """Makes views from records; blocks on nothing."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._store = runtime.store

    def view(self, record: MemoryRecord, version: int | None = None) -> MemoryView:
        """A memory as callers see it, its newest version unless another is named."""
        number = record.version if version is None else version
        return self._view(record, number, *self._contents(record, number))

    def next_view(self, name: MemoryName, contents: Contents, stored_bytes: int) -> MemoryView:
        """A memory as it will be once a version that is about to be committed is there."""
        old = self._store.memory(name)
        new = replace(
            old,
            version=old.version + 1,
            revision=old.revision + 1,
            updated_unix_s=time.time(),
        )
        # A commit leaves the memory on the device.
        return replace(self._view(new, new.version, contents, stored_bytes), tier=Tier.DEVICE)

    def _view(
        self, record: MemoryRecord, number: int, contents: Contents | None, stored: int
    ) -> MemoryView:
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
            language=contents.language if contents else language_of(details),
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
        return settle(runtime.worker.rules, runtime.policy, requested=ratio_of(details)).ratios

    def _stats(self, contents: Contents, stored_bytes: int) -> MemoryStats:
        worker = self._runtime.worker
        memory_pages = pages_of(contents.state.memory_rows, worker.memory_page_size)
        window_pages = pages_of(contents.window_rows, worker.page_size)
        slots = memory_pages * worker.memory_page_size + window_pages * worker.page_size
        positions = self._runtime.model.rope.max_positions
        limits = [capacity(self._runtime.worker.rules, positions, r) for r in contents.ratios]
        return MemoryStats(
            raw_tokens=contents.tokens,
            memory_rows=contents.state.memory_rows,
            window_rows=contents.window_rows,
            windows_closed=contents.state.windows_closed,
            pages=memory_pages + window_pages,
            wasted_slots=slots - contents.state.memory_rows - contents.window_rows,
            kv_bytes=contents.kv_bytes,
            full_kv_bytes=contents.full_kv_bytes,
            stored_bytes=stored_bytes,
            text_bytes=contents.text_bytes,
            sources=contents.sources,
            passages=contents.passages,
            capacity_tokens=min(limits),
        )


def ratio_of(details: Mapping[str, Any]) -> int | None:
    """Ratio among the details of a memory."""
    ratio = details.get("ratio")
    return ratio if isinstance(ratio, int) else None


def language_of(details: Mapping[str, Any]) -> Language:
    """Language among the details of a memory."""
    return Language(details.get("language", Language.AUTO.value))


def _labels(value: object) -> dict[str, str]:
    return {str(k): str(v) for k, v in value.items()} if isinstance(value, Mapping) else {}
