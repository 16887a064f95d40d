"""Random histories against a dictionary, down to the exact files on disk."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
)

from memoserve.errors import AlreadyExists, NotFound
from memoserve.memory.names import MemoryName, to_dir_name
from memoserve.memory.snapshot import VersionRecord
from memoserve.memory.store import Store

NAMES = [MemoryName(space, one) for space in ("n", "N") for one in ("a", "A", "b")]
names = st.sampled_from(NAMES)
# Few contents, so that memories and versions come to share files.
contents = st.sampled_from([b"", b"one", b"two" * 50, b"three"])
parts = st.dictionaries(st.sampled_from(["kv/0", "kv/1", "tail"]), contents, max_size=3)


@dataclass
class Model:
    """What a memory should hold: versions by number, each parts by name."""

    details: str
    version: int = 0
    kept: dict[int, dict[str, bytes]] = field(default_factory=dict)
    requests: dict[str, int] = field(default_factory=dict)


class StoreHistory(RuleBasedStateMachine):
    """Each rule does the same to the store and to the model; the invariants compare."""

    @initialize(keep_versions=st.integers(1, 3))
    def open(self, keep_versions: int) -> None:
        self.root = Path(tempfile.mkdtemp())
        self.keep_versions = keep_versions
        self.model: dict[MemoryName, Model] = {}
        self.holds: list[tuple[VersionRecord, dict[str, bytes], object]] = []
        self.store = Store.open(self.root, keep_versions=keep_versions)

    @rule(name=names, details=st.text(max_size=5))
    def create(self, name: MemoryName, details: str) -> None:
        if name in self.model:
            with pytest.raises(AlreadyExists):
                self.store.create(name, {"text": details})
        else:
            self.store.create(name, {"text": details})
            self.model[name] = Model(details)

    @rule(name=names, details=st.text(max_size=5))
    def update(self, name: MemoryName, details: str) -> None:
        if name in self.model:
            self.store.update_details(name, {"text": details})
            self.model[name].details = details

    @rule(name=names, other=names, new=parts, keep=st.booleans(), finish=st.booleans())
    def write(
        self, name: MemoryName, other: MemoryName, new: dict[str, bytes], keep: bool, finish: bool
    ) -> None:
        """Commit or abort new parts and, with ``keep``, those of ``other``'s newest version."""
        if name not in self.model:
            with pytest.raises(NotFound):
                self.store.writer(name)
            return
        model, wanted = self.model[name], dict(new)
        with self.store.writer(name) as writer, writer.stage() as staging:
            for part, data in new.items():
                staging.write_bytes(part, data)
            if keep and other in self.model:
                for part, ref in self.store.get(other).parts.items():
                    if part not in new:
                        staging.keep(ref)
                        wanted[part] = self.model[other].kept[self.model[other].version][part]
            if finish:
                staging.commit({"wanted": len(wanted)}, request_id=f"r{model.version + 1}")
        if finish:
            model.version += 1
            model.kept[model.version] = wanted
            model.requests[f"r{model.version}"] = model.version
            for old in list(model.kept)[: -self.keep_versions]:
                del model.kept[old]

    @rule(name=names)
    def delete(self, name: MemoryName) -> None:
        if name in self.model:
            self.store.delete(name)
            del self.model[name]
        else:
            with pytest.raises(NotFound):
                self.store.delete(name)

    @rule(name=names)
    def hold(self, name: MemoryName) -> None:
        if name in self.model and self.model[name].version:
            record = self.store.get(name)
            hold = self.store.hold(record)
            hold.__enter__()
            self.holds.append((record, dict(self.model[name].kept[record.version]), hold))

    @rule()
    def release_all(self) -> None:
        for _, _, hold in self.holds:
            hold.__exit__(None, None, None)  # type: ignore[attr-defined]
        self.holds.clear()

    @rule()
    def reopen(self) -> None:
        self.release_all()
        self.store.close()
        self.store = Store.open(self.root, keep_versions=self.keep_versions)

    @invariant()
    def reads_what_was_written(self) -> None:
        listed = self.store.list_memories(page_size=1000).records
        assert [record.name for record in listed] == sorted(self.model)
        for record in listed:
            model = self.model[record.name]
            assert record.details == {"text": model.details}
            assert (record.version, record.damages) == (model.version, ())
            assert [one.version for one in record.kept] == list(model.kept)
            for number, parts in model.kept.items():
                self.compare(self.store.get(record.name, number), parts)
            for request_id, number in list(model.requests.items())[-16:]:
                found = self.store.find_request(record.name, request_id)
                assert found is not None and found.version == number
        for version, parts, _ in self.holds:
            self.compare(version, parts)

    def compare(self, record: VersionRecord, wanted: dict[str, bytes]) -> None:
        assert {part: self.store.load(record, part) for part in record.parts} == wanted

    @invariant()
    def keeps_exactly_the_files_it_needs(self) -> None:
        wanted = {"FORMAT", "LOCK"}
        contents = [parts for _, parts, _ in self.holds]
        for name, model in self.model.items():
            place = f"memories/{to_dir_name(name.namespace)}/{to_dir_name(name.memory_id)}"
            wanted |= {f"{place}/head.json", *(f"{place}/{one}.json" for one in model.kept)}
            contents += model.kept.values()
        for data in (data for parts in contents for data in parts.values()):
            digest = hashlib.sha256(data).hexdigest()
            wanted.add(f"files/{digest[:2]}/{digest}")
        there = {
            str(path.relative_to(self.root)) for path in self.root.rglob("*") if path.is_file()
        }
        assert there == wanted

    def teardown(self) -> None:
        if hasattr(self, "store"):
            self.store.close()
            shutil.rmtree(self.root)


StoreHistory.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
test_a_random_history = StoreHistory.TestCase
