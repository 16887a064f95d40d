"""Opening a store: read what is there, finish what a crash cut short, flag what is damaged.

Nothing damaged is removed or replaced by an older state: it is listed as damaged, and while
any manifest is unreadable no unreferenced file is removed, since it might be one of its parts.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace

from memoserve.memory.blobs import Blobs, DamagedBlob
from memoserve.memory.catalog import KeptVersion, MemoryRecord, decode_head
from memoserve.memory.documents import DamagedDocument
from memoserve.memory.durable import Hook, remove_dir_if_empty
from memoserve.memory.layout import Layout
from memoserve.memory.memory_dir import MemoryDir
from memoserve.memory.names import MemoryName, from_dir_name
from memoserve.memory.snapshot import VersionRecord, decode_manifest, digest_of

_LOG = logging.getLogger(__name__)


def recover(layout: Layout, blobs: Blobs, hook: Hook) -> list[MemoryRecord]:
    """Return every memory of a locked store and leave ``blobs`` with their references."""
    records = []
    for name in _names_on_disk(layout):
        record = _recover_memory(MemoryDir(layout, name, hook), name, blobs)
        if record is not None:
            records.append(record)
    for path in layout.memories_dir.iterdir():
        if path.is_dir():
            remove_dir_if_empty(path, hook)
    for record in records:
        for damage in record.damages:
            _LOG.error("memory %s is damaged: %s", record.name, damage)
    if all(_parts_known(record) for record in records):
        blobs.sweep()
    return records


def _names_on_disk(layout: Layout) -> Iterator[MemoryName]:
    for outer in sorted(path for path in layout.memories_dir.iterdir() if path.is_dir()):
        namespace = from_dir_name(outer.name)
        for inner in sorted(path for path in outer.iterdir() if path.is_dir()):
            memory_id = from_dir_name(inner.name)
            if namespace is None or memory_id is None:
                _LOG.warning("a directory that is no memory's is left alone: %s", inner)
                continue
            yield MemoryName(namespace, memory_id)


def _recover_memory(place: MemoryDir, name: MemoryName, blobs: Blobs) -> MemoryRecord | None:
    if place.is_buried() or not any(place.path.iterdir()):
        place.remove()
        return None
    try:
        head = _read_head(place, name)
    except DamagedDocument as error:
        return MemoryRecord(name, damage=str(error))
    numbers = {one.version for one in head.kept}
    for version in place.manifests():
        if version not in numbers:  # its commit was cut short, or its removal was
            place.drop_manifest(version)
    kept = tuple(_read_version(place, one, blobs) for one in head.kept)
    for one in kept:
        if one.record is not None:
            blobs.adopt(one.record.digests)
    return replace(head, kept=kept)


def _read_head(place: MemoryDir, name: MemoryName) -> MemoryRecord:
    try:
        head = decode_head(place.head.read_bytes())
    except OSError as error:
        raise DamagedDocument(f"the head cannot be read: {error.strerror}") from error
    if head.name != name:
        raise DamagedDocument(f"the head is that of {head.name}")
    return head


def _read_version(place: MemoryDir, kept: KeptVersion, blobs: Blobs) -> KeptVersion:
    try:
        record = _read_manifest(place, kept)
    except DamagedDocument as error:
        return replace(kept, damage=str(error))
    for part in record.parts.values():
        try:
            blobs.check(part)
        except DamagedBlob as error:
            return replace(kept, record=record, damage=f"part {part.name}: {error}")
    return replace(kept, record=record)


def _read_manifest(place: MemoryDir, kept: KeptVersion) -> VersionRecord:
    try:
        data = place.manifest(kept.version).read_bytes()
    except OSError as error:
        raise DamagedDocument(f"the manifest cannot be read: {error.strerror}") from error
    if digest_of(data) != kept.manifest_digest:
        raise DamagedDocument("the checksum of the manifest does not match")
    return decode_manifest(data)


def _parts_known(record: MemoryRecord) -> bool:
    return not record.damage and all(one.record is not None for one in record.kept)
