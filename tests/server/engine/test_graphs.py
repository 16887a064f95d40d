"""Captured decode steps: the same tokens and states as uncaptured ones, in every size of batch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from memoserve.engine.build import EngineOptions, build_engine
from memoserve.engine.cpu_device import CpuDevice
from memoserve.engine.device import DeviceOptions
from memoserve.engine.graph_memory import BUCKETS, Room
from memoserve.engine.graph_tables import has_static_tables
from memoserve.engine.graphs import CapturedStep, DecodeGraphs
from memoserve.engine.model_runner import ModelRunner
from memoserve.engine.placed import Chunk
from memoserve.engine.sampler import SamplingParams
from memoserve.engine.sequence import Logits, MemoryHandle
from memoserve.engine.step import Step
from memoserve.memory.window import RatioSchedule
from memoserve.metrics import Metrics
from memoserve.models.loader import LoadedModel
from tests.server.fixtures import Driver, Outcome, random_ids, tiny_model

# Bounds of loops that a kernel computes: the interpreter makes integers of arrays of one number.
# And the log-sum-exp of a row that sees none of some keys is minus infinity.
pytestmark = [
    pytest.mark.filterwarnings("ignore:divide by zero encountered in log2"),
]
GRAPHED = DeviceOptions(graphs=True, pinned_uploads=True)
TEXT = random_ids(29, seed=1)


@pytest.fixture(scope="module")
def model() -> LoadedModel:
    return tiny_model(dtype=torch.float64)


@pytest.fixture
def replays(monkeypatch: pytest.MonkeyPatch) -> Iterator[Counter[int]]:
    """Replays of each number of rows, beacons and padding included."""
    sizes: Counter[int] = Counter()
    run = CapturedStep.run

    def counted(self: CapturedStep, step: Step) -> Tensor | None:
        out = run(self, step)
        if out is not None:
            sizes[self.room.rows] += 1
        return out

    monkeypatch.setattr(CapturedStep, "run", counted)
    yield sizes


def driver(model: LoadedModel, features: DeviceOptions) -> Driver:
    options = EngineOptions(page_size=3, num_pages=300, step_tokens=1000, features=features)
    return Driver(build_engine(model, options, Metrics()))


def stated(driver: Driver, memory: MemoryHandle) -> tuple[Tensor, Tensor]:
    host = driver.engine.read(memory)
    return host.memory_rows, host.window_rows


def comings_and_goings(driver: Driver) -> list[Outcome]:
    """Queries of one memory and of none join at different times and stay for different times."""
    memory = driver.compress(TEXT, logits=Logits.NONE).memory
    outcomes = []
    for number in range(7):
        base, schedule = (memory, None) if number % 2 else (None, RatioSchedule((0,)))
        sampling = SamplingParams(
            max_tokens=5 + 3 * (number % 4),
            temperature=number % 3 * 0.5,
            seed=number,
        )
        prompt = random_ids(1 + number % 3, seed=number)
        outcomes.append(driver.submit(prompt, base, schedule, sampling, keep=True)[1])
        driver.engine.step()
        driver.engine.step()
    driver.drain()
    return outcomes


def test_graphed_tokens_are_the_eager_ones(model: LoadedModel, replays: Counter[int]) -> None:
    eager, graphed = driver(model, DeviceOptions()), driver(model, GRAPHED)
    wanted = comings_and_goings(eager)
    assert not replays
    found = comings_and_goings(graphed)
    assert [o.tokens for o in found] == [o.tokens for o in wanted]
    for mine, theirs in zip(found, wanted, strict=True):
        for rows, wanted_rows in zip(
            stated(graphed, mine.memory), stated(eager, theirs.memory), strict=True
        ):
            torch.testing.assert_close(rows, wanted_rows, atol=1e-10, rtol=1e-10)
    # Four sequences with two beacons at most are six rows.
    assert {1, 2, 4, 6} <= set(replays)


def run_together(driver: Driver, count: int, tokens: int = 4) -> list[Outcome]:
    sampling = SamplingParams(max_tokens=tokens)
    schedule = RatioSchedule((0,))
    outcomes = [
        driver.submit(random_ids(2, seed), None, schedule, sampling)[1] for seed in range(count)
    ]
    driver.drain()
    return outcomes


@pytest.mark.parametrize(("count", "bucket"), [(1, 1), (2, 2), (3, 4), (5, 8), (8, 8), (9, 16)])
def test_a_batch_runs_in_the_least_bucket_that_holds_it(
    model: LoadedModel, replays: Counter[int], count: int, bucket: int
) -> None:
    graphed = driver(model, GRAPHED)
    found = [o.tokens for o in run_together(graphed, count)]
    assert found == [o.tokens for o in run_together(driver(model, DeviceOptions()), count)]
    # The prompts' step draws the first token; the last one is never fed.
    assert replays == {bucket: 3}


def test_more_than_the_largest_bucket_is_eager(model: LoadedModel, replays: Counter[int]) -> None:
    graphed = driver(model, GRAPHED)
    assert len(run_together(graphed, BUCKETS[-1] + 1, tokens=2)) == BUCKETS[-1] + 1
    assert not replays


def test_a_token_may_bring_a_beacon_but_close_no_window(
    model: LoadedModel, replays: Counter[int]
) -> None:
    """Of windows of 8 at ratio 4, every fourth token brings a beacon."""
    graphed, eager = driver(model, GRAPHED), driver(model, DeviceOptions())
    found = graphed.generate(random_ids(3, 1), max_tokens=15, logits=Logits.NONE)
    # Tokens 4 to 17: two of them close a window, two more bring a beacon.
    assert replays == {1: 14 - 4, 2: 2}
    wanted = eager.generate(random_ids(3, 1), max_tokens=15, logits=Logits.NONE)
    assert found.tokens == wanted.tokens


@pytest.mark.parametrize(("together", "rows"), [(1, 6), (2, 6), (3, 12), (4, 12)])
def test_beacons_take_the_least_room_that_holds_them(
    model: LoadedModel, replays: Counter[int], together: int, rows: int
) -> None:
    """Of four sequences, so many come to their fourth token at once."""
    sampling = SamplingParams(max_tokens=3)
    tokens = []
    for features in (GRAPHED, DeviceOptions()):
        made = driver(model, features)
        outcomes = [
            made.submit(random_ids(2 if number < together else 4, number), sampling=sampling)[1]
            for number in range(4)
        ]
        made.drain()
        tokens.append([outcome.tokens for outcome in outcomes])
    assert tokens[0] == tokens[1]
    # The third token comes without a beacon.
    assert replays == {4: 1, rows: 1}


def test_all_logits_of_a_token_are_its_own(model: LoadedModel, replays: Counter[int]) -> None:
    schedule = RatioSchedule((0,))
    found = driver(model, GRAPHED).generate(random_ids(3, 1), schedule=schedule)
    assert replays == {1: 3}
    wanted = driver(model, DeviceOptions()).generate(random_ids(3, 1), schedule=schedule)
    torch.testing.assert_close(found.logits, wanted.logits, atol=1e-10, rtol=1e-10)


def test_logits_of_one_replay_outlive_the_next(
    model: LoadedModel, replays: Counter[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step that fails is tried again, sequence by sequence, before any token is drawn."""
    run = ModelRunner.run

    def fails_together(self: ModelRunner, chunks: list[Chunk]) -> list[Tensor]:
        if len(chunks) > 1:
            raise RuntimeError("out of luck")
        return run(self, chunks)

    wanted = [o.tokens for o in run_together(driver(model, DeviceOptions()), 3)]
    monkeypatch.setattr(ModelRunner, "run", fails_together)
    assert [o.tokens for o in run_together(driver(model, GRAPHED), 3)] == wanted
    assert replays == {1: 9}


# -- the Triton kernels' tables, in the interpreter ----------------------------------------------


def few_readers(tables: bool, backend: str, monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """A reader of a memory and one of none, whose tokens this backend decodes."""
    small = tiny_model(num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=1)
    made = driver(small, DeviceOptions(pinned_uploads=True))
    memory = made.compress(TEXT[:24], logits=Logits.NONE).memory
    outcomes = []
    for number, base in enumerate([memory, None]):
        # The last token that the memory's reader feeds brings a beacon.
        sampling = SamplingParams(max_tokens=4 - number)
        schedule = memory.schedule if base else RatioSchedule((0,))
        prompt = random_ids(1, seed=number)
        outcomes.append(made.submit(prompt, base, schedule, sampling)[1])
    made.engine.step()
    if tables:
        monkeypatch.setenv("MEMOSERVE_BACKEND", "triton")
        runner = made.engine._runner
        with torch.inference_mode():
            runner.graphs = DecodeGraphs(
                runner.model, runner.cache, runner.rotation, runner.uploads, [Room(2, 1)]
            )
    monkeypatch.setenv("MEMOSERVE_BACKEND", backend)
    made.drain()
    monkeypatch.delenv("MEMOSERVE_BACKEND")
    return [outcome.tokens for outcome in outcomes]


def test_tables_are_filled_again_for_each_replay(
    replays: Counter[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The captured layout names nobody: the kernels know of the readers by their tables only."""
    pytest.importorskip("triton")
    wanted = few_readers(False, "reference", monkeypatch)
    assert not replays
    assert few_readers(True, "triton", monkeypatch) == wanted
    assert replays == {3: 3}


def test_what_has_no_room_in_the_tables_is_eager(
    replays: Counter[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("triton")
    from memoserve_kernels.decode_tables import DecodeTables

    wanted = few_readers(False, "reference", monkeypatch)
    monkeypatch.setattr(DecodeTables, "fits", lambda *_: False)
    assert few_readers(True, "reference", monkeypatch) == wanted
    assert not replays


def test_graphs_of_kernels_that_wait_are_refused(model: LoadedModel) -> None:
    runner = driver(model, DeviceOptions()).engine._runner
    elsewhere = CpuDevice(torch.device("meta"), GRAPHED)
    with pytest.raises(ValueError, match="the backend is reference"):
        has_static_tables(runner.cache, elsewhere)
