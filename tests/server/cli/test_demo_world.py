"""The demo's first act: what is right is called right, and what is wrong is called wrong."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from memoserve.cli.demo_score import Outcome, Question, Score, found, score, to_show
from memoserve.cli.demo_world import (
    CLUE_TOKENS,
    OTHER,
    TOP_K,
    Shown,
    ask_other,
    holds_after_restart,
    play_world,
)
from memoserve_client import Client, Clue, ClueKind, Passage, Quote, Source
from tests.server.cli.world_server import (
    LIVES,
    MET,
    RAIN,
    WORKS,
    WorldServer,
    clue,
    gold,
    passage,
    world,
)

ONE, BO, WEATHER = "Where does Ada live?", "What is Bo?", "What fell?"
TWO = "What is the one whom Eve met?"
ALL = {
    ONE: ((LIVES,), "Dale"),
    BO: ((WORKS,), "a smith"),
    WEATHER: ((RAIN,), "rain"),
    TWO: ((MET, WORKS), "a smith"),
}
CHAIN = Question("two_hop", TWO, "a smith", (gold(MET), gold(WORKS)))


def outcome(
    answer: str = "a smith",
    quotes: Sequence[str] = (MET, WORKS),
    alone: Sequence[str] = (MET,),
    as_many: Sequence[str] = (MET, "Rain fell."),
    with_clues: Sequence[str] = (MET, WORKS),
) -> Outcome:
    clues = [clue(ClueKind.SPAN, text) for text in quotes]
    clues.append(clue(ClueKind.DRAFT_ANSWER, answer))

    def passages(facts: Sequence[str]) -> tuple[Passage, ...]:
        return tuple(map(passage, facts))

    return Outcome(CHAIN, tuple(clues), passages(alone), passages(as_many), passages(with_clues))


@pytest.mark.parametrize(
    ("said", "right"),
    [("a smith", True), ("A  smith.", True), ("smith", False), ("", False), ("a smith a", False)],
)
def test_an_answer_is_right_word_for_word(said: str, right: bool) -> None:
    assert outcome(said).answer_right is right


def test_an_answer_of_two_lines_is_none() -> None:
    one = outcome()
    more = clue(ClueKind.DRAFT_ANSWER, "a miller")
    assert not replace(one, clues=(*one.clues, more)).answer_right


def test_quotes_are_right_where_all_sentences_are_there() -> None:
    assert outcome(quotes=("noise", "eve met bo", WORKS)).quotes_right
    half = outcome(quotes=(MET, "Bo is a smith and more."))
    assert half.quoted == (True, False)
    assert not half.quotes_right
    # Only what is said as a quote is one.
    questions = tuple(replace(each, kind=ClueKind.SURROGATE) for each in outcome().clues)
    assert not replace(outcome(), clues=questions).quotes_right


def test_a_sentence_is_found_in_a_passage_that_holds_all_of_it() -> None:
    whole = passage(WORKS)
    cut = replace(whole, start_char=whole.start_char + 1)
    short = replace(whole, end_char=whole.end_char - 1)
    wide = replace(whole, start_char=0, end_char=whole.end_char + 9)
    sentence = (gold(WORKS),)
    assert found(sentence, (whole,)) == found(sentence, (cut, wide)) == (True,)
    assert found(sentence, (cut, short)) == found(sentence, ()) == (False,)


def test_a_score_counts_questions_of_its_kind_with_all_of_their_evidence() -> None:
    both = (MET, WORKS)
    outcomes = [
        outcome(),
        outcome(alone=both, as_many=both),
        outcome("a miller", quotes=(WORKS,), as_many=both, with_clues=(WORKS,)),
        replace(outcome(), question=replace(CHAIN, kind="other")),
    ]
    assert score("two_hop", outcomes) == Score("two_hop", 3, 2, 2, 1, 2, 2)


def test_what_is_shown_is_right_and_by_clues_where_there_is_such_a_question() -> None:
    wrong, found_anyway = outcome("a miller"), outcome(as_many=(MET, WORKS))
    assert to_show("two_hop", [wrong, found_anyway, outcome()])[0] == outcome()
    chosen, why = to_show("two_hop", [wrong, found_anyway])
    assert (chosen, "answers right" in why) == (found_anyway, True)
    chosen, why = to_show("two_hop", [wrong, outcome("a tailor")])
    assert (chosen, "NONE" in why) == (wrong, True)


class Counting(WorldServer):
    """Notes what is asked of which memory, written at ratio 8, and how many passages it takes."""

    def __init__(self, knows: Mapping[str, tuple[Sequence[str], str]]) -> None:
        super().__init__(knows)
        self.top_ks: list[int] = []
        self.asked: list[tuple[str, str]] = []
        self.written: list[tuple[str, Source, dict[str, Any]]] = []

    def get(self, name: str) -> SimpleNamespace:
        assert name == "demo-world"
        return SimpleNamespace(ratio=8)

    def memorize(self, name: str, sources: list[Source], **options: Any) -> SimpleNamespace:
        self.written.append((name, sources[0], options))
        if name == OTHER:
            return SimpleNamespace()
        return super().memorize(name, sources, **options)

    @contextmanager
    def recall(self, _: str, question: str, **options: Any) -> Iterator[Iterable[Clue]]:
        self.asked.append((_, question))
        with super().recall(_, question, **options) as events:
            yield events

    @contextmanager
    def generate(
        self, _: str, question: str, *, use_clues: bool | None, **options: Any
    ) -> Iterator[Iterable[Quote]]:
        self.top_ks.append(options["top_k"])
        with super().generate(_, question, use_clues=use_clues) as events:
            yield events


def play(tmp_path: Path, server: WorldServer) -> tuple[Shown, ...]:
    return play_world(cast(Client, server), world(tmp_path))


def lines_of(text: str, head: str) -> list[list[str]]:
    """Cells of the table below ``head``."""
    below = text[text.index(head) :].splitlines()[1:]
    return [re.split(r"  +", line) for line in below if re.match(r"(one|two)_hop  ", line)]


def test_a_memory_that_knows_all_is_shown_to(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server = Counting(ALL)
    shown = play(tmp_path, server)
    said = capsys.readouterr().out
    assert lines_of(said, "kind ") == [
        ["one_hop", "3", "3", "3", "2", "3", "3"],
        ["two_hop", "1", "1", "1", "0", "0", "1"],
    ]
    assert "WRONG" not in said and "NONE" not in said
    assert [each.question.text for each in shown] == [ONE, TWO]
    assert "the memory's own answer: 'Dale', right" in said
    assert f"{LIVES}\n    characters 0-18; quoted by the memory: yes" in said
    # The answer that goes without clues comes first, and quotes something else.
    assert server.generated == [False, True, False, True]
    # Four passages by question and clues of two hops: as many for the answer without them.
    assert server.top_ks == [TOP_K, TOP_K, 4, TOP_K]
    found_by_both = "found without clues (as many passages): yes, with clues: yes"
    found_by_clues = "found without clues (as many passages): NO, with clues: yes"
    assert (said.count(found_by_both), said.count(found_by_clues)) == (2, 1)
    assert [*map(int, re.findall(r"\((\d+) passages each\)", said))] == [3, 4]
    place = "the sentence that says it is there, characters"
    assert re.findall(rf"{place} (\d+-\d+): (\w+)", said) == [
        *(("0-18", "NO"), ("0-18", "yes"), ("82-96", "NO"), ("82-96", "yes")),
    ]
    for options in server.recalls:
        sampling = options["sampling"]
        assert (sampling.temperature, sampling.max_tokens) == (0.0, CLUE_TOKENS)
        assert options["kinds"] == (ClueKind.SPAN, ClueKind.DRAFT_ANSWER)


def test_what_more_passages_find_is_not_called_found_by_clues(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    play(tmp_path, WorldServer({WEATHER: ALL[WEATHER]}))
    said = capsys.readouterr().out
    shown = said[said.index("== one_hop") : said.index("== two_hop")]
    assert WEATHER in shown
    # The fourth of four; three passages alone would not do.
    assert "(4 passages each)" in shown
    assert "found without clues (as many passages): yes, with clues: yes" in shown


def test_a_memory_that_knows_nothing_is_said_to(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    play(tmp_path, WorldServer({}))
    said = capsys.readouterr().out
    assert [line[:4] for line in lines_of(said, "kind ")] == [
        ["one_hop", "3", "0", "0"],
        ["two_hop", "1", "0", "0"],
    ]
    assert said.count("NONE of them right") == 2
    assert "'nonsense', WRONG, the text says 'Dale'" in said


def test_the_memory_of_another_text_is_asked_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server = Counting({BO: ((WORKS,), "a smith"), TWO: ((MET,), "a smith")})
    small = world(tmp_path)
    words = small.path.read_text(encoding="utf-8").split()
    text = "Été  one\n" * len(words)
    ask_other(cast(Client, server), small, "long.txt", text.encode())
    ((name, source, options),) = server.written
    assert (name, source.source_id, options["ratio"]) == (OTHER, "long.txt", 8)
    assert isinstance(source.text, bytes)
    beginning = source.text.decode()
    assert text.startswith(beginning)
    assert len(beginning.split()) == len(words)
    assert sorted(server.asked) == sorted((OTHER, each.text) for each in small.questions)
    said = capsys.readouterr().out
    line = "the same questions to the memory of another text: 2 answers right, 1 quotes right of 4"
    assert said.startswith(f"{line}\n")
    assert f"(the first {len(words)} words of long.txt, " in said
    # Quietly: no clue is printed.
    assert "draft_answer" not in said


def test_after_a_restart_all_that_was_shown_must_come_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    act = play(tmp_path, WorldServer(ALL))
    assert holds_after_restart(cast(Client, WorldServer(ALL)), act)
    assert "the same clues for the 2 questions shown" in capsys.readouterr().out
    # The last of those shown says something else, in the same words of another kind.
    changed = ALL | {TWO: ((MET, "a smith"), WORKS)}
    assert not holds_after_restart(cast(Client, WorldServer(changed)), act)
    assert "OTHER CLUES" in capsys.readouterr().out
