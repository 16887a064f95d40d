"""Preference by the end result: sampling, rewards, and the loss."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from memoserve.memory.window import RatioSchedule
from memoserve.models.loader import LoadedModel
from memoserve_training import preference
from memoserve_training.base import open_dialogue
from memoserve_training.batch import TreeIds, forward_batch
from memoserve_training.branches import attend_to
from memoserve_training.chat import Asked
from memoserve_training.data_files import (
    BadRow,
    PreferenceRow,
    read_preference_rows,
    world_preference_rows,
)
from memoserve_training.masters import Trains
from memoserve_training.preference import Pair, PreferenceObjective, PreferenceSettings, dpo_loss
from memoserve_training.reward import Bm25, EndResult, clues_of, passages_of
from memoserve_training.sampling import Draws, sample
from memoserve_training.tuning import Pace
from memoserve_training.worlds import Span
from tests.server.fixtures import random_ids, tiny_model
from tests.training.toys import WORLD, Opened, open_run, write_toy

CONTEXT = (
    "The mill stands in Orlin. Rain fell all week! Who knows why? The baker of Orlin is Tarn. "
    "Tarn keeps bees."
)
EVIDENCE = (Span(61, 89), Span(90, 106))
ROW = PreferenceRow(CONTEXT, "What does the baker keep?", EVIDENCE, "bees")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_toy(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def model() -> LoadedModel:
    return tiny_model(dtype=torch.float64)


# --- sampling


@pytest.mark.parametrize("ratio", [0, 2, 4])
@pytest.mark.parametrize("trunk", [5, 16, 37])
def test_the_likeliest_is_that_of_a_whole_forward(
    model: LoadedModel, trunk: int, ratio: int
) -> None:
    """Token by token, behind closed windows and closing some, with nothing kept in between."""
    schedule = RatioSchedule((ratio,))
    context, prompt = random_ids(trunk, 0), random_ids(3, 1)
    draws = Draws(samples=2, most=12, temperature=0)
    drawn = sample(model, schedule, context, prompt, draws, frozenset(), seed=0)
    assert drawn[0] == drawn[1]
    grown = list(prompt)
    for token in drawn[0]:
        ids = TreeIds(torch.tensor([context]), torch.tensor([[grown]]))
        plan, attend = attend_to(model, ids, schedule)
        with torch.no_grad():
            logits = model.model(forward_batch(plan, ids, attend))
        assert int(logits[-1].argmax()) == token
        grown.append(token)


def test_samples_differ_and_repeat(model: LoadedModel) -> None:
    def drawn(seed: int, temperature: float = 1.0) -> list[tuple[int, ...]]:
        draws = Draws(samples=3, most=5, temperature=temperature)
        context, prompt = random_ids(20, 0), random_ids(3, 1)
        return sample(model, RatioSchedule((4,)), context, prompt, draws, frozenset(), seed)

    assert drawn(1) == drawn(1) != drawn(2)
    assert len(set(drawn(1, temperature=3.0))) == 3
    assert len(set(drawn(1, temperature=0.01))) == 1


def test_a_sample_ends_where_the_model_ends_it(model: LoadedModel) -> None:
    context, prompt = random_ids(20, 0), random_ids(3, 1)
    draws = Draws(samples=4, most=12)
    free = sample(model, RatioSchedule((4,)), context, prompt, draws, frozenset(), seed=3)
    end = free[0][4]
    ended = sample(model, RatioSchedule((4,)), context, prompt, draws, frozenset([end]), seed=3)
    for whole, part in zip(free, ended, strict=True):
        stop = whole.index(end) + 1 if end in whole else len(whole)
        assert part == whole[:stop]
    assert len(ended[0]) <= 5


# --- rewards


def test_passages_are_whole_sentences() -> None:
    texts = [CONTEXT[span.start : span.end] for span in passages_of(CONTEXT, 8)]
    assert texts == [
        "The mill stands in Orlin.",
        "Rain fell all week! Who knows why?",
        "The baker of Orlin is Tarn.",
        "Tarn keeps bees.",
    ]
    assert len(passages_of(CONTEXT, 1)) == 5
    assert passages_of(CONTEXT, 100) == [Span(0, len(CONTEXT))]
    assert passages_of(" \n ", 5) == []


def test_bm25_is_its_formula() -> None:
    scores = Bm25()("Cat, dog", ["a cat", "a cat a cat", "a bird"])
    rare = math.log(1 + 1.5 / 2.5)
    mean = 8 / 3
    damping = [1.2 * (0.25 + 0.75 * size / mean) for size in (2, 4)]
    assert scores == pytest.approx(
        [rare * 1 * 2.2 / (1 + damping[0]), rare * 2 * 2.2 / (2 + damping[1]), 0]
    )


@pytest.mark.parametrize(
    ("clues", "worth"),
    [
        ((), 0.5),
        (("Rain fell all week!",), 0.5),
        (("Tarn keeps bees.",), 1.5),
    ],
)
def test_clues_are_worth_what_they_find(clues: tuple[str, ...], worth: float) -> None:
    """The question finds the baker; who the baker is, and so the bees, takes a clue."""
    assert EndResult(top_k=2, passage_words=8).of(ROW, clues) == worth


def test_parts_of_the_reward() -> None:
    assert EndResult(top_k=9, passage_words=8).of(ROW, ()) == 0.5  # found by no word of it
    clue = ("Tarn keeps bees.",)
    assert EndResult(top_k=1, passage_words=8).of(ROW, clue) in (0.5, 1.0)
    assert EndResult(top_k=2, passage_words=8, answer_weight=0.25).of(ROW, clue) == 1.25

    def last(query: str, passages: Sequence[str]) -> list[float]:
        return [float(i + 1) for i in range(len(passages))]

    assert EndResult(ranker=last, top_k=1, passage_words=8).of(ROW, ()) == 1.0


def test_clues_are_lines() -> None:
    assert clues_of(" one\n\n two \none\n") == ("one", "two")


# --- the loss


def test_dpo_is_its_formula() -> None:
    policy, reference = torch.tensor([-3.0, -5.0]), torch.tensor([-4.0, -4.5])
    wanted = -math.log(1 / (1 + math.exp(-0.1 * (1.0 + 0.5))))
    assert dpo_loss(policy, reference, 0.1).item() == pytest.approx(wanted, rel=1e-6)
    assert dpo_loss(policy, policy, 3.0).item() == pytest.approx(math.log(2))


PAIR = Pair(
    trunk=tuple(range(3, 43)),
    best=Asked((50, 51, 60, 61, 62), 2),
    worst=Asked((50, 51, 70, 71), 2),
    schedule=RatioSchedule((4,)),
)


def objective_of(opened: Opened, settings: PreferenceSettings) -> PreferenceObjective:
    rows = list(world_preference_rows(1, 2, WORLD))
    words, reference = open_dialogue(opened.run), opened.masters.copies()
    return PreferenceObjective(opened.loaded, words, rows, EndResult(), reference, settings)


def likelihood(loaded: LoadedModel, asked: Asked) -> float:
    """Of what was written, by a forward of its own."""
    ids = TreeIds(torch.tensor([PAIR.trunk]), torch.tensor([[asked.ids]]))
    plan, attend = attend_to(loaded, ids, PAIR.schedule)
    with torch.no_grad():
        likely = loaded.model(forward_batch(plan, ids, attend)).log_softmax(dim=-1)
    places = range(asked.first, len(asked.ids))
    return sum(float(likely[t - 1, asked.ids[t]]) for t in places)


@pytest.mark.parametrize(
    ("trains", "normalised", "tied"),
    [
        (Trains.BEACONS, False, False),
        (Trains.ALL, True, False),
        (Trains.ALL, False, True),
    ],
)
def test_the_loss_of_a_pair(trains: Trains, normalised: bool, tied: bool, tmp_path: Path) -> None:
    """Before training log 2 and the likelihood of the best; after it, against the frozen copy."""
    base = write_toy(tmp_path / "base", tie_word_embeddings=tied)
    opened = open_run(tmp_path / "run", base, trains)
    settings = PreferenceSettings(beta=0.7, sft_weight=0.3, normalised=normalised)
    objective = objective_of(opened, settings)
    before = [likelihood(opened.loaded, asked) for asked in (PAIR.best, PAIR.worst)]
    part = objective.loss_of(PAIR)
    assert part.loss is not None
    assert part.figures == {"preference": pytest.approx(math.log(2)), "ahead": 0.0}
    assert part.loss.item() == pytest.approx(math.log(2) - 0.3 * before[0] / 3, rel=1e-5)
    part.loss.backward()
    opened.masters.collect()
    opened.masters.step(0.01, clip=1.0)
    after = [likelihood(opened.loaded, asked) for asked in (PAIR.best, PAIR.worst)]
    lengths = (3, 2) if normalised else (1, 1)
    gains = [(a - b) / n for a, b, n in zip(after, before, lengths, strict=True)]
    wanted = math.log(1 + math.exp(-0.7 * (gains[0] - gains[1])))
    again = objective.loss_of(PAIR)
    assert again.figures == {"preference": pytest.approx(wanted, rel=1e-4), "ahead": 1.0}
    assert wanted < math.log(2)


class CountsVowels(EndResult):
    """What is written is worth its share of vowels."""

    def of(self, row: PreferenceRow, clues: Sequence[str]) -> float:
        text = "".join(clues)
        return sum(letter in "aeiou" for letter in text) / max(1, len(text))


def test_the_reward_rises(base: Path, tmp_path: Path) -> None:
    opened = open_run(tmp_path, base, Trains.ALL)
    rows = [PreferenceRow("A cat sat on the mat.", "Who?", (Span(0, 5),), "cat")]
    settings = PreferenceSettings(draws=Draws(samples=12, most=5))
    words, reference = open_dialogue(opened.run), opened.masters.copies()
    objective = PreferenceObjective(opened.loaded, words, rows, CountsVowels(), reference, settings)

    def reward() -> float:
        """On draws that training does not make."""
        return sum(objective.part(number).figures["reward"] for number in range(100, 104)) / 4

    before = reward()
    opened.tuner(objective, Pace(steps=16, rate=0.03, log_steps=1)).train()
    assert reward() > 3 * before
    assert float(opened.rows()[-1]["preference"]) < 0.95 * math.log(2)


def test_nothing_is_learned_where_all_are_worth_the_same(base: Path, tmp_path: Path) -> None:
    opened = open_run(tmp_path, base)
    objective = objective_of(opened, PreferenceSettings(draws=Draws(samples=2, most=2)))
    part = objective.part(0)  # two tokens of noise find nothing beyond the question
    assert part.loss is None and part.tokens > 0
    assert part.figures["spread"] == 0
    opened.tuner(objective, Pace(steps=1, rate=1.0, log_steps=1)).train()
    for name, parameter in opened.masters.copies().items():
        assert torch.equal(parameter, objective._reference[name])
    assert opened.rows()[0]["loss"] == opened.rows()[0]["ahead"] == ""


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"draws": Draws(samples=1)}, "at least two"),
        ({"beta": 0.0}, "beta"),
        ({"sft_weight": -1.0}, "sft_weight"),
    ],
)
def test_settings_are_checked(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PreferenceSettings(**change)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="nothing can be drawn"):
        Draws(temperature=-1)


# --- files and the command


def test_rows_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    whole = {"context": CONTEXT, "question": "q", "evidence": [[0, 5]], "answer": "a"}
    path.write_text(json.dumps(whole), encoding="utf-8")
    assert list(read_preference_rows(path)) == [PreferenceRow(CONTEXT, "q", (Span(0, 5),), "a")]
    for evidence in ([], [[5]], [[5, 5]], [[0, 999]], [[0.0, 5]], [["0", "5"]], "0-5"):
        path.write_text(json.dumps({**whole, "evidence": evidence}), encoding="utf-8")
        with pytest.raises(BadRow, match=r"rows.jsonl:1: evidence"):
            list(read_preference_rows(path))


def test_rows_of_worlds() -> None:
    rows = list(world_preference_rows(1, 3, WORLD))
    assert rows == list(world_preference_rows(1, 3, WORLD))
    # Every gold sentence among the clues finds it all.
    for row in rows:
        gold = [row.context[span.start : span.end] for span in row.evidence]
        assert EndResult(top_k=8, passage_words=5, answer_weight=0).of(row, gold) == 1


def test_the_command(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tmp_path / "run"
    command = ["preference", "--model", str(base), "--run", str(run), "--worlds", "1"]
    more = ["--words", "40", "--window", "16", "--ratios", "4", "--steps", "1", "--most", "3"]
    monkeypatch.setattr(sys, "argv", [*command, *more, "--normalised"])
    assert preference.main() == 0
    settings = json.loads((run / "settings.json").read_text(encoding="utf-8"))
    assert settings["normalised"] is True and settings["draws"]["most"] == 3
    assert (run / "model" / "model.safetensors").is_file()
