"""Batches of documents and questions, drawn as training goes on."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from memoserve_training.batch import TreeIds
from memoserve_training.chat import Asked, ChatWords, Task
from memoserve_training.worlds import Document, Question, WorldSettings, make_document

# A document must fill its trunk; English of the generator has fewer tokens a word than this.
WORDS_PER_TOKEN = 0.8


@dataclass(frozen=True)
class Lesson:
    """What a batch is drawn from.

    ``trunk`` tokens a document, cut there; ``branches`` questions each, none longer than
    ``longest`` tokens with what is written; ``tasks`` by weight.
    ``world.words`` is not looked at.
    """

    world: WorldSettings
    trunk: int
    branches: int
    longest: int = 96
    tasks: Mapping[Task, float] = field(default_factory=lambda: {Task.ANSWER: 1.0})


@dataclass(frozen=True)
class Batch:
    """``ids``, and for each branch ``[B, Q]`` the number of written tokens at its end.

    ``targets [B, Q, U]``: the id that follows each branch token, -1 where nobody asks.
    ``kinds`` names the kind of question and the task of each branch, "" where there is none.
    """

    ids: TreeIds
    targets: Tensor
    kinds: tuple[tuple[str, ...], ...]

    @property
    def tokens(self) -> int:
        """Raw tokens."""
        return self.ids.trunk.numel() + self.ids.branches.numel()


def draw_batch(rng: random.Random, words: ChatWords, lesson: Lesson, documents: int) -> Batch:
    """Draw documents and questions that can be answered from what the trunk holds."""
    drawn = [_document(rng, words, lesson) for _ in range(documents)]
    longest = max(len(asked.ids) for _, branches in drawn for _, asked in branches)
    ids = torch.zeros(documents, lesson.branches, longest, dtype=torch.int64)
    targets = torch.full_like(ids, -1)
    kinds = [[""] * lesson.branches for _ in drawn]
    for i, (_, branches) in enumerate(drawn):
        for j, (kind, asked) in enumerate(branches):
            branch = torch.tensor(asked.ids)
            ids[i, j, : len(branch)] = branch
            targets[i, j, asked.first - 1 : len(branch) - 1] = branch[asked.first :]
            kinds[i][j] = kind
    trunk = torch.tensor([trunk for trunk, _ in drawn])
    return Batch(TreeIds(trunk, ids), targets, tuple(tuple(row) for row in kinds))


def _document(
    rng: random.Random, words: ChatWords, lesson: Lesson
) -> tuple[list[int], list[tuple[str, Asked]]]:
    """Ids of one trunk, and its branches; drawn again where no question can be asked."""
    target = round(lesson.trunk * WORDS_PER_TOKEN)
    while True:
        document = make_document(rng, _sized(lesson.world, target))
        ids, ends = words.document(document.text)
        if len(ids) < lesson.trunk:
            target = round(target * 1.3)
            continue
        branches = _branches(rng, words, lesson, document, ends[lesson.trunk - 1])
        if branches:
            return ids[: lesson.trunk], branches


def _sized(world: WorldSettings, words: int) -> WorldSettings:
    return WorldSettings(**{**vars(world), "words": words})


def _branches(
    rng: random.Random, words: ChatWords, lesson: Lesson, document: Document, end: int
) -> list[tuple[str, Asked]]:
    """Branches for questions whose evidence stands before character ``end``."""
    told = [q for q in document.questions if all(span.end <= end for span in q.evidence)]
    rng.shuffle(told)
    tasks, weights = list(lesson.tasks), list(lesson.tasks.values())
    branches: list[tuple[str, Asked]] = []
    for question in told:
        if len(branches) == lesson.branches:
            break
        task = rng.choices(tasks, weights)[0]
        asked = words.ask(task, question.text, written(task, document, question))
        if len(asked.ids) <= lesson.longest:
            branches.append((f"{question.kind.value}/{task.value}", asked))
    return branches


def written(task: Task, document: Document, question: Question) -> str:
    """What a model is to write for a task, line by line."""
    match task:
        case Task.SPAN:
            return "\n".join(dict.fromkeys(document.quotes(question)))
        case Task.SURROGATE:
            return "\n".join(dict.fromkeys(question.surrogates))
        case Task.ANSWER:
            return question.answer
        case Task.KEY_POINT:
            return "\n".join(document.key_points)


def numpy_rng(rng: random.Random) -> np.random.Generator:
    """A generator of numpy's that follows from a Python one."""
    return np.random.default_rng(rng.getrandbits(64))
