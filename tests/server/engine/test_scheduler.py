"""Cutting steps: decodes first, a time target while queries run, nobody starved."""

from __future__ import annotations

from pytest import MonkeyPatch, mark, raises
from torch import Tensor

from memoserve.engine.model_runner import ModelRunner
from memoserve.engine.placed import Chunk
from memoserve.engine.sampler import SamplingParams
from memoserve.engine.scheduler import FIRST_CUT, LEAST_PROGRESS, Scheduler, StepLimits
from memoserve.engine.sequence import Sequence, SequenceRequest
from memoserve.memory.memory import PagedState
from memoserve.memory.page_pool import PagePool
from memoserve.memory.window import RatioSchedule, WindowRules, WindowState
from tests.server.fixtures import make_driver, random_ids, tiny_model

RULES = WindowRules(1000)
SCHEDULE = RatioSchedule((4,))
POOL = PagePool(1, 1)


def sequence(
    number: int,
    pending: int,
    *,
    asks: bool = False,
    drawn: int = 0,
    at: int = 0,
    last_step: int = 0,
) -> Sequence:
    request = SequenceRequest(
        lambda _: None,
        SCHEDULE,
        tokens=(3,),
        sampling=SamplingParams() if asks or drawn else None,
    )
    made = Sequence(number, request, 0.0, last_step=last_step)
    made.pending.extend(range(pending))
    made.generated.extend(range(drawn))
    made.paged = PagedState.fresh(POOL, SCHEDULE)
    made.paged.state = WindowState(open_tokens=at)
    return made


def decode(number: int) -> Sequence:
    return sequence(number, 1, drawn=1)


def shares(scheduler: Scheduler, *running: Sequence) -> dict[int, int]:
    return {s.sequence.number: s.tokens for s in scheduler.schedule(running)}


def scheduler(chunk: int = 1000, step: int = 2000, target: float = 0.2) -> Scheduler:
    return Scheduler(RULES, StepLimits(chunk, step, target))


def test_alone_a_memorize_takes_its_whole_window() -> None:
    assert shares(scheduler(), sequence(1, 5000)) == {1: 1000}
    assert shares(scheduler(), sequence(1, 5000, at=900)) == {1: 100}
    assert shares(scheduler(), sequence(1, 30)) == {1: 30}
    assert shares(scheduler(), sequence(1, 0)) == {}


def test_a_chunk_budget_cuts() -> None:
    assert shares(scheduler(chunk=64), sequence(1, 5000)) == {1: 64}


def test_everybody_decodes_in_every_step() -> None:
    running = [decode(n) for n in range(40)]
    assert shares(scheduler(step=8), *running) == dict.fromkeys(range(40), 1)


def test_prompts_by_age_within_the_budget() -> None:
    found = shares(scheduler(step=250), *(sequence(n, 100, asks=True) for n in range(4)))
    assert found == {0: 100, 1: 100, 2: 50}


def test_memories_take_turns_by_who_waited_longest() -> None:
    old = sequence(1, 5000, last_step=9)
    young = sequence(2, 5000, last_step=3)
    assert shares(scheduler(step=1000), old, young) == {2: 1000}


def test_while_decodes_run_the_first_step_is_small() -> None:
    """The device's speed is not known yet."""
    assert shares(scheduler(), decode(1), sequence(2, 5000)) == {1: 1, 2: FIRST_CUT - 1}


@mark.parametrize("asks", [False, True], ids=["memorize", "prompt"])
def test_a_step_is_cut_to_the_time_target(asks: bool) -> None:
    """At 1000 tokens/s and 0.2 s, a step with a decode holds 200 tokens."""
    cut = scheduler()
    for _ in range(50):
        cut.observe(500, 0.5)
    assert shares(cut, decode(1), sequence(2, 5000, asks=asks)) == {1: 1, 2: 199}
    assert shares(cut, sequence(2, 5000, asks=asks)) == {2: 1000}
    for _ in range(50):
        cut.observe(500, 5.0)  # ten times slower now
    found = shares(cut, decode(1), sequence(2, 5000, asks=asks))
    assert found[2] in (19, 20)  # a moving average never quite arrives


def test_a_prompt_counts_as_a_query_to_the_memories() -> None:
    cut = scheduler()
    for _ in range(50):
        cut.observe(500, 0.5)
    found = shares(cut, sequence(1, 150, asks=True), sequence(2, 5000))
    assert found == {1: 150, 2: 50}


def test_no_target_no_cut() -> None:
    assert shares(scheduler(target=0.0), decode(1), sequence(2, 5000)) == {1: 1, 2: 1000}


def test_memorize_is_not_starved_by_a_busy_server() -> None:
    cut = scheduler()
    for _ in range(50):
        cut.observe(100, 10.0)  # so slow that the decodes alone are past the target
    running = [decode(n) for n in range(30)]
    found = shares(cut, *running, sequence(90, 5000), sequence(91, 5000))
    assert found[90] == LEAST_PROGRESS
    assert 91 not in found


def test_tiny_steps_teach_nothing() -> None:
    cut = scheduler()
    for _ in range(50):
        cut.observe(500, 0.5)
    before = shares(cut, decode(1), sequence(2, 5000))
    for _ in range(50):
        cut.observe(1, 5.0)
        cut.observe(500, 0.0)
    assert shares(cut, decode(1), sequence(2, 5000)) == before


def test_limits_need_room() -> None:
    for chunk, step, target in ((0, 1, 0.1), (1, 0, 0.1), (1, 1, -0.1)):
        with raises(ValueError, match="needs room"):
            StepLimits(chunk, step, target)


def test_a_sequence_without_pages_is_a_bug() -> None:
    homeless = sequence(1, 10)
    homeless.paged = None
    with raises(ValueError, match="has pages"):
        scheduler().schedule([homeless])


def test_an_engine_keeps_its_decodes_close_together(monkeypatch: MonkeyPatch) -> None:
    """On a device of 100 tokens/s and a target of 0.2 s: at most 20 tokens beside a decode."""
    now, steps = [0.0], []
    run = ModelRunner.run

    def timed(runner: ModelRunner, chunks: list[Chunk]) -> list[Tensor]:
        tokens = sum(len(chunk.tokens) for chunk in chunks)
        now[0] += tokens / 100
        steps.append((len(chunks), tokens))
        return run(runner, chunks)

    monkeypatch.setattr(ModelRunner, "run", timed)
    model = tiny_model(beacon_window=64, beacon_stride=64)
    driver = make_driver(model, num_pages=400, target_s=0.2)
    driver.engine._clock = lambda: now[0]
    driver.compress(random_ids(64, 1))  # the speed is learnt
    steps.clear()
    _, answer = driver.submit(random_ids(3, 2), sampling=SamplingParams(max_tokens=12))
    _, memory = driver.submit(random_ids(400, 3))
    driver.drain()
    assert len(answer.tokens) == 12 and memory.reason == "memory"
    shared = [tokens for sequences, tokens in steps if sequences == 2]
    assert len(shared) == 12 and max(shared) == 20
    assert max(tokens for sequences, tokens in steps if sequences == 1) == 64
