"""The text of the small world that the demo asks about: reproducible, its evidence in its place."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from benchmarks.corpus.make_world import SEED, WORDS, make
from memoserve_training.worlds import Split, names_of

CORPUS = Path(__file__).parents[2] / "benchmarks" / "corpus"


def test_the_committed_files_come_from_the_script(tmp_path: Path) -> None:
    script = [sys.executable, str(CORPUS / "make_world.py"), "--out", str(tmp_path)]
    subprocess.run(script, check=True, timeout=60, stdout=subprocess.PIPE)
    for file in ("world.txt", "world_questions.json"):
        assert (tmp_path / file).read_bytes() == (CORPUS / file).read_bytes()


def named(text: str, rows: list[dict[str, Any]], split: Split) -> int:
    names = set(names_of(split))
    words = f"{text} {' '.join(row['question'] for row in rows)}".replace(":", " ").split()
    return sum(word.strip(".,?'") in names for word in words)


@pytest.mark.parametrize("seed", [SEED, SEED + 1])
def test_questions_have_their_evidence_in_a_text_that_training_never_saw(seed: int) -> None:
    text, rows = make(seed, WORDS)
    assert 1000 <= len(text.split()) <= 1500
    assert Counter(row["kind"] for row in rows) == {"one_hop": 8, "two_hop": 8}
    assert len({row["question"] for row in rows}) == 16
    for row in rows:
        evidence = row["evidence"]
        assert len(evidence) == (1 if row["kind"] == "one_hop" else 2)
        for each in evidence:
            assert text[each["start_char"] : each["end_char"]] == each["text"]
            assert text.count(each["text"]) == 1
        assert row["answer"] in evidence[-1]["text"]
        assert row["answer"] not in row["question"]
    assert named(text, rows, Split.HELD_OUT) > 100
    assert named(text, rows, Split.TRAIN) == 0


def test_a_text_too_short_for_its_questions_is_refused() -> None:
    with pytest.raises(ValueError, match="60 words hold"):
        make(SEED, 60)
