"""One committed version of a memory: opaque named parts and the manifest that lists them."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors

from memoserve.errors import FailedPrecondition, InvalidArgument
from memoserve.memory.documents import (
    JSON,
    DamagedDocument,
    decode_document,
    encode_document,
    freeze_mapping,
)
from memoserve.memory.names import MemoryName

MANIFEST_KIND = "manifest"

_DIGEST = re.compile(r"[0-9a-f]{64}")
_PART_NAME = re.compile(r"[A-Za-z0-9._/-]{1,200}")


@dataclass(frozen=True)
class PartRef:
    """A part of a version: its name there, sha256 in hexadecimal, size in bytes."""

    name: str
    digest: str
    size: int

    def __post_init__(self) -> None:
        check_part_name(self.name)
        if not _DIGEST.fullmatch(self.digest):
            raise ValueError(f"part {self.name}: digest must be 64 hexadecimal digits")
        if self.size < 0:
            raise ValueError(f"part {self.name}: size must not be negative")


@dataclass(frozen=True)
class VersionRecord:
    """A committed version. ``uid`` tells a memory from an earlier one of the same name.

    Version 0 is the memory before its first commit: no parts, no meta, no manifest.
    """

    name: MemoryName
    uid: str
    version: int
    created_unix_s: float
    meta: Mapping[str, JSON] = field(default_factory=lambda: MappingProxyType({}))
    parts: Mapping[str, PartRef] = field(default_factory=lambda: MappingProxyType({}))

    @property
    def digests(self) -> tuple[str, ...]:
        """Digest of every part, one entry a part."""
        return tuple(part.digest for part in self.parts.values())

    @property
    def stored_bytes(self) -> int:
        """Bytes of the distinct files this version names; other versions may share them."""
        return sum({part.digest: part.size for part in self.parts.values()}.values())


def check_part_name(name: str) -> None:
    """Raise InvalidArgument unless ``name`` is 1 to 200 of A-Z a-z 0-9 . _ / -."""
    if not _PART_NAME.fullmatch(name):
        raise InvalidArgument("part", "must be 1 to 200 characters of A-Z a-z 0-9 . _ / -")


def require_match(record: VersionRecord, expected: Mapping[str, str | None]) -> None:
    """Refuse a version whose meta differs from ``expected`` (fingerprints, dtype, shapes).

    None expects a key that is absent.

    Raises FailedPrecondition naming every key that differs, with both values.
    """
    differing = {
        key: f"{key}: stored {record.meta.get(key)!r}, expected {value!r}"
        for key, value in expected.items()
        if record.meta.get(key) != value
    }
    if differing:
        raise FailedPrecondition(
            str(record.name),
            f"memory {record.name} version {record.version} was made differently: "
            + "; ".join(differing.values()),
            reason="MEMORY_MISMATCH",
            differs=",".join(differing),
        )


def encode_manifest(record: VersionRecord) -> bytes:
    """Return the manifest file of a version."""
    parts: list[JSON] = [
        {"name": part.name, "sha256": part.digest, "size": part.size}
        for part in record.parts.values()
    ]
    return encode_document(
        MANIFEST_KIND,
        {
            "namespace": record.name.namespace,
            "memory_id": record.name.memory_id,
            "uid": record.uid,
            "version": record.version,
            "created_unix_s": record.created_unix_s,
            "meta": record.meta,
            "parts": parts,
        },
    )


def decode_manifest(data: bytes) -> VersionRecord:
    """Return the version a manifest describes. Raises DamagedDocument."""
    body = decode_document(MANIFEST_KIND, data)
    try:
        parts = [_decode_part(entry) for entry in body["parts"]]
        return VersionRecord(
            name=MemoryName(body["namespace"], body["memory_id"]),
            uid=body["uid"],
            version=body["version"],
            created_unix_s=body["created_unix_s"],
            meta=freeze_mapping(body["meta"]),
            parts=MappingProxyType({part.name: part for part in parts}),
        )
    except (KeyError, TypeError, ValueError, AttributeError, InvalidArgument) as error:
        raise DamagedDocument("the manifest lacks a field or holds a wrong one") from error


def digest_of(data: bytes | bytearray | memoryview) -> str:
    """Return the sha256 of ``data`` in hexadecimal, the name of a content-named file."""
    return hashlib.sha256(data).hexdigest()


def pack_tensors(tensors: Mapping[str, torch.Tensor]) -> bytes:
    """Return tensors of any dtype and device as safetensors bytes; equal tensors, equal bytes.

    A tensor that is a view is stored alone, without the storage behind it.
    """
    packed: dict[str, torch.Tensor] = {}
    storages: set[int] = set()
    for name, tensor in tensors.items():
        dense = tensor.detach().to("cpu").contiguous()
        if dense.untyped_storage().data_ptr() in storages:  # safetensors refuses shared storage
            dense = dense.clone()
        storages.add(dense.untyped_storage().data_ptr())
        packed[name] = dense
    return save_safetensors(packed)


def unpack_tensors(data: bytes) -> dict[str, torch.Tensor]:
    """Return the tensors of safetensors bytes, on the CPU. Raises ValueError for other bytes."""
    try:
        return load_safetensors(data)
    except SafetensorError as error:
        raise ValueError("not a safetensors file") from error


def _decode_part(entry: Mapping[str, Any]) -> PartRef:
    return PartRef(entry["name"], entry["sha256"], entry["size"])
