"""Writes a text of the small world that the model in the box is trained for, and questions.

    python benchmarks/corpus/make_world.py --seed 7 --words 1200 --out DIR

gives DIR/world.txt and DIR/world_questions.json, byte for byte the same on every machine. The text
is drawn from the held-out half of the world: none of its names and none of its sentences is ever
trained on. Evidence stands in the order in which one reasons: its last sentence says the answer.
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path
from typing import Any

from memoserve_training.worlds import (
    Document,
    Kind,
    Question,
    Split,
    WorldSettings,
    make_document,
)

KINDS = {Kind.ONE_HOP: 2.0, Kind.TWO_HOP: 1.0}
ASKED_PER_KIND = 8
# What nobody asks in the end stands in the text all the same.
QUESTIONS = 40
FILLER = 0.25
SEED, WORDS = 7, 1200


def make(seed: int, words: int) -> tuple[str, list[dict[str, Any]]]:
    """The text, and of each kind its first questions, in the form of world_questions.json.

    Raises ValueError where the text is too short for as many.
    """
    settings = WorldSettings(
        split=Split.HELD_OUT, words=words, kinds=KINDS, questions=QUESTIONS, filler=FILLER
    )
    document = make_document(random.Random(seed), settings)
    rows: list[dict[str, Any]] = []
    for kind in KINDS:
        asked = {each.text: each for each in document.questions if each.kind is kind}
        if len(asked) < ASKED_PER_KIND:
            raise ValueError(f"{words} words hold {len(asked)} questions of {kind.value}")
        rows += [_row(document, each) for each in list(asked.values())[:ASKED_PER_KIND]]
    return document.text + "\n", rows


def _row(document: Document, question: Question) -> dict[str, Any]:
    quotes = zip(document.quotes(question), question.evidence, strict=True)
    return {
        "kind": question.kind.value,
        "question": question.text,
        "answer": question.answer,
        "evidence": [
            {"text": text, "start_char": span.start, "end_char": span.end} for text, span in quotes
        ],
    }


def main() -> None:
    """Parse the arguments and write both files."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--words", type=int, default=WORDS, help="about so many")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    text, questions = make(arguments.seed, arguments.words)
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "world.txt").write_bytes(text.encode())
    rows = json.dumps(questions, ensure_ascii=False, indent=2)
    (arguments.out / "world_questions.json").write_bytes(f"{rows}\n".encode())
    print(f"{len(text.split())} words, {len(text.encode())} bytes, {len(questions)} questions")


if __name__ == "__main__":
    main()
