"""The store's doors: names, catalog, versions, parts, requests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from memoserve.errors import (
    Aborted,
    AlreadyExists,
    DataLoss,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    Unavailable,
)
from memoserve.memory.names import MemoryName, from_dir_name, to_dir_name
from memoserve.memory.snapshot import PartRef, VersionRecord, require_match
from memoserve.memory.store import Store

NAME = MemoryName("tenant", "Book.1")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "store") as opened:
        yield opened


def commit(store: Store, name: MemoryName, **parts: bytes) -> VersionRecord:
    with store.writer(name) as writer, writer.stage() as staging:
        for part, data in parts.items():
            staging.write_bytes(part, data)
        return staging.commit({"parts": len(parts)})


def files(root: Path) -> list[str]:
    return sorted(path.name for path in (root / "files").rglob("*") if path.is_file())


def test_a_memory_is_created_empty_and_survives_reopening(store: Store, tmp_path: Path) -> None:
    created = store.create(NAME, {"labels": {"a": "ü\u2028"}, "n": [1, 2.5, None, True]})
    assert (created.version, store.get(NAME).version, store.get(NAME).parts) == (0, 0, {})
    store.close()
    with Store.open(tmp_path / "store") as again:
        assert again.memory(NAME) == created
        assert again.exists(NAME)
        assert not again.exists(MemoryName("tenant", "book.1"))
        with pytest.raises(AlreadyExists):
            again.create(NAME)


def test_a_committed_version_comes_back_equal(store: Store, tmp_path: Path) -> None:
    store.create(NAME)
    version = commit(store, NAME, text=b"\x00\xff" * 500, empty=b"")
    assert version.version == 1
    assert version.stored_bytes == 1000
    store.close()
    with Store.open(tmp_path / "store") as again:
        assert again.get(NAME) == again.get(NAME, 1) == version
        assert again.load(version, "text") == b"\x00\xff" * 500
        assert again.load(version, "empty") == b""
        with pytest.raises(NotFound, match="absent"):
            again.load(version, "absent")
        with pytest.raises(NotFound, match="@0"):
            again.get(NAME, 0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64, torch.int64])
def test_tensors_come_back_bit_for_bit(store: Store, dtype: torch.dtype) -> None:
    pool = torch.arange(240).reshape(4, 5, 12).to(dtype) / 7
    pool = pool.to(dtype)
    tensors = {
        "whole": pool,
        "again": pool,
        "slice": pool[1:3, :, 2:5],
        "turned": pool.transpose(0, 2),
        "none": pool[:0],
        "scalar": pool[0, 0, 1],
    }
    store.create(NAME)
    with store.writer(NAME) as writer, writer.stage() as staging:
        ref = staging.write_tensors("kv", tensors)
        version = staging.commit({})
    loaded = store.load_tensors(version, "kv")
    assert loaded.keys() == tensors.keys()
    for key, tensor in tensors.items():
        assert loaded[key].dtype == dtype
        assert torch.equal(loaded[key], tensor), key
    assert ref.size < 4 * pool.nbytes + 1000  # a slice is stored without the pool behind it


@pytest.mark.parametrize("rows", [slice(0, 2), slice(3, 5), slice(0, 100, 50)])
def test_a_view_is_stored_without_the_pool_behind_it(store: Store, rows: slice) -> None:
    pool = torch.arange(100 * 64, dtype=torch.float32).reshape(100, 64)
    store.create(NAME)
    with store.writer(NAME) as writer, writer.stage() as staging:
        ref = staging.write_tensors("kv", {"view": pool[rows]})
        version = staging.commit({})
    assert ref.size < 2 * 64 * 4 + 200
    assert torch.equal(store.load_tensors(version, "kv")["view"], pool[rows])


def test_bytes_that_are_no_tensors_are_refused_as_tensors(store: Store) -> None:
    store.create(NAME)
    version = commit(store, NAME, text=b"plain")
    with pytest.raises(DataLoss, match="text: not a safetensors file"):
        store.load_tensors(version, "text")


def test_an_append_writes_only_what_is_new(store: Store, tmp_path: Path) -> None:
    store.create(NAME)
    first = commit(store, NAME, kv0=b"k" * 4096, tail=b"old")
    before = files(tmp_path / "store")
    with store.writer(NAME) as writer, writer.stage() as staging:
        staging.keep(first.parts["kv0"])
        staging.keep(first.parts["kv0"], "kv0.copy")
        staging.write_bytes("tail", b"new")
        second = staging.commit({})
    added = set(files(tmp_path / "store")) - set(before)
    assert added == {second.parts["tail"].digest}
    assert second.parts["kv0.copy"].digest == first.parts["kv0"].digest
    assert store.load(second, "kv0.copy") == b"k" * 4096


@pytest.mark.parametrize("keep_versions", [1, 2, 4])
def test_the_newest_versions_are_kept(tmp_path: Path, keep_versions: int) -> None:
    with Store.open(tmp_path, keep_versions=keep_versions) as store:
        store.create(NAME)
        versions = [commit(store, NAME, part=b"%d" % number) for number in range(6)]
        for version in versions[-keep_versions:]:
            assert store.get(NAME, version.version) == version
        for version in versions[:-keep_versions]:
            with pytest.raises(NotFound, match=f"@{version.version}"):
                store.get(NAME, version.version)
            with pytest.raises(NotFound):
                store.load(version, "part")
        kept = [version.parts["part"].digest for version in versions[-keep_versions:]]
        assert files(tmp_path) == sorted(kept)


def test_an_abort_leaves_no_trace(store: Store, tmp_path: Path) -> None:
    store.create(NAME)
    commit(store, NAME, part=b"kept")
    before = sorted(path for path in (tmp_path / "store").rglob("*") if path.is_file())
    with (
        pytest.raises(ZeroDivisionError),
        store.writer(NAME) as writer,
        writer.stage() as staging,
    ):
        staging.write_bytes("part", b"kept")
        staging.write_bytes("more", b"not kept")
        raise ZeroDivisionError
    assert sorted(path for path in (tmp_path / "store").rglob("*") if path.is_file()) == before
    assert store.load(store.get(NAME), "part") == b"kept"
    with pytest.raises(RuntimeError, match="over"):
        staging.write_bytes("late", b"")


def test_a_staging_takes_each_part_once_and_commits_once(store: Store) -> None:
    store.create(NAME)
    with store.writer(NAME) as writer, writer.stage() as staging:
        kept = staging.write_bytes("part", b"1")
        with pytest.raises(ValueError, match="before"):
            staging.write_bytes("part", b"2")
        with pytest.raises(ValueError, match="before"):
            staging.keep(kept, "part")
        with pytest.raises(InvalidArgument, match="part"):
            staging.write_bytes("no good", b"")
        with pytest.raises(NotFound, match="gone"):
            staging.keep(PartRef("gone", "0" * 64, 1))
        staging.commit({})
        with pytest.raises(RuntimeError, match="over"):
            staging.commit({})


@pytest.mark.parametrize("meta", [{"x": float("nan")}, {"x": 2**63}, {"x": b""}, {"x": {1: 2}}])
def test_meta_that_would_not_come_back_is_refused(store: Store, meta: dict[str, object]) -> None:
    store.create(NAME)
    with store.writer(NAME) as writer, writer.stage() as staging:
        staging.write_bytes("part", b"1")
        with pytest.raises(ValueError):
            staging.commit(meta)  # type: ignore[arg-type]  # the point of the test
    assert store.memory(NAME).version == 0


def test_records_cannot_be_changed_by_their_readers(store: Store) -> None:
    details = {"labels": {"a": "b"}}
    store.create(NAME, details)
    details["labels"]["a"] = "changed"
    labels = store.memory(NAME).details["labels"]
    assert labels == {"a": "b"}
    with pytest.raises(TypeError):
        labels["a"] = "changed"  # type: ignore[index]  # the point of the test


def test_details_change_without_a_new_version(store: Store, tmp_path: Path) -> None:
    old = store.create(NAME, {"labels": {}})
    version = commit(store, NAME, part=b"1")
    tag = store.memory(NAME).etag
    assert tag != old.etag
    with pytest.raises(Aborted, match="etag"):
        store.update_details(NAME, {"labels": {"no": ""}}, expected_etag=old.etag)
    new = store.update_details(NAME, {"labels": {"x": "y"}}, expected_etag=tag)
    assert (new.version, new.details) == (1, {"labels": {"x": "y"}})
    assert new.etag != tag
    with pytest.raises(Aborted, match="etag"):
        store.delete(NAME, expected_etag=tag)
    store.close()
    with Store.open(tmp_path / "store") as again:
        assert again.memory(NAME) == new
        assert again.get(NAME) == version


def test_a_deleted_memory_is_gone_with_its_files(store: Store, tmp_path: Path) -> None:
    old = store.create(NAME)
    commit(store, NAME, part=b"1")
    store.delete(NAME)
    for call in (store.memory, store.get, store.delete, store.writer):
        with pytest.raises(NotFound, match=r"tenant/Book\.1"):
            call(NAME)
    assert files(tmp_path / "store") == []
    assert list((tmp_path / "store" / "memories").iterdir()) == []
    assert store.create(NAME).uid != old.uid


def test_a_request_is_found_after_its_version_is_gone(store: Store, tmp_path: Path) -> None:
    store.create(NAME)
    for number in range(18):
        with store.writer(NAME) as writer, writer.stage() as staging:
            staging.commit({}, request_id=f"r{number}", receipt={"tokens": number})
    with store.writer(NAME) as writer, writer.stage() as staging:
        with pytest.raises(Aborted, match="r5"):
            staging.commit({}, request_id="r5")
        with pytest.raises(InvalidArgument, match="request_id"):
            staging.commit({}, request_id="r" * 129)
    store.close()
    with Store.open(tmp_path / "store") as again:
        found = again.find_request(NAME, "r2")
        assert found is not None
        assert (found.version, found.receipt) == (3, {"tokens": 2})
        assert again.find_request(NAME, "r1") is None  # the last 16 are known
        assert again.find_request(NAME, "r17") is not None
        assert again.find_request(NAME, "") is None


def test_fingerprints_that_differ_are_named(store: Store) -> None:
    store.create(NAME)
    with store.writer(NAME) as writer, writer.stage() as staging:
        version = staging.commit({"model": "m1", "dtype": "bfloat16", "other": 1})
    require_match(version, {"model": "m1", "dtype": "bfloat16"})
    with pytest.raises(FailedPrecondition, match="dtype: stored 'bfloat16', expected 'f") as info:
        require_match(version, {"model": "m1", "dtype": "float32", "rope": "x"})
    assert info.value.metadata["differs"] == "dtype,rope"


def test_lists_are_sorted_and_tokens_live_through_changes(store: Store) -> None:
    names = [MemoryName(space, f"m{number}") for space in ("a", "b") for number in range(5)]
    for name in reversed(names):
        store.create(name)
    page = store.list_memories(page_size=3)
    assert [record.name for record in page.records] == names[:3]
    store.create(MemoryName("a", "m00"))  # before the token
    store.create(MemoryName("a", "m30"))  # after it
    store.delete(names[2])  # the very one the token names
    seen = []
    while page.next_page_token:
        page = store.list_memories(page_size=3, page_token=page.next_page_token)
        seen += [record.name for record in page.records]
    assert seen == sorted([*names[3:], MemoryName("a", "m30")])


@pytest.mark.parametrize("page_size", [1, 2, 4, 5, 6, 1000])
def test_a_namespace_is_listed_alone(store: Store, page_size: int) -> None:
    for space in ("a", "b", "b.c"):
        for number in range(5):
            store.create(MemoryName(space, f"m{number}"))
    seen, token, pages = [], "", 0
    while not pages or token:
        page = store.list_memories(namespace="b", page_size=page_size, page_token=token)
        seen += [str(record.name) for record in page.records]
        token, pages = page.next_page_token, pages + 1
    assert seen == [f"b/m{number}" for number in range(5)]
    assert pages == -(-5 // page_size)
    assert store.list_memories(namespace="absent").records == ()


@pytest.mark.parametrize("token", ["x", "!", "YQ==", "Li4vLi4=", "Yi8=", "ü", "YS9tMQ=="])
def test_a_foreign_page_token_is_refused(store: Store, token: str) -> None:
    with pytest.raises(InvalidArgument, match="page_token"):
        store.list_memories(namespace="b", page_token=token)
    with pytest.raises(InvalidArgument, match="page_size"):
        store.list_memories(page_size=0)


HOSTILE = [
    "",
    ".",
    "..",
    ".hidden",
    "a/b",
    "../x",
    "a\\b",
    "a\x00",
    "a\n",
    "ä",
    "a b",
    "~1",
    "x" * 129,
]


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize("field", ["namespace", "memory_id"])
def test_hostile_names_are_refused_naming_the_field(
    store: Store, tmp_path: Path, text: str, field: str
) -> None:
    named = SimpleNamespace(**{"namespace": "n", "memory_id": "m", field: text})
    for call in (store.create, store.get, store.delete, store.writer, store.exists):
        with pytest.raises(InvalidArgument) as info:
            call(named)
        assert info.value.field == field
    assert sorted(path.name for path in tmp_path.iterdir()) == ["store"]


@pytest.mark.parametrize(
    "text", ["a", "A", "aB-._", "X" * 128, "x" * 128, "-", "_.", "con", "0A~"[:2]]
)
def test_names_make_directories_that_differ_without_case(text: str) -> None:
    directory = to_dir_name(text)
    assert directory == directory.lower()
    assert len(directory) <= 255
    assert from_dir_name(directory) == text
    assert text == text.lower() or directory != to_dir_name(text.lower())


@pytest.mark.parametrize(
    "directory", ["a~", "a~0", "a~2", "A", "a~g", "..", ".git", "a~-1", "", "1~1"]
)
def test_a_directory_no_name_maps_to_is_a_stranger(directory: str) -> None:
    assert from_dir_name(directory) is None


def test_any_class_with_the_two_fields_names_a_memory(store: Store) -> None:
    store.create(SimpleNamespace(namespace="tenant", memory_id="Book.1"))
    assert store.get(NAME).name == NAME


def test_a_closed_store_refuses_writes_and_removes_nothing(store: Store, tmp_path: Path) -> None:
    store.create(NAME)
    version = commit(store, NAME, part=b"1")
    with store.writer(NAME) as writer, writer.stage() as staging, store.hold(version):
        ref = staging.write_bytes("part", b"2")
        store.close()
        store.close()
        with pytest.raises(Unavailable, match="closed"):
            staging.commit({})
        for call in (store.create, store.delete):
            with pytest.raises(Unavailable, match="closed"):
                call(NAME)
    assert ref.digest in files(tmp_path / "store")


def test_only_a_store_of_this_format_is_opened(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("not ours")
    with pytest.raises(FailedPrecondition) as info:
        Store.open(tmp_path)
    assert info.value.reason == "NOT_A_STORE"
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]
    root = tmp_path / "store"
    Store.open(root).close()
    for text in ('{"format": "memoserve-store", "version": 2}', "", "[]"):
        (root / "FORMAT").write_text(text)
        with pytest.raises(FailedPrecondition) as info:
            Store.open(root)
        assert info.value.reason == "STORE_FORMAT"
    with pytest.raises(InvalidArgument, match="keep_versions"):
        Store.open(root, keep_versions=0)
