"""The demo on a small text: no terminal, standard input closed, twice in the same place."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from tests.e2e.serving import command, environment

TEXT = (
    "The iron bridge over the Lenne was built by Ada Brandt in 1871.\n\n"
    + "Rain fell on the quarry, and the miller counted his sacks. " * 30
)
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
