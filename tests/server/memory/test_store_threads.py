"""One server a directory, one writer a memory, and readers that nobody disturbs."""

from __future__ import annotations

import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from memoserve.errors import Aborted, FailedPrecondition, NotFound
from memoserve.memory.names import MemoryName
from memoserve.memory.snapshot import VersionRecord
from memoserve.memory.store import Store

NAME = MemoryName("n", "m")


def commit(store: Store, name: MemoryName, **parts: bytes) -> VersionRecord:
    with store.writer(name) as writer, writer.stage() as staging:
        for part, data in parts.items():
            staging.write_bytes(part, data)
        return staging.commit({})


def num_files(root: Path) -> int:
    return sum(path.is_file() for path in (root / "files").rglob("*"))


def test_a_second_writer_is_refused_until_the_first_is_done(tmp_path: Path) -> None:
    with Store.open(tmp_path) as store:
        store.create(NAME)
        store.create(MemoryName("n", "other"))
        first = store.writer(NAME)
        with pytest.raises(Aborted) as info:
            store.writer(NAME)
        assert info.value.reason == "WRITER_ACTIVE"
        store.writer(MemoryName("n", "other")).release()
        first.release()
        second = store.writer(NAME)
        first.release()  # a late second release is not the new writer's
        with pytest.raises(Aborted):
            store.writer(NAME)
        with pytest.raises(RuntimeError, match="over"):
            first.stage().commit({})
        second.release()


def test_a_writer_may_name_the_version_it_expects(tmp_path: Path) -> None:
    with Store.open(tmp_path) as store:
        store.create(NAME)
        commit(store, NAME, part=b"1")
        with pytest.raises(Aborted, match="at version 1, not 0") as info:
            store.writer(NAME, expected_version=0)
        assert info.value.reason == "VERSION_MISMATCH"
        with store.writer(NAME, expected_version=1) as writer:
            for number in (2, 3):  # a writer may commit again and again
                with writer.stage() as staging:
                    assert staging.commit({}).version == number == writer.version


def test_a_commit_to_a_memory_deleted_meanwhile_fails(tmp_path: Path) -> None:
    with Store.open(tmp_path) as store:
        store.create(NAME)
        with store.writer(NAME) as writer, writer.stage() as staging:
            staging.write_bytes("part", b"1")
            store.delete(NAME)
            with pytest.raises(NotFound):
                staging.commit({})
            store.create(NAME)  # another memory of the same name
            with pytest.raises(Aborted, match="made anew"):
                staging.commit({})
        assert store.get(NAME).version == 0
        assert num_files(tmp_path) == 0


def test_two_processes_cannot_share_a_store(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from memoserve.memory.store import Store\n"
        "Store.open(Path(sys.argv[1])); print('open', flush=True); sys.stdin.read()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={"PYTHONPATH": ":".join(sys.path)},
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"open\n"
        with pytest.raises(FailedPrecondition) as info:
            Store.open(tmp_path)
        assert info.value.reason == "STORE_LOCKED"
        process.kill()  # a killed server's lock goes with it
    Store.open(tmp_path).close()


def test_one_process_cannot_open_a_store_twice(tmp_path: Path) -> None:
    with Store.open(tmp_path), pytest.raises(FailedPrecondition):
        Store.open(tmp_path)
    Store.open(tmp_path).close()


def test_readers_finish_while_the_memory_is_deleted(tmp_path: Path) -> None:
    with Store.open(tmp_path) as store:
        store.create(NAME)
        version = commit(store, NAME, kv=b"kv", tail=b"tail")
        with store.hold(version), store.hold(version):
            store.delete(NAME)
            store.create(NAME)
            commit(store, NAME, kv=b"new")
            assert store.load(version, "kv") == b"kv"
            assert store.load(version, "tail") == b"tail"
            assert num_files(tmp_path) == 3
        assert num_files(tmp_path) == 1
        with pytest.raises(NotFound), store.hold(version):
            pass
        with pytest.raises(NotFound):
            store.load(version, "kv")


def test_a_version_held_outlives_newer_commits(tmp_path: Path) -> None:
    with Store.open(tmp_path, keep_versions=1) as store:
        store.create(NAME)
        version = commit(store, NAME, part=b"first")
        with store.hold(version):
            for number in range(3):
                commit(store, NAME, part=b"%d" % number)
            assert store.load(version, "part") == b"first"
        assert num_files(tmp_path) == 1


def test_threads_write_read_list_and_delete_together(tmp_path: Path) -> None:
    """Four memories that share most contents; each reader sees whole versions only."""
    names = [MemoryName("n", str(number)) for number in range(4)]
    stop = threading.Event()

    def write(store: Store, name: MemoryName) -> None:
        for turn in range(12):
            store.create(name)
            for number in range(3):
                commit(store, name, a=b"%d" % number, b=b"%d" % number, c=b"same")
            if turn < 11:
                store.delete(name)

    def read(store: Store) -> int:
        num_read = 0
        while not stop.is_set():
            for record in store.list_memories().records:
                try:
                    version = store.get(record.name)
                    with store.hold(version):
                        loaded = {part: store.load(version, part) for part in version.parts}
                except NotFound:
                    continue
                if loaded:
                    assert loaded["a"] == loaded["b"] == b"%d" % (version.version - 1)
                    assert loaded["c"] == b"same"
                    num_read += 1
        return num_read

    with Store.open(tmp_path) as store, ThreadPoolExecutor(6) as pool:
        readers = [pool.submit(read, store) for _ in range(2)]
        writers = [pool.submit(write, store, name) for name in names]
        try:
            for writer in writers:
                writer.result()
        finally:
            stop.set()
        assert min(reader.result() for reader in readers) > 0
        assert num_files(tmp_path) == 3  # "1" and "2" of the two kept versions, and "same"
    with Store.open(tmp_path) as store:
        assert [record.version for record in store.list_memories().records] == [3] * 4
        assert num_files(tmp_path) == 3


def test_only_one_of_many_writers_gets_in(tmp_path: Path) -> None:
    barrier = threading.Barrier(8)

    def attempt(store: Store) -> bool:
        barrier.wait()
        try:
            store.writer(NAME)
        except Aborted:
            return False
        return True

    with Store.open(tmp_path) as store, ThreadPoolExecutor(8) as pool:
        store.create(NAME)
        assert sum(pool.map(attempt, [store] * 8)) == 1
