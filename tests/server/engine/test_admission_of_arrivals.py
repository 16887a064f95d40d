"""What is on its way into pages: kept until its turn, not longer, and nobody livelocks over it."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch

from memoserve.engine.sampler import SamplingParams
from memoserve.engine.sequence import MemoryHandle, Sequence, Status
from memoserve.memory.memory import worst_case_pages
from memoserve.models.loader import LoadedModel
from tests.server.engine.comparing import same_state
from tests.server.engine.moving import (
    PROMPT,
    TEXT,
    ask,
    driver_of,
    reading,
    spilled,
)
from tests.server.fixtures import (
    Driver,
    Outcome,
    is_resident,
    is_spilled,
    random_ids,
    tiny_model,
)

# Window 8, ratio 4, pages of 2 rows: a full window has 10 rows, 5 pages, and leaves 2 rows.
TEXT_ROWS = 16  # of the memory of TEXT, in 8 pages
MOST_STEPS = 80  # for any crowd; they take up to 41


@pytest.fixture(scope="module")
def model() -> LoadedModel:
    return tiny_model(dtype=torch.float64)


# -- a question whose memory is fetched beside an older memory that grows ------------------------


@dataclass(frozen=True)
class Contest:
    """An older stream takes pages while the memory of a younger question comes, a row a step."""

    driver: Driver
    memory: MemoryHandle
    stream: Sequence
    made: Outcome
    query: Sequence
    asked: Outcome

    def step(self) -> None:
        self.driver.engine.step()
        self.driver.engine.check_integrity()

    def arrive(self) -> None:
        """Step until the memory is in its pages; the stream waits for pages by then."""
        for _ in range(TEXT_ROWS):
            self.step()
        assert not self.asked.started and self.driver.engine._lacking is self.stream


@pytest.fixture(params=["fetched"])
def contest(model: LoadedModel, request: pytest.FixtureRequest) -> Contest:
    """21 pages. The question may take 14 in all, its memory 8 of them, the stream 16."""
    driver = driver_of(model, rows=1, num_pages=21)
    memory = spilled(driver)
    stream, made = driver.submit(random_ids(8, 7), input_open=True)
    driver.engine.step()
    base = memory.host if request.param == "restored" else memory
    assert base is not None
    query, asked = driver.submit(PROMPT, base, sampling=SamplingParams(max_tokens=28))
    driver.engine.feed(stream, random_ids(80, 8), last=True)
    return Contest(driver, memory, stream, made, query, asked)


@pytest.mark.parametrize("contest", ["fetched", "restored"], indirect=True)
def test_pages_promised_to_who_arrives_are_not_given_away(contest: Contest) -> None:
    for _ in range(TEXT_ROWS - 1):
        contest.step()
        held = contest.query.held or contest.memory.held
        assert held is not None and not contest.asked.started
        needed = worst_case_pages(contest.driver.engine.rules, held, contest.query.tokens_to_come)
        assert contest.driver.engine.pool.num_free >= needed
    assert contest.stream.pending


def test_what_was_fetched_is_not_sent_back_before_its_turn(contest: Contest) -> None:
    """The stream lacks pages for the question's sake alone; the memory's would be in vain."""
    contest.arrive()
    assert is_resident(contest.memory) and not contest.memory.leaving


def test_what_was_fetched_is_kept_for_one_turn(contest: Contest) -> None:
    """Or the older stream would wait for the question, and the question for the stream."""
    contest.arrive()
    left = len(contest.stream.pending)
    contest.step()
    assert contest.made.error is None and len(contest.stream.pending) < left


def test_a_question_that_goes_away_at_its_turn_keeps_nothing(contest: Contest) -> None:
    contest.arrive()
    contest.query.cancelled = True
    contest.driver.drain()
    assert contest.made.reason == "memory" and is_spilled(contest.memory)


def test_a_memory_may_leave_beneath_who_runs_on_it(model: LoadedModel) -> None:
    """A text that goes on from a fetched memory outgrows the pool while both are there."""
    driver = driver_of(model, rows=1000, num_pages=16)
    memory = spilled(driver)
    stream, made = driver.submit([], memory, input_open=True)
    driver.engine.step()
    assert stream.status is Status.RUNNING and is_resident(memory)
    driver.engine.feed(stream, random_ids(40, 3), last=True)
    driver.drain(limit=20)
    assert made.reason == "memory" and is_spilled(memory)


# -- pages that come free when a reading ends -----------------------------------------------------


@pytest.mark.parametrize("runs", [False, True])
def test_nobody_is_refused_pages_that_a_reading_keeps(model: LoadedModel, runs: bool) -> None:
    """16 pages, 8 of a memory that is read out, 10 for a text that has begun or is to begin."""
    driver = driver_of(model, num_pages=16)
    memory = driver.compress(TEXT).memory
    stream, made = driver.submit([], input_open=True)
    if runs:
        driver.engine.step()
    answer = reading(driver, memory)
    driver.engine.feed(stream, random_ids(40, 3), last=True)
    driver.engine.step()
    assert (stream.status is Status.RUNNING) is runs
    driver.drain()
    assert made.reason == "memory" and is_spilled(memory)
    same_state(answer.result(0), driver.engine.read(memory))


# -- who is on its way is not admitted a second time ----------------------------------------------


def test_who_arrives_holds_nobody_up(model: LoadedModel) -> None:
    """It has its pages already: a younger one is admitted beside it."""
    driver = driver_of(model, rows=1)
    memory = spilled(driver)
    assert memory.host is not None
    arriving, asked = ask(driver, memory.host)
    _, younger = driver.submit(PROMPT, sampling=SamplingParams(max_tokens=1))
    for _ in range(2):  # it is admitted; then the next one is
        driver.engine.step()
    assert arriving.arriving and younger.finished and not asked.started


def test_who_leaves_is_not_let_in_meanwhile(model: LoadedModel) -> None:
    """Pages are free that would do for it, but not for whom it makes room."""
    text = random_ids(45, 4)
    alone = driver_of(model)
    wanted = alone.engine.read(alone.compress(text).memory)
    driver = driver_of(model, rows=1, num_pages=20)
    slow, made = driver.submit(text[:44], input_open=True)
    driver.drain()
    _, query = driver.submit(random_ids(40, 5), sampling=SamplingParams(max_tokens=34))
    driver.engine.step()
    assert (slow.leaving, query.started) == (True, False)
    while not is_spilled(slow):
        assert slow.status is Status.WAITING
        driver.engine.step()
        driver.engine.check_integrity()
    assert query.started
    driver.engine.feed(slow, text[44:], last=True)
    driver.drain()
    same_state(driver.engine.read(made.memory), wanted)


# -- memories that do not fit together ------------------------------------------------------------


@dataclass(frozen=True)
class Crowd:
    """Memories on the host, each with a text that goes on from it and then a question to it."""

    pages: int
    rows: int
    bases: tuple[int, ...]
    texts: tuple[int, ...]

    def submit(self, driver: Driver) -> tuple[list[Outcome], list[Outcome]]:
        """The texts' outcomes and the questions', all under way at once."""
        bases = [spilled(driver, random_ids(length, length)) for length in self.bases]
        pairs = zip(bases, self.texts, strict=True)
        made = [driver.submit(random_ids(length, length), base)[1] for base, length in pairs]
        return made, [ask(driver, base)[1] for base in bases]


@pytest.mark.parametrize(
    "crowd",
    [
        Crowd(pages=17, rows=2, bases=(20, 24), texts=(46, 21)),
        Crowd(pages=17, rows=8, bases=(8, 24), texts=(50, 38)),
        Crowd(pages=17, rows=4, bases=(8, 9, 10), texts=(47, 60, 34)),
        Crowd(pages=20, rows=8, bases=(20, 24, 25), texts=(44, 23, 34)),
    ],
    ids=["two-slow", "two-fast", "three-slow", "three-fast"],
)
def test_memories_that_do_not_fit_together_take_turns(model: LoadedModel, crowd: Crowd) -> None:
    """A younger one that left for an older one stays away until that one has its pages.

    Let in again at once, it would take them and leave again, for ever.
    """
    driver = driver_of(model, rows=crowd.rows, num_pages=crowd.pages)
    made, asked = crowd.submit(driver)
    driver.drain(limit=MOST_STEPS)
    assert driver.engine.metrics.spills.labels("half_built")._value.get() > 0
    alone = driver_of(model, num_pages=200)
    right_made, right_asked = crowd.submit(alone)
    alone.drain()
    assert [one.tokens for one in asked] == [one.tokens for one in right_asked]
    for one, right in zip(made, right_made, strict=True):
        same_state(driver.engine.read(one.memory), alone.engine.read(right.memory))
