"""A server that knows a world as well as it is told to: for the demo's first act."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from memoserve.cli.demo_score import Gold, Question
from memoserve.cli.demo_world import World
from memoserve_client import Clue, ClueKind, MemoryRef, Passage, Quote, Source
from memoserve_client.types import as_ref

REF: MemoryRef = as_ref("demo-world@1")
# The two that a question of two hops takes lie so that its own words find only the first.
LIVES, MET, RAIN, WORKS = "Ada lives in Dale.", "Eve met Bo.", "Rain fell.", "Bo is a smith."
FACTS = (LIVES, "Dale has a bridge.", MET, RAIN, "Snow fell.", "Fog came.", WORKS)
TEXT = " ".join(FACTS)
DROPPED = "Fog came."


def gold(text: str) -> Gold:
    start = TEXT.index(text)
    return Gold(text, start, start + len(text))


def clue(kind: ClueKind, text: str, dropped: str = "") -> Clue:
    return Clue(kind, text, REF, dropped)


def passage(fact: str) -> Passage:
    """A passage of the one sentence."""
    place = gold(fact)
    span = (place.start, place.end)
    return Passage(REF, FACTS.index(fact), "world.txt", fact, *span, *span, 0.5, {})


def world(folder: Path) -> World:
    """Three questions of one hop, one of two."""
    path = folder / "world.txt"
    path.write_text(TEXT, encoding="utf-8")
    questions = (
        Question("one_hop", "Where does Ada live?", "Dale", (gold(LIVES),)),
        Question("one_hop", "What is Bo?", "a smith", (gold(WORKS),)),
        # The fourth that is found without a name to go by.
        Question("one_hop", "What fell?", "rain", (gold(RAIN),)),
        Question(
            "two_hop",
            "What is the one whom Eve met?",
            "a smith",
            (gold(MET), gold(WORKS)),
        ),
    )
    return World(path, questions)


class WorldServer:
    """Says what ``knows`` holds for a question: quotes and an answer; to others ``nonsense``.

    A question finds the sentences that share a name with it, a clue the sentence that it is; then
    what comes first in the text.
    """

    def __init__(self, knows: Mapping[str, tuple[Sequence[str], str]]) -> None:
        self.knows = knows
        self.recalls: list[dict[str, Any]] = []
        self.generated: list[bool | None] = []

    def info(self) -> SimpleNamespace:
        return SimpleNamespace(model=SimpleNamespace(default_ratio=4))

    def memorize(self, name: str, sources: list[Source], **_: Any) -> SimpleNamespace:
        assert (name, sources[0].text) == ("demo-world", TEXT.encode())
        stats = SimpleNamespace(memory_rows=12, window_rows=3)
        memory = SimpleNamespace(version=1, stats=stats)
        return SimpleNamespace(memory=memory, tokens_added=51, seconds=1.0)

    @contextmanager
    def recall(self, _: str, question: str, **options: Any) -> Iterator[Iterable[Clue]]:
        self.recalls.append(options)
        quotes, answer = self.knows.get(question, (("nonsense",), "nonsense"))
        spans = [clue(ClueKind.SPAN, text) for text in quotes]
        spans.append(clue(ClueKind.SPAN, DROPPED, "too short"))
        yield [clue(ClueKind.DRAFT_ANSWER, answer), *spans]

    @contextmanager
    def retrieve(
        self, _: str, question: str, *, clues: Sequence[str], top_k: int, **__: Any
    ) -> Iterator[Iterable[Passage]]:
        assert DROPPED not in clues
        names = {word for word in question.strip("?").split() if word in ("Ada", "Bo", "Eve")}
        ranked = sorted(FACTS, key=lambda fact: -len(names & set(fact.strip(".").split())))
        found = dict.fromkeys(ranked[:top_k])
        found |= dict.fromkeys(fact for fact in FACTS if fact in clues)
        yield [passage(fact) for fact in found]

    @contextmanager
    def generate(
        self, _: str, question: str, *, use_clues: bool | None, **__: Any
    ) -> Iterator[Iterable[Quote]]:
        self.generated.append(use_clues)
        quotes = self.knows[question][0] if use_clues and question in self.knows else FACTS[3:4]
        places = [passage(fact) for fact in quotes]
        yield [
            Quote(
                *(REF, "world.txt", each.text, each.start_byte, each.end_byte),
                *(each.start_char, each.end_char, 0.5),
            )
            for each in places
        ]
