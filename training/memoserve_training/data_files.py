"""Files that further training reads, line by line, and the same rows from generated documents."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from memoserve_training.chat import Task
from memoserve_training.examples import written
from memoserve_training.worlds import Document, Span, WorldSettings, make_document


class BadRow(ValueError):
    """A line that is no row; the message names the file, the line and what is wrong."""


@dataclass(frozen=True)
class ClueRow:
    """What a memory of ``context`` is to write when it is asked for ``task``, line by line."""

    context: str
    task: Task
    question: str
    written: str


@dataclass(frozen=True)
class PreferenceRow:
    """A question with its answer; ``evidence`` are the characters of ``context`` that tell it."""

    context: str
    question: str
    evidence: tuple[Span, ...]
    answer: str


def read_texts(path: Path) -> Iterator[str]:
    """Texts of a JSONL file of ``{"text"}``; any other file is one text. Raises BadRow."""
    if path.suffix != ".jsonl":
        yield path.read_text(encoding="utf-8")
        return
    for at, row in _rows(path):
        yield _string(at, row, "text")


def read_clue_rows(path: Path) -> Iterator[ClueRow]:
    """JSONL of ``{"context", "task", "question", "written"}``. Raises BadRow.

    ``task`` is span, surrogate, draft_answer or key_point; only the last needs no question.
    """
    names = [task.value for task in Task]
    for at, row in _rows(path):
        name = row.get("task")
        if name not in names:
            raise BadRow(f"{at}: task is {name!r}, not one of {', '.join(names)}")
        task = Task(name)
        question = row.get("question") or ""
        if task is not Task.KEY_POINT or question:
            question = _string(at, row, "question")
        yield ClueRow(_string(at, row, "context"), task, question, _string(at, row, "written"))


def read_preference_rows(path: Path) -> Iterator[PreferenceRow]:
    """JSONL of ``{"context", "question", "evidence", "answer"}``. Raises BadRow.

    ``evidence`` is a list of ``[start, end]``, characters of the context, the end not included.
    """
    for at, row in _rows(path):
        context = _string(at, row, "context")
        spans = row.get("evidence")
        if not isinstance(spans, list) or not spans:
            raise BadRow(f"{at}: evidence is not a list of [start, end]")
        yield PreferenceRow(
            context,
            _string(at, row, "question"),
            tuple(_span(at, span, len(context)) for span in spans),
            _string(at, row, "answer"),
        )


def _rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            at = f"{path}:{number}"
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise BadRow(f"{at}: not JSON: {error}") from error
            if not isinstance(row, dict):
                raise BadRow(f"{at}: not a JSON object")
            yield at, row


def _string(at: str, row: dict[str, Any], name: str) -> str:
    value = row.get(name)
    if not isinstance(value, str) or not value.strip():
        raise BadRow(f"{at}: {name} is {'empty' if isinstance(value, str) else 'no string'}")
    return value


def _span(at: str, value: object, length: int) -> Span:
    whole = isinstance(value, list) and all(type(part) is int for part in value)
    if not (whole and isinstance(value, list) and len(value) == 2):
        raise BadRow(f"{at}: evidence {value!r} is not [start, end]")
    start, end = value
    if not 0 <= start < end <= length:
        raise BadRow(f"{at}: evidence {value} does not lie in the context of {length} characters")
    return Span(start, end)


def world_documents(seed: int, count: int, world: WorldSettings) -> Iterator[Document]:
    """``count`` generated documents; the same for the same seed."""
    rng = random.Random(f"{seed} documents")
    for _ in range(count):
        yield make_document(rng, world)


def world_clue_rows(seed: int, count: int, world: WorldSettings) -> Iterator[ClueRow]:
    """Every task on every question of ``count`` generated documents."""
    for document in world_documents(seed, count, world):
        for question in document.questions:
            for task in (Task.SPAN, Task.SURROGATE, Task.ANSWER):
                text = written(task, document, question)
                yield ClueRow(document.text, task, question.text, text)
        if document.key_points:
            yield ClueRow(document.text, Task.KEY_POINT, "", "\n".join(document.key_points))


def world_preference_rows(seed: int, count: int, world: WorldSettings) -> Iterator[PreferenceRow]:
    """Every question of ``count`` generated documents, with its gold sentences."""
    for document in world_documents(seed, count, world):
        for question in document.questions:
            yield PreferenceRow(document.text, question.text, question.evidence, question.answer)
