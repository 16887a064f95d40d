"""A crash, a loss of power or an I/O error at any step: the old state or the new, no leak."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from memoserve.errors import Aborted, MemoserveError, ResourceExhausted, Unavailable
from memoserve.memory.durable import FSYNC_DIR, HOOK_POINTS, WRITE
from memoserve.memory.names import MemoryName, from_dir_name
from memoserve.memory.store import Store

NAME, OTHER, NEW = (MemoryName("n", one) for one in ("Book", "other", "new"))
State = dict[str, tuple[object, int, dict[int, dict[str, bytes]]]]


def write(store: Store, name: MemoryName, keep: str = "", **parts: bytes) -> None:
    with store.writer(name) as writer, writer.stage() as staging:
        if keep:
            staging.keep(store.get(name).parts[keep])
        for part, data in parts.items():
            staging.write_bytes(part, data)
        staging.commit({"text": "ü"}, request_id=f"r{writer.version}")


def build(root: Path) -> None:
    with Store.open(root) as store:
        for name in (NAME, OTHER):
            store.create(name)
            write(store, name, kv=b"kv", tail=b"tail of %s" % str(name).encode())
        write(store, NAME, keep="kv", tail=b"2")


CHANGES: dict[str, Callable[[Store], object]] = {
    "create": lambda store: store.create(NEW, {"labels": {}}),
    "append": lambda store: write(store, NAME, keep="kv", tail=b"3", more=b"more"),
    "replace": lambda store: write(store, NAME, kv=b"another", tail=b"2"),
    "update": lambda store: store.update_details(NAME, {"labels": {"a": "b"}}),
    "delete": lambda store: store.delete(NAME),
}
every_change = pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())


def state_of(store: Store) -> State:
    return {
        str(record.name): (
            record.details,
            record.version,
            {
                one.version: {part: store.load(one.record, part) for part in one.record.parts}
                for one in record.kept
                if one.record is not None
            },
        )
        for record in store.list_memories(page_size=1000).records
    }


def needed_files(state: State) -> set[str]:
    versions = [parts for _, _, kept in state.values() for parts in kept.values()]
    return {hashlib.sha256(data).hexdigest() for parts in versions for data in parts.values()}


def check_whole(root: Path, allowed: list[State]) -> State:
    """Open what a crash left: it is one of the allowed states, with exactly its files."""
    with Store.open(root) as store:
        state = state_of(store)
        assert [record.damages for record in store.list_memories().records] == [()] * len(state)
    assert state in allowed
    assert {path.name for path in (root / "files").rglob("*/*")} == needed_files(state)
    assert list((root / "tmp").iterdir()) == []
    there = {
        f"{from_dir_name(path.parent.parent.name)}/{from_dir_name(path.parent.name)}/{path.name}"
        for path in (root / "memories").rglob("*.json")
    }
    heads = {f"{name}/head.json" for name in state}
    manifests = {f"{name}/{one}.json" for name, (_, _, kept) in state.items() for one in kept}
    assert there == heads | manifests
    return state


def copy(source: Path, target: Path) -> Path:
    return Path(shutil.copytree(source, target))


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("built") / "store"
    build(root)
    return root


@pytest.fixture
def root(built: Path, tmp_path: Path) -> Path:
    return copy(built, tmp_path / "store")


class Crash:
    """Copies the tree before every step: what a killed process leaves."""

    def __init__(self, root: Path, target: Path) -> None:
        self.root, self.target = root, target
        self.points: list[str] = []

    def __call__(self, point: str, path: Path) -> None:
        self.points.append(point)
        self.keep(self.target / str(len(self.points)))

    def keep(self, target: Path) -> None:
        copy(self.root, target)

    def copies(self) -> Iterator[Path]:
        return (self.target / str(number + 1) for number in range(len(self.points)))


class PowerLoss(Crash):
    """Builds the tree of which only what was fsynced is left: contents and names.

    ``durable`` maps a directory to its names; a file's is the content fsynced before its
    directory was, b"" if none.
    """

    def __init__(self, root: Path, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__(root, target)
        if not Path("/proc/self/fd").exists():
            pytest.skip("fsync can be followed on Linux only")
        self.durable: dict[Path, dict[str, bytes | None]] = {}
        self.contents: dict[int, bytes] = {}
        for path in [root, *root.rglob("*")]:
            if path.is_file():
                self.contents[path.stat().st_ino] = path.read_bytes()
        for path in [root, *root.rglob("*")]:
            if path.is_dir():
                self._fsynced(path)
        real = os.fsync

        def fsync(descriptor: int) -> None:
            real(descriptor)
            self._fsynced(Path(os.readlink(f"/proc/self/fd/{descriptor}")))

        monkeypatch.setattr(os, "fsync", fsync)

    def __call__(self, point: str, path: Path) -> None:
        if point == WRITE:  # a new file; its inode number may have been another's
            self.contents.pop(path.stat().st_ino, None)
        super().__call__(point, path)

    def keep(self, target: Path) -> None:
        self._rebuild(self.root, target)

    def _fsynced(self, path: Path) -> None:
        info = path.stat()
        if stat.S_ISDIR(info.st_mode):
            self.durable[path] = {
                entry.name: None if entry.is_dir() else self.contents.get(entry.inode(), b"")
                for entry in os.scandir(path)
            }
        else:
            self.contents[info.st_ino] = path.read_bytes()

    def _rebuild(self, source: Path, target: Path) -> None:
        target.mkdir(parents=True)
        for name, content in self.durable.get(source, {}).items():
            if content is not None:
                (target / name).write_bytes(content)
            else:
                self._rebuild(source / name, target / name)


@every_change
@pytest.mark.parametrize("power", [False, True], ids=["killed", "power lost"])
def test_a_crash_leaves_the_old_state_or_the_new(
    root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: Callable[[Store], object],
    power: bool,
) -> None:
    before = check_whole(copy(root, tmp_path / "before"), [check_state(root)])
    with monkeypatch.context() as patch:
        target = tmp_path / "crash"
        crash = PowerLoss(root, target, patch) if power else Crash(root, target)
        with Store.open(root, hook=crash) as store:
            opening = len(crash.points)
            change(store)
            after = state_of(store)
            crash("end", root)
    assert before != after
    states = [check_whole(left, [before, after]) for left in crash.copies()]
    turn = states.index(after)
    assert states == [before] * turn + [after] * (len(states) - turn)
    assert opening < turn < len(states)  # the change is durable when the call returns
    assert set(crash.points[:-1]) <= set(HOOK_POINTS)


def check_state(root: Path) -> State:
    with Store.open(root) as store:
        return state_of(store)


@pytest.mark.parametrize("power", [False, True], ids=["killed", "power lost"])
def test_a_crash_while_a_store_is_made_leaves_what_can_be_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, power: bool
) -> None:
    root = tmp_path / "new"
    root.mkdir()
    with monkeypatch.context() as patch:
        target = tmp_path / "crash"
        crash = PowerLoss(root, target, patch) if power else Crash(root, target)
        Store.open(root, hook=crash).close()
    assert len(crash.points) > 5
    for left in crash.copies():
        check_whole(left, [{}])


def test_a_crash_during_recovery_is_recovered_from(root: Path, tmp_path: Path) -> None:
    """Crash in every step of a delete and of an append, then in every step of the next open."""
    for kind in ("append", "delete"):
        first = Crash(copy(root, tmp_path / kind), tmp_path / f"{kind}-crash")
        with Store.open(first.root, hook=first) as store:
            before = state_of(store)
            CHANGES[kind](store)
            after = state_of(store)
        for left in list(first.copies())[8::3]:
            second = Crash(left, Path(f"{left}-again"))
            with Store.open(left, hook=second) as store:
                found = state_of(store)
            assert found in (before, after)
            for twice in list(second.copies())[::3]:
                check_whole(twice, [found])


class Fault:
    """Raises an OSError at the n-th step counted from ``arm``, once or from there on."""

    def __init__(self, number: int, code: int, lasting: bool) -> None:
        self.number, self.code, self.lasting = number, code, lasting
        self.seen: int | None = None
        self.fired: list[str] = []

    def arm(self) -> None:
        self.seen = -1

    def __call__(self, point: str, path: Path) -> None:
        if self.seen is None:
            return
        self.seen += 1
        if self.seen == self.number or (self.lasting and self.seen > self.number):
            self.fired.append(point)
            raise OSError(self.code, os.strerror(self.code))


@every_change
@pytest.mark.parametrize(
    ("code", "lasting"), [(errno.EIO, False), (errno.ENOSPC, True)], ids=["EIO once", "full disk"]
)
def test_an_io_error_is_told_and_memory_agrees_with_disk(
    root: Path, tmp_path: Path, change: Callable[[Store], object], lasting: bool, code: int
) -> None:
    expected = ResourceExhausted if code == errno.ENOSPC else Unavailable
    before = check_state(root)
    with Store.open(copy(root, tmp_path / "after")) as store:
        change(store)
        after = state_of(store)
    number, told = 0, 0
    while True:
        place = copy(root, tmp_path / str(number))
        fault = Fault(number, code, lasting)
        with Store.open(place, hook=fault) as store:
            fault.arm()
            try:
                change(store)
            except MemoserveError as error:
                assert type(error) is expected
                told += 1
            fault.seen = None  # the disk is well again
            assert not any((place / "tmp").iterdir())
            assert state_of(store) == check_state(copy(place, tmp_path / f"{number}-now"))
            if state_of(store) == before and not lasting:  # a lasting one kept us from tidying
                assert {path.name for path in (place / "files").rglob("*/*")} == needed_files(
                    before
                )
            if state_of(store) == before:  # and the same change goes through
                change(store)
            assert state_of(store) == after
            write(store, OTHER, tail=b"goes on")
            live = state_of(store)
        check_whole(place, [live])
        if not fault.fired:
            break
        number += 1
    assert number >= told >= 2  # steps after the change is durable may fail unseen


def test_a_commit_that_failed_after_it_was_true_is_found_by_its_request(root: Path) -> None:
    def fail_to_sync(point: str, path: Path) -> None:
        # the second time: after the manifest, then after the head
        if armed and point == FSYNC_DIR and path.name.startswith("book"):
            armed.pop()
            if not armed:
                raise OSError(errno.EIO, "sync failed")

    armed: list[int] = []
    with Store.open(root, hook=fail_to_sync) as store, store.writer(NAME) as writer:
        with writer.stage() as staging:
            staging.write_bytes("tail", b"3")
            armed += [1, 2]
            with pytest.raises(Unavailable, match="sync failed"):
                staging.commit({}, request_id="again")
        assert store.load(store.get(NAME), "tail") == b"3"
        found = store.find_request(NAME, "again")
        assert found is not None and found.version == store.get(NAME).version == 3
        with writer.stage() as staging, pytest.raises(Aborted, match="at version 3, not 2"):
            staging.commit({})
