"""What is measured: lengths, ratios, how many documents and questions of each."""

from __future__ import annotations

import argparse
from dataclasses import dataclass, replace

K = 1024


@dataclass(frozen=True)
class Plan:
    """A run; lengths in tokens of the memory model.

    ``documents``: of a needle cell; of a long one as many as ``long_tokens`` tokens hold, at least
    ``least``. ``needles``: questions about each. The controls of needles are asked up to
    ``control_tokens``, where a memory that knows nothing says the same as at any length.
    ``clue_*``: documents with every kind of question, for clues and evidence; ``clue_tokens`` at
    most are written of a kind of clue. ``in_flight``: queries that the server has at a time.
    """

    seed: int = 1
    lengths: tuple[int, ...] = (256, 512, K, 2 * K, 4 * K, 8 * K, 16 * K, 32 * K)
    ratios: tuple[int, ...] = (0, 2, 4, 8, 16)
    documents: int = 10
    least: int = 3
    long_tokens: int = 64 * K
    needles: int = 8
    control_tokens: int = K
    clue_length: int = 2 * K
    clue_ratios: tuple[int, ...] = (0, 4, 8)
    clue_documents: int = 8
    clue_questions: int = 36
    clue_tokens: int = 96
    in_flight: int = 8

    def __post_init__(self) -> None:
        for name in ("lengths", "ratios"):
            if not getattr(self, name):
                raise ValueError(f"{name}: name at least one")
        for name in ("documents", "needles", "in_flight"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, must be at least 1")
        if min(*self.lengths, self.clue_length) < 64:
            raise ValueError("lengths: a text of under 64 tokens holds no needles")
        if min(*self.ratios, *self.clue_ratios, 0) < 0:
            raise ValueError("ratios: none is negative")

    def documents_at(self, length: int) -> int:
        """Documents of the needle cells of a length."""
        return min(self.documents, max(self.least, self.long_tokens // length))

    @property
    def control_ratio(self) -> int | None:
        """The ratio at which clues of other memories are asked for; None without compression."""
        compressed = [ratio for ratio in self.clue_ratios if ratio]
        return compressed[0] if compressed else None


QUICK = Plan(
    lengths=(256, 512 * K),
    ratios=(0, 4),
    documents=2,
    least=1,
    needles=2,
    clue_length=512,
    clue_ratios=(4,),
    clue_documents=2,
    clue_questions=4,
    clue_tokens=8,
)


def tokens_of(text: str) -> int:
    """A length such as ``300`` or ``0.25K``, in tokens. Raises ValueError."""
    plain = text.strip().upper()
    return round(float(plain[:-1]) * K) if plain.endswith("K") else int(plain)


def _lengths(text: str) -> tuple[int, ...]:
    return tuple(tokens_of(part) for part in text.split(","))


def _ratios(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(",") if part)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options that change a plan; those left out leave it as it is."""
    parser.add_argument("--seed", type=int, help="of the documents and of the intervals")
    parser.add_argument("--lengths", type=_lengths, metavar="0.25K,1K", help="of needle texts")
    parser.add_argument("--ratios", type=_ratios, metavar="0,2,4", help="of needle memories")
    parser.add_argument("--documents", type=int, help="of each needle cell, fewer where long")
    parser.add_argument("--clue-length", type=tokens_of, help="of texts asked for clues")
    parser.add_argument("--clue-ratios", type=_ratios, metavar="0,4", help="of their memories")
    parser.add_argument("--clue-documents", type=int, help="0: leave clues and evidence out")


OPTIONS = (
    *("seed", "lengths", "ratios", "documents"),
    *("clue_length", "clue_ratios", "clue_documents"),
)


def plan_of(arguments: argparse.Namespace) -> Plan:
    """The plan that the options ask for. Raises ValueError."""
    given = {name: getattr(arguments, name) for name in OPTIONS}
    plan = QUICK if arguments.quick else Plan()
    return replace(plan, **{name: value for name, value in given.items() if value is not None})
