"""Print a document of a seed with its questions: ``python -m memoserve_training.worlds``."""

from __future__ import annotations

import argparse
import random

from memoserve_training.worlds.documents import make_document, make_needle
from memoserve_training.worlds.values import Document, Split, WorldSettings


def show(document: Document) -> str:
    """Return the text, each question with answer, evidence and surrogates, and the key points."""
    lines = [document.text, ""]
    for question in document.questions:
        lines.append(f"[{question.kind.value}: {question.relation}] {question.text}")
        lines.append(f"    answer: {question.answer}")
        lines += (f"    evidence: {quote}" for quote in document.quotes(question))
        lines += (f"    surrogate: {surrogate}" for surrogate in question.surrogates)
    lines += (f"* {point}" for point in document.key_points)
    return "\n".join(lines)


def main() -> None:
    """Read the command line and print one document."""
    parser = argparse.ArgumentParser(prog="memoserve_training.worlds", description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--words", type=int, default=300)
    parser.add_argument("--split", choices=[split.value for split in Split], default="train")
    parser.add_argument("--terse", action="store_true", help="the shortest form of every fact")
    parser.add_argument("--needle", type=float, metavar="DEPTH", help="one fact in filler")
    args = parser.parse_args()
    settings = WorldSettings(split=Split(args.split), words=args.words, terse=args.terse)
    rng = random.Random(args.seed)
    if args.needle is None:
        print(show(make_document(rng, settings)))
    else:
        print(show(make_needle(rng, settings, args.needle)))


if __name__ == "__main__":
    main()
