"""The demo's first act: a text of the small world that the model in the box was trained for."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from memoserve.cli.demo_score import (
    Outcome,
    Question,
    Score,
    found,
    read_questions,
    says,
    score,
    to_show,
)
from memoserve.cli.demo_steps import Recalled, generate, heading, memorize_text, recall
from memoserve.cli.tables import table
from memoserve_client import Client, ClueKind, Committed, Fusion, Passage, Source, WriteMode

MEMORY = "demo-world"
OTHER = "demo-world-other"
KINDS = (ClueKind.SPAN, ClueKind.DRAFT_ANSWER)
# Two sentences of a text and to spare; a model that knows when to stop takes fewer.
CLUE_TOKENS = 64
TOP_K = 3
IN_FLIGHT = 8
HEAD = (
    *("kind", "asked", "answers right", "quotes right"),
    *("evidence: question alone", "as many passages", "with clues"),
)


@dataclass(frozen=True)
class World:
    """The text, and what is asked about it."""

    path: Path
    questions: tuple[Question, ...]


@dataclass(frozen=True)
class Shown:
    """A question that was shown in full, and what the memory said to it."""

    question: Question
    recalled: Recalled


def read_world(folder: Path) -> World:
    """The text and questions that lie in ``folder``. Raises OSError."""
    return World(folder / "world.txt", read_questions(folder / "world_questions.json"))


def play_world(client: Client, world: World) -> tuple[Shown, ...]:
    """Memorize the text, ask all questions, show one of each kind in full, print a table.

    Returns what was shown, to be asked again after the restart.
    """
    text = world.path.read_bytes()
    print(f"text: {world.path} ({len(text.split()):,} words)")
    _tell_rows(memorize_text(client, MEMORY, Source(world.path.name, text)))
    kinds = tuple(dict.fromkeys(each.kind for each in world.questions))
    print(f"\nasking {len(world.questions)} questions, {IN_FLIGHT} at a time ...", flush=True)
    outcomes = _side_by_side(partial(_ask, client), world.questions)
    shown = tuple(_show(client, kind, outcomes) for kind in kinds)
    scores = tuple(score(kind, outcomes) for kind in kinds)
    heading("all questions", "how many of each kind are right, word for word")
    print(score_table(scores))
    print(
        "answers, quotes: by the memory alone, from its beacons and its open window\n"
        f"evidence: all sentences needed lie in the passages found, {TOP_K} by the question and "
        f"{TOP_K} by each clue;\n    as many passages: by the question alone, where it may find "
        "as many as question and clues"
    )
    return shown


def ask_other(client: Client, world: World, name: str, text: bytes) -> None:
    """Ask the same of a memory that cannot know; prints what it gets right, which is luck.

    It holds the beginning of ``text``, as many words as the world's text has, at the same ratio.
    """
    words = len(world.path.read_bytes().split())
    beginning = b"".join(re.findall(rb"\s*\S+", text)[:words])
    client.memorize(
        OTHER,
        [Source(name, beginning)],
        mode=WriteMode.REPLACE,
        ratio=client.get(MEMORY).ratio,
    )
    outcomes = _side_by_side(
        lambda question: _recalled_alone(client, OTHER, question), world.questions
    )
    print(
        f"the same questions to the memory of another text: "
        f"{sum(each.answer_right for each in outcomes)} answers right, "
        f"{sum(each.quotes_right for each in outcomes)} quotes right of {len(outcomes)}\n"
        f"    (the first {len(beginning.split()):,} words of {name}, which say nothing of them: "
        "what is right here is luck)"
    )


def holds_after_restart(client: Client, shown: Sequence[Shown]) -> bool:
    """Ask the memory what was shown of it once more; whether it says the same. Prints that."""
    holds = all(
        _recall(client, MEMORY, each.question, quiet=True).said == each.recalled.said
        for each in shown
    )
    clues = "the same clues" if holds else "OTHER CLUES"
    print(f"{MEMORY} after the restart: {clues} for the {len(shown)} questions shown")
    return holds


def score_table(scores: Sequence[Score]) -> str:
    """A line a kind."""
    rows = [
        (
            each.kind,
            each.asked,
            each.answers,
            each.quotes,
            each.alone,
            each.as_many,
            each.with_clues,
        )
        for each in scores
    ]
    return table(HEAD, [tuple(map(str, row)) for row in rows])


def _tell_rows(committed: Committed) -> None:
    stats = committed.memory.stats
    print(
        f"of the text stay {stats.memory_rows:,} beacons, and its last tokens as they are: "
        f"{stats.window_rows:,} rows of the open window"
    )


def _side_by_side(
    ask: Callable[[Question], Outcome], questions: Sequence[Question]
) -> list[Outcome]:
    with ThreadPoolExecutor(IN_FLIGHT) as pool:
        return list(pool.map(ask, questions))


def _recall(client: Client, memory: str, question: Question, *, quiet: bool) -> Recalled:
    return recall(client, memory, question.text, CLUE_TOKENS, KINDS, quiet=quiet)


def _recalled_alone(client: Client, memory: str, question: Question) -> Outcome:
    """What a memory says, with no search for passages."""
    return Outcome(question, _recall(client, memory, question, quiet=True).clues, (), (), ())


def _ask(client: Client, question: Question) -> Outcome:
    return _searched(client, question, _recall(client, MEMORY, question, quiet=True))


def _searched(client: Client, question: Question, recalled: Recalled) -> Outcome:
    """Add the passages that are found without the clues and with them."""
    used = [clue.text for clue in recalled.clues if not clue.dropped]
    with_clues = _retrieve(client, question, used, TOP_K)
    # By rank: the first of them are what the question finds where it may find fewer.
    ranked = _retrieve(client, question, (), max(TOP_K, len(with_clues)))
    return Outcome(question, recalled.clues, ranked[:TOP_K], ranked, with_clues)


def _retrieve(
    client: Client, question: Question, clues: Sequence[str], top_k: int
) -> tuple[Passage, ...]:
    with client.retrieve(
        MEMORY, question.text, clues=clues, top_k=top_k, fusion=Fusion.RRF
    ) as events:
        return tuple(event for event in events if isinstance(event, Passage))


def _show(client: Client, kind: str, outcomes: Sequence[Outcome]) -> Shown:
    """Ask a question once more, on its own, and print all of it."""
    chosen, why = to_show(kind, outcomes)
    question = chosen.question
    heading(f"{kind}, {why}", question.text)
    recalled = _recall(client, MEMORY, question, quiet=False)
    outcome = _searched(client, question, recalled)
    _print_outcome(outcome)
    for use_clues in (False, True):
        print(f"answer from the passages, {'with' if use_clues else 'without'} clues:", flush=True)
        answered = generate(
            client,
            MEMORY,
            question.text,
            use_clues=use_clues,
            kinds=KINDS if use_clues else None,
            # Without clues from as many passages, so that more of them are not what helps.
            top_k=TOP_K if use_clues else max(TOP_K, len(outcome.as_many)),
        )
        last = question.evidence[-1]
        place = f"characters {last.start}-{last.end}"
        print(
            f"  quoted from {len(answered.passages)} passages; the sentence that says it is there, "
            f"{place}: {_yes(says(last, answered.quotes))}"
        )
    return Shown(question, recalled)


def _print_outcome(outcome: Outcome) -> None:
    question = outcome.question
    verdict = "right" if outcome.answer_right else f"WRONG, the text says {question.answer!r}"
    print(f"the memory's own answer: {outcome.draft!r}, {verdict}")
    by_question = found(question.evidence, outcome.as_many)
    by_clues = found(question.evidence, outcome.with_clues)
    # As many without clues as with them: a text too short for that gives all that it has to both.
    print(
        "sentences needed, in the text and in what is found "
        f"({len(outcome.with_clues)} passages each):"
    )
    for gold, quoted, alone, clues in zip(
        question.evidence, outcome.quoted, by_question, by_clues, strict=True
    ):
        print(
            f"  {gold.text}\n    characters {gold.start}-{gold.end}; quoted by the memory: "
            f"{_yes(quoted)}\n    found without clues (as many passages): {_yes(alone)}, "
            f"with clues: {_yes(clues)}"
        )


def _yes(true: bool) -> str:
    return "yes" if true else "NO"
