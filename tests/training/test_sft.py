"""Training on clue tasks."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
import torch

from memoserve.pipeline.contents import Contents
from memoserve.pipeline.conversation import Conversation
from memoserve.pipeline.prompts import EN
from memoserve_training import sft
from memoserve_training.base import open_dialogue
from memoserve_training.branches import branch_batch
from memoserve_training.chat import PROMPTS, Asked, Task
from memoserve_training.data_files import BadRow, ClueRow, read_clue_rows, world_clue_rows
from memoserve_training.dialogue import Dialogue
from memoserve_training.masters import Trains
from memoserve_training.sft import SftObjective, SftSettings, by_context
from memoserve_training.tuning import Pace
from tests.training.toys import ROWS, WORLD, make_objective, open_run, write_toy


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_toy(tmp_path_factory.mktemp("base"))


@pytest.mark.parametrize(("trains", "share"), [(Trains.BEACONS, 0.95), (Trains.ALL, 0.5)])
def test_the_loss_falls(trains: Trains, share: float, base: Path, tmp_path: Path) -> None:
    opened = open_run(tmp_path, base, trains)
    objective = make_objective("sft", opened)

    def loss() -> float:
        parts = [objective.part(number) for number in range(4)]
        return sum(part.loss.item() for part in parts if part.loss is not None) / 4

    before = loss()
    opened.tuner(objective, Pace(steps=20, rate=0.04)).train()
    assert loss() < share * before


def test_only_what_is_written_counts(base: Path, tmp_path: Path) -> None:
    """Rows of one context together weigh as they do alone: nobody reads another's padding."""
    opened = open_run(tmp_path, base)
    words = open_dialogue(opened.run)

    def loss(*rows: ClueRow) -> tuple[float, int]:
        objective = SftObjective(opened.loaded, words, [rows], SftSettings())
        with torch.no_grad():
            part = objective.part(0)
        assert part.loss is not None
        context = words.context(rows[0].context)
        asked = [words.ask(context, row.task, row.question, row.written) for row in rows]
        return part.loss.item(), sum(len(one.ids) - one.first for one in asked)

    same = [row for row in ROWS if row.context == ROWS[0].context]
    alone = [loss(row) for row in same]
    together, tokens = loss(*same)
    assert tokens == sum(count for _, count in alone)
    assert together == pytest.approx(sum(mean * n for mean, n in alone) / tokens, rel=1e-5)


def test_a_context_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="no token"):
        branch_batch((), [Asked((1, 2), 1)], ["span"], torch.device("cpu"))


def test_rows_are_grouped_by_context() -> None:
    assert by_context(ROWS, 2) == [(ROWS[0], ROWS[2]), (ROWS[3],), (ROWS[1],)]


@pytest.mark.parametrize("around", ["{context}", "Read.\n{context}\nEnd of it.", "{context} 's"])
@pytest.mark.parametrize("text", ["The cat sat.", "The cat sat", "the log. \n", "<|im_end|> é"])
def test_ids_are_those_that_a_server_feeds(
    around: str, text: str, base: Path, tmp_path: Path
) -> None:
    """Also where the tokenizer joins the end of the text with the words behind it."""
    prompts = {**PROMPTS["en"], "context": around}
    trained = open_dialogue(open_run(tmp_path, base).run)
    trained = Dialogue(trained.text, prompts, line_start=" ")
    served = Conversation(trained.text, replace(EN, context=around, acknowledgement="ok"))
    opening, encoder = served.open_document()
    context = trained.context(text)
    assert [*context.ids] == [*opening, *encoder.feed(text)]
    state = SimpleNamespace(
        pending_text=encoder.pending_text, at_segment_start=encoder.at_segment_start
    )
    asked = trained.ask(context, Task.SPAN, "Where?", "a mat\nhere")
    assert [*asked.ids[: asked.first]] == served.ask(cast(Contents, state), "quote: Where?")
    assert trained.prompt(context, Task.SPAN, "Where?").ids == asked.ids[: asked.first]
    written = asked.ids[asked.first :]
    assert trained.text.decode(written) == " a mat\n here" and written[-1] == trained.end


def test_rows_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    whole = {"context": "c", "task": "span", "question": "q", "written": "w"}
    lines = [whole, {"context": "c", "task": "key_point", "written": "w"}]
    path.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    assert list(read_clue_rows(path)) == [
        ClueRow("c", Task.SPAN, "q", "w"),
        ClueRow("c", Task.KEY_POINT, "", "w"),
    ]
    changes: list[tuple[dict[str, object], str]] = [
        ({"task": "spans"}, "task is 'spans', not one of span"),
        ({"question": ""}, "question is empty"),
        ({"written": None}, "written is no string"),
        ({"context": ""}, "context is empty"),
    ]
    for change, message in changes:
        path.write_text(json.dumps({**whole, **change}), encoding="utf-8")
        with pytest.raises(BadRow, match=f"rows.jsonl:1: {message}"):
            list(read_clue_rows(path))


def test_rows_of_worlds() -> None:
    rows = list(world_clue_rows(1, 3, WORLD))
    assert rows == list(world_clue_rows(1, 3, WORLD)) != list(world_clue_rows(2, 3, WORLD))
    assert {row.task for row in rows} >= {Task.SPAN, Task.SURROGATE, Task.ANSWER}
    for row in rows:
        if row.task is Task.SPAN:
            assert all(line in row.context for line in row.written.split("\n"))


def test_the_words_of_a_checkpoint(base: Path, tmp_path: Path) -> None:
    """A model without prompts gets ours in writing; one with a gap in them is refused."""
    run = open_run(tmp_path, base).run
    open_dialogue(run)
    path = run.model / "memoserve_prompts.json"
    assert json.loads(path.read_text(encoding="utf-8")) == PROMPTS
    own = {"en": {**PROMPTS["en"], "clues": {"span": "say: {input}"}}}
    path.write_text(json.dumps(own), encoding="utf-8")
    with pytest.raises(ValueError, match=r"en\.clues\.surrogate is missing"):
        open_dialogue(run)


@pytest.mark.parametrize("source", ["rows", "worlds"])
def test_the_command(
    source: str, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, run, prompts = tmp_path / "rows.jsonl", tmp_path / "run", tmp_path / "prompts.json"
    row = {"context": "A cat.", "task": "span", "question": "Who?", "written": "A cat."}
    rows.write_text(json.dumps(row), encoding="utf-8")
    own = {"en": {**PROMPTS["en"], "acknowledgement": "yes"}}
    prompts.write_text(json.dumps(own), encoding="utf-8")
    where = ("--rows", str(rows)) if source == "rows" else ("--worlds", "1", "--words", "40")
    command = ["sft", "--model", str(base), "--run", str(run), *where, "--prompts", str(prompts)]
    more = ["--window", "16", "--ratios", "4", "--steps", "1", "--trains", "all"]
    monkeypatch.setattr(sys, "argv", [*command, *more])
    assert sft.main() == 0
    shipped = json.loads((run / "model" / "memoserve_prompts.json").read_text(encoding="utf-8"))
    assert shipped == own
    assert (run / "model" / "model.safetensors").is_file()
