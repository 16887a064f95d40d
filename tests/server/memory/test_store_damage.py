"""Damage to any file is told, never papered over, and harms no other memory."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from memoserve.errors import AlreadyExists, DataLoss, FailedPrecondition
from memoserve.memory.names import MemoryName
from memoserve.memory.store import Store

HURT, SOUND = MemoryName("n", "hurt"), MemoryName("n", "sound")
Damage = Callable[[Path], object]


def flip(place: float) -> Damage:
    def damage(path: Path) -> None:
        data = bytearray(path.read_bytes())
        data[int(place * (len(data) - 1))] ^= 1
        path.write_bytes(data)

    return damage


DAMAGES: dict[str, Damage] = {
    **{f"bit at {place}": flip(place) for place in (0, 0.21, 0.83, 1)},
    "cut by one": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "cut to nothing": lambda path: path.write_bytes(b""),
    "grown": lambda path: path.write_bytes(path.read_bytes() + b"\n"),
    "missing": lambda path: path.unlink(),
    "zeroed": lambda path: path.write_bytes(bytes(path.stat().st_size)),
}
every_damage = pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two memories of two versions each; the versions of a memory share a part."""
    root = tmp_path_factory.mktemp("built")
    with Store.open(root) as store:
        for name in (HURT, SOUND):
            store.create(name, {"labels": {"a": "b"}})
            with store.writer(name) as writer:
                with writer.stage() as staging:
                    staging.write_tensors("kv", {name.memory_id: torch.ones(64)})
                    staging.write_bytes("old", f"old {name}".encode())
                    first = staging.commit({"n": 1})
                with writer.stage() as staging:
                    staging.keep(first.parts["kv"])
                    staging.write_bytes("text", f"text of {name}".encode())
                    staging.commit({"n": 2})
    return root


@pytest.fixture
def root(built: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(built, tmp_path / "store"))


def place(root: Path) -> Path:
    return root / "memories" / "n" / "hurt"


def blob(root: Path, part: str, version: int) -> Path:
    with Store.open(root) as store:
        digest = store.get(HURT, version).parts[part].digest
    return root / "files" / digest[:2] / digest


def all_files(root: Path) -> set[Path]:
    return {path for path in root.rglob("*") if path.is_file()}


def check_sound(store: Store) -> None:
    assert store.memory(SOUND).damages == ()
    for number, part in ((1, "old"), (2, "text")):
        version = store.get(SOUND, number)
        assert store.load(version, part) == f"{part}{' of' * (part == 'text')} {SOUND}".encode()
        assert torch.equal(store.load_tensors(version, "kv")["sound"], torch.ones(64))


@every_damage
@pytest.mark.parametrize("part", ["kv", "text"])
def test_a_damaged_part_is_told_with_its_place(root: Path, part: str, damage: Damage) -> None:
    damage(blob(root, part, 2))
    with Store.open(root) as store:
        check_sound(store)
        with pytest.raises(DataLoss, match=f"n/hurt version 2.* part {part}|part {part}: file"):
            store.load(store.get(HURT), part)
        old = store.memory(HURT).kept[0]
        if part == "text":  # the older version does not stand in, but is sound and can be named
            assert old.record is not None and store.load(old.record, "old") == b"old n/hurt"
        store.delete(HURT)
        check_sound(store)


@pytest.mark.parametrize("part", ["kv", "text"])
@every_damage
def test_damage_behind_an_open_store_is_told_too(root: Path, part: str, damage: Damage) -> None:
    path = blob(root, part, 2)
    with Store.open(root) as store:
        version = store.get(HURT)
        damage(path)
        with pytest.raises(DataLoss) as info:
            store.load(version, part)
        assert info.value.metadata == {"memory": "n/hurt", "version": "2", "part": part}
        check_sound(store)


@every_damage
def test_a_damaged_newest_manifest_is_flagged_and_nothing_stands_in(
    root: Path, damage: Damage
) -> None:
    before = all_files(root)
    damage(place(root) / "2.json")
    with Store.open(root) as store:
        check_sound(store)
        listed = store.list_memories().records
        assert [bool(record.damages) for record in listed] == [True, False]
        assert "version 2: the" in listed[0].damages[0]
        assert (listed[0].version, listed[0].details) == (2, {"labels": {"a": "b"}})
        with pytest.raises(DataLoss, match="n/hurt version 2"):
            store.get(HURT)
        assert store.load(store.get(HURT, 1), "old") == b"old n/hurt"
    assert before - all_files(root) <= {place(root) / "2.json"}  # what could be its parts stays


@every_damage
def test_a_damaged_older_manifest_leaves_the_newest(root: Path, damage: Damage) -> None:
    damage(place(root) / "1.json")
    with Store.open(root) as store:
        assert store.load(store.get(HURT), "text") == b"text of n/hurt"
        with pytest.raises(DataLoss, match="n/hurt version 1"):
            store.get(HURT, 1)
        check_sound(store)


@every_damage
def test_a_damaged_head_is_flagged_and_destroys_nothing(root: Path, damage: Damage) -> None:
    before = all_files(root)
    damage(place(root) / "head.json")
    with Store.open(root) as store:
        check_sound(store)
        assert store.memory(HURT).damages[0].startswith(("the head", "the checksum", "not a head"))
        for call in (store.get, store.writer, lambda name: store.update_details(name, {})):
            with pytest.raises(DataLoss, match="n/hurt"):
                call(HURT)
        with pytest.raises(AlreadyExists):
            store.create(HURT)
        assert before - all_files(root) <= {place(root) / "head.json"}
        store.delete(HURT)
        assert not place(root).exists()
        store.create(HURT)
    with Store.open(root) as store:  # nothing is unknown any more: its parts go now
        check_sound(store)
        assert store.get(HURT).version == 0
        assert len(list((root / "files").rglob("*/*"))) == 3


def test_a_head_in_another_memorys_place_is_no_head(root: Path) -> None:
    (place(root) / "head.json").write_bytes((root / "memories/n/sound/head.json").read_bytes())
    with Store.open(root) as store:
        check_sound(store)
        with pytest.raises(DataLoss, match="n/hurt: the head is that of n/sound"):
            store.get(HURT)


@pytest.mark.parametrize("source", ["hurt/1.json", "sound/2.json"])
def test_a_manifest_in_anothers_place_is_no_manifest(root: Path, source: str) -> None:
    (place(root) / "2.json").write_bytes((root / "memories/n" / source).read_bytes())
    with Store.open(root) as store, pytest.raises(DataLoss, match="n/hurt version 2"):
        store.get(HURT)


def test_a_damaged_version_can_be_replaced(root: Path) -> None:
    damage = DAMAGES["cut by one"]
    damage(place(root) / "2.json")
    with Store.open(root, keep_versions=1) as store:
        with store.writer(HURT, expected_version=2) as writer, writer.stage() as staging:
            staging.write_bytes("text", b"again")
            staging.commit({})
        assert store.memory(HURT).damages == ()
    with Store.open(root) as store:
        assert store.load(store.get(HURT), "text") == b"again"
        check_sound(store)


def test_writing_a_damaged_content_again_heals_it(root: Path) -> None:
    path = blob(root, "text", 2)
    flip(0.5)(path)
    with Store.open(root) as store:
        with store.writer(HURT) as writer, writer.stage() as staging:
            staging.write_bytes("text", b"text of n/hurt")
        assert store.load(store.get(HURT), "text") == b"text of n/hurt"


def test_a_part_that_is_gone_cannot_be_kept(root: Path) -> None:
    path = blob(root, "text", 2)
    with Store.open(root) as store, store.writer(HURT) as writer, writer.stage() as staging:
        ref = store.get(HURT).parts["text"]
        path.unlink()
        with pytest.raises(DataLoss, match="text"):
            staging.keep(ref)


@pytest.mark.parametrize("damage", [flip(0.5), DAMAGES["zeroed"], DAMAGES["missing"]])
def test_a_damaged_format_mark_is_refused(root: Path, damage: Damage) -> None:
    before = all_files(root)
    damage(root / "FORMAT")
    with pytest.raises(FailedPrecondition):
        Store.open(root)
    assert before - all_files(root) <= {root / "FORMAT"}


def test_strangers_directories_are_left_alone(root: Path) -> None:
    stranger = root / "memories" / "Not Ours" / "x"
    stranger.mkdir(parents=True)
    (stranger / "note").write_text("keep")
    with Store.open(root) as store:
        assert len(store.list_memories().records) == 2
    assert (stranger / "note").read_text() == "keep"


@pytest.mark.parametrize("kind", ["missing", "cut by one", "grown"])
def test_a_part_of_a_wrong_size_is_flagged_when_the_store_opens(root: Path, kind: str) -> None:
    DAMAGES[kind](blob(root, "text", 2))
    with Store.open(root) as store:
        (damage,) = store.memory(HURT).damages
        assert damage.startswith("version 2: part text: file ")
        with pytest.raises(DataLoss, match="n/hurt version 2: part text: file"):
            store.get(HURT)
        check_sound(store)
