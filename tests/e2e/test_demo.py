"""The demo on a small text: no terminal, standard input closed, twice in the same place; then the
whole of it, whose first act asks about the small world that the model in the box is made for.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from memoserve.cli import demo
from tests.e2e.serving import ROOT, command, environment

TEXT = (
    "The iron bridge over the Lenne was built by Ada Brandt in 1871.\n\n"
    + "Rain fell on the quarry, and the miller counted his sacks. " * 30
)
# The demo without arguments, its texts taken from another folder.
ELSEWHERE = """
import sys
from pathlib import Path
from memoserve.cli import demo
corpus, data = map(Path, sys.argv[1:])
demo.corpus_folder = lambda: corpus
sys.exit(demo.demo(None, None, data))
"""
# What the memory of a text that does not say it gets right.
OTHER = re.compile(r"memory of another text: (\d+) answers right, (\d+) quotes right of (\d+)")
# Kind and text; what is dropped as a duplicate hangs on which kind is done first.
CLUE = re.compile(r"^\[(\w+)\] (['\"].*['\"])", re.MULTILINE)


@pytest.mark.timeout(240)
def test_the_demo_runs_twice_in_one_place(tmp_path: Path) -> None:
    text = tmp_path / "mine.txt"
    text.write_text(TEXT, encoding="utf-8")
    for question in ("Who built the bridge?", None):
        asked = ("--question", question) if question else ()
        done = subprocess.run(
            command("demo", "--text", str(text), "--data-dir", str(tmp_path / "demo"), *asked),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=200,
            env=environment(),
        )
        assert done.returncode == 0, done.stdout + done.stderr
        version = 1 if question else 2
        assert f"still there: default/demo version {version}" in done.stdout
        assert "after the restart: the same clues" in done.stdout
        assert "after the restart: the same answer" in done.stdout
        assert "read from disk: tier device" in done.stdout
        before, after = (set(CLUE.findall(part)) for part in done.stdout.split("== restart"))
        assert before and before == after
        if question:
            assert "Ada Brandt" in done.stdout
        table = done.stdout[done.stdout.rindex("raw tokens") :].splitlines()
        heads = [line.split("  ")[0] for line in table]
        assert heads == [
            *("raw tokens", "beacons", "pages", "KV bytes", "full KV bytes", "passages"),
            *("memorize", "time to first clue"),
        ]
        assert "\r" not in done.stderr
        assert len(done.stderr.splitlines()) <= 10


@pytest.mark.parametrize(("data", "said"), [(None, "No such file"), (b"", "empty")], ids=str)
def test_a_bad_text_ends_the_demo_with_a_line(
    tmp_path: Path, data: bytes | None, said: str
) -> None:
    text = tmp_path / "mine.txt"
    if data is not None:
        text.write_bytes(data)
    done = subprocess.run(
        command("demo", "--text", str(text), "--data-dir", str(tmp_path / "demo")),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=110,
        env=environment(),
    )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("memoserve: ")
    assert said in done.stderr
    assert "Traceback" not in done.stderr


@dataclass(frozen=True)
class Played:
    """What the demo with no text named printed, and its exit status."""

    said: str
    code: int
    counts: dict[str, list[int]]
    other: list[int]


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Played:
    """The whole demo on the committed world, and on a short text in place of the long one.

    The short one begins as the long one does, with as many words as the control takes.
    """
    folder = tmp_path_factory.mktemp("demo")
    corpus = folder / "corpus"
    corpus.mkdir()
    sample = (ROOT / "benchmarks" / "corpus" / "sample.txt").read_text(encoding="utf-8")
    beginning = " ".join(sample.split()[:1300])
    (corpus / "sample.txt").write_text(f"{beginning}\n\n{TEXT}", encoding="utf-8")
    facts = [{"question": "Who built the bridge?"}]
    (corpus / "sample_facts.json").write_text(json.dumps(facts), encoding="utf-8")
    for name in ("world.txt", "world_questions.json"):
        shutil.copy(ROOT / "benchmarks" / "corpus" / name, corpus)
    done = subprocess.run(
        [sys.executable, "-c", ELSEWHERE, str(corpus), str(folder / "data")],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=200,
        env=environment(),
    )
    assert "Traceback" not in done.stderr, done.stderr
    lines = [re.split(r"  +", line) for line in done.stdout.splitlines()]
    kinds = ("one_hop", "two_hop")
    counts = {line[0]: [*map(int, line[1:])] for line in lines if line[0] in kinds}
    (other,) = OTHER.findall(done.stdout)
    return Played(done.stdout, done.returncode, counts, [*map(int, other)])


@pytest.mark.timeout(240)
def test_the_demo_counts_what_the_memory_of_the_small_world_gets_right(played: Played) -> None:
    said, counts = played.said, played.counts
    assert list(counts) == ["one_hop", "two_hop"]
    for asked, *right in counts.values():
        assert asked == 8
        assert all(0 <= count <= asked for count in right)
    assert played.other[-1] == 16
    first_act, rest = said.split("=== 2. ")
    for kind, (_, answers, *_) in counts.items():
        # Whatever the model knows: a question is called right only where one was.
        shown = first_act[first_act.index(f"== {kind}, ") :].split("\n== ")[0]
        assert ("NONE of them right" in shown) == (answers == 0)
        assert (", WRONG, the text says" in shown) == (answers == 0)
        assert re.search(r"characters \d+-\d+; quoted by the memory: ", shown)
    assert "Ada Brandt" in rest
    assert "demo-world after the restart: the same clues for the 2 questions shown" in rest
    assert "\nafter the restart: the same clues\n" in rest
    # Whatever was right of it: the status tells of the restart and of the passages.
    assert played.code == 0


@pytest.mark.timeout(240)
def test_the_memory_of_a_text_knows_more_of_it_than_the_memory_of_another(
    played: Played,
) -> None:
    knows = sum(answers + quotes for _, answers, quotes, *_ in played.counts.values())
    guesses = sum(played.other[:2])
    assert knows > guesses


def test_an_installation_without_the_texts_asks_for_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sample.txt").write_text(TEXT, encoding="utf-8")
    monkeypatch.setattr(demo, "corpus_folder", lambda: tmp_path)
    with pytest.raises(ValueError, match="--text"):
        demo.demo(None, None, tmp_path / "data")
    assert not (tmp_path / "data").exists()
