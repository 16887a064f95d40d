"""Numbers equal to the reference's, through the engine: pool, page tables, scheduler.

Each case was recorded from the reference implementation on a tiny random model. Other cases run
with ``MEMOSERVE_GOLDEN_DIR=/some/directory``. A case with a quirk shows a bug of the reference;
it is never counted as a number to match (``test_quirk``).
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from memoserve.engine.model_runner import ModelRunner
from memoserve.engine.placed import Chunk
from memoserve.engine.sequence import Logits
from memoserve.errors import InvalidArgument
from memoserve.memory import window as win
from memoserve.memory.window import WindowState
from memoserve.models.config import parse_config
from memoserve.models.loader import load_model
from tests.server.fixtures import make_driver, make_model, write_checkpoint
from tests.server.golden import Case, golden_directory, golden_paths
from tests.server.golden_batch import NUM_RANDOM, alone, submit_all

if os.environ.get("MEMOSERVE_BACKEND") == "triton":
    # Minutes a test in Triton's interpreter.
    pytestmark = pytest.mark.timeout(1800)

CASES = [Case(path) for path in golden_paths()]
PLAIN = [case for case in CASES if case.quirk is None]
QUIRKS = [case for case in CASES if case.quirk is not None]
# Chunk budgets with page sizes that divide nothing, one page a row, and a round one.
SPLITS = [(0, 16), (1, 3), (7, 1), (64, 5)]


def by_stem(cases: list[Case]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("case", cases, ids=[case.path.stem for case in cases])


def by_split() -> pytest.MarkDecorator:
    ids = [f"chunk{chunk or 'window'}-page{page}" for chunk, page in SPLITS]
    return pytest.mark.parametrize(("chunk", "page_size"), SPLITS, ids=ids)


def test_there_are_cases() -> None:
    cases = [Case(path) for path in golden_paths()]
    plain = [case for case in cases if case.quirk is None]
    assert plain, f"no golden case without a quirk in {golden_directory()}"
    for case in cases:
        assert case.path.with_suffix(".safetensors").is_file(), case.path


@by_split()
@by_stem(PLAIN)
def test_all_logits(case: Case, chunk: int, page_size: int) -> None:
    driver = case.driver(page_size, chunk)
    memorized = driver.compress(case.context, None, case.schedule)
    case.assert_logits(memorized, "memorize")
    memory = case.assert_memorized(driver, memorized)
    for number in [*range(len(case.queries)), 0]:
        answered = case.ask(driver, memory, number)
        case.assert_logits(answered, f"query{number}")
        case.assert_answered(driver, answered, number)
        driver.engine.release(answered.memory)
    case.assert_memory(driver, memory, "memory")


@by_split()
@by_stem(PLAIN)
def test_as_served(case: Case, chunk: int, page_size: int) -> None:
    driver = case.driver(page_size, chunk)
    memorized = driver.compress(case.context, None, case.schedule, Logits.NONE)
    memory = case.assert_memorized(driver, memorized)
    for number in range(len(case.queries)):
        answered = case.ask(driver, memory, number, Logits.LAST)
        case.assert_answered(driver, answered, number)


@by_stem([case for case in PLAIN if len(case.calls) > 1])
@pytest.mark.parametrize("append", [False, True], ids=["fed", "appended"])
def test_call_by_call(case: Case, append: bool) -> None:
    """The calls of the case, as pieces of one stream or each appended to the memory before."""
    driver = case.driver(page_size=3)
    logits, memory = [], None
    if append:
        for call in case.calls:
            outcome = driver.compress(call, memory, case.schedule)
            logits.append(outcome.logits)
            memory = outcome.memory
    else:
        sequence, outcome = driver.submit(
            [], None, case.schedule, logits=Logits.ALL, input_open=True
        )
        for number, call in enumerate(case.calls):
            driver.engine.feed(sequence, call, last=number == len(case.calls) - 1)
            driver.drain()
        logits, memory = [outcome.logits], outcome.memory
    assert memory is not None
    case.assert_close(torch.cat(logits), case.golden("memorize.logits"), "memorize logits")
    case.assert_memory(driver, memory, "memory")


# -- many in one batch -------------------------------------------------------------------------


@pytest.mark.parametrize("logits", [Logits.ALL, Logits.NONE], ids=["all_logits", "as_served"])
@pytest.mark.parametrize(("chunk", "page_size"), [(0, 16), (7, 3)], ids=["chunkwindow", "chunk7"])
@by_stem(PLAIN)
def test_in_one_batch(
    case: Case, logits: Logits, chunk: int, page_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = case.driver(page_size, chunk, sequences=NUM_RANDOM + len(case.queries) + 3)
    memory = driver.compress(case.context, None, case.schedule, Logits.NONE).memory
    together: list[int] = []
    run = ModelRunner.run

    def counted(runner: ModelRunner, chunks: list[Chunk]) -> list[torch.Tensor]:
        together.append(len(chunks))
        return run(runner, chunks)

    monkeypatch.setattr(ModelRunner, "run", counted)
    again, asked, others = submit_all(case, driver, memory, logits)
    driver.drain()
    assert max(together) == 1 + len(asked) + NUM_RANDOM, "they did not share a step"
    case.assert_memorized(driver, again)
    for number, answered in enumerate(asked):
        case.assert_answered(driver, answered, number)
    if logits is Logits.ALL:
        case.assert_logits(again, "memorize")
        for number, answered in enumerate(asked):
            case.assert_logits(answered, f"query{number}")
    for outcome, (lone, memory_rows, window_rows) in zip(others, alone(case), strict=True):
        certain = lone.certain_tokens
        assert outcome.tokens[:certain] == lone.tokens[:certain]
        if certain < len(lone.tokens):
            continue  # from a close call on the two may differ
        case.assert_close(outcome.logits, lone.logits, "batched and alone")
        host = driver.engine.read(outcome.memory)
        case.assert_close(host.memory_rows, memory_rows, "memory, batched and alone")
        case.assert_close(host.window_rows, window_rows, "window, batched and alone")


# -- the plan against the recorded forwards -----------------------------------------------------


@by_stem(PLAIN)
def test_plan_is_the_recorded_forward(case: Case) -> None:
    """Rows, past, positions and mask of each forward of the reference."""
    rules, schedule = case.rules, case.schedule
    # Several windows in one forward: nothing here has such a shape.
    forwards = [forward for forward in case.facts["trace"] if "c" not in forward["rows"]]
    if not forwards:
        pytest.skip("every forward of this case took several windows at once")
    for forward in forwards:
        before = win.advance(rules, schedule, WindowState(), forward["raw_from"])
        plan = win.plan(rules, schedule, before, forward["raw_to"] - forward["raw_from"])
        past = forward["past"]
        assert before.memory_rows == past["sink"] + past["beacon"]
        assert plan.first_column == past["raw"]
        flags = ["b" if beacon else "r" for beacon in plan.is_beacon]
        assert "".join(flags) == forward["rows"].replace("k", "r")
        assert plan.closes == forward["window_full"]
        held = before.memory_rows + plan.first_column
        positions = [*range(held), *plan.positions.tolist()]
        assert positions == forward.get("key_positions", [*range(held + plan.rows)])
        if "mask" in forward:
            mask = case.tensors[forward["mask"]].bool().numpy()
            np.testing.assert_array_equal(visible(before.memory_rows, plan), mask)


def visible(memory_rows: int, plan: win.Plan) -> np.ndarray[Any, Any]:
    """Which keys each row of the plan sees, spelled out."""
    keys = plan.first_column + plan.rows
    seen = np.zeros((plan.rows, memory_rows + keys), dtype=bool)
    for row in range(plan.rows):
        own = plan.first_column + row
        for column in range(keys):
            seen[row, memory_rows + column] = (
                column < plan.limits[row] or plan.starts[row] <= column <= own
            )
        seen[row, :memory_rows] = True
    return seen


# -- loading ---------------------------------------------------------------------------------


@by_stem(PLAIN)
def test_from_a_directory(case: Case, tmp_path: Path) -> None:
    """The case's checkpoint as a Hugging Face directory, in one file and sharded."""
    for shards in (1, 3):
        path = write_checkpoint(tmp_path / str(shards), case.config, case.weights, shards)
        model = load_model(str(path))
        assert model.config == case.model.config
        assert torch.equal(model.rope.inv_freq, case.model.rope.inv_freq)
        loaded, wanted = model.model.state_dict(), case.model.model.state_dict()
        assert loaded.keys() == wanted.keys()
        assert all(torch.equal(loaded[name], wanted[name]) for name in wanted)
        for name, tensor in case.tensors.items():
            if name.startswith("golden.init."):
                assert torch.equal(loaded[name.removeprefix("golden.init.")], tensor), name


# -- cases that show a bug of the reference ----------------------------------------------------


@by_stem(QUIRKS)
def test_quirk(case: Case) -> None:
    """Refused by name, or the rule holds that the reference breaks: a split changes nothing."""
    try:
        parse_config(case.config)
    except InvalidArgument as error:
        assert error.field.startswith("beacon_")
        with pytest.raises(InvalidArgument):
            make_model(case.config, case.weights)
        return
    driver = case.driver()
    whole = driver.compress(case.context, None, case.schedule)
    rows = driver.engine.read(whole.memory)
    logits, memory = [], None
    for call in case.calls:
        outcome = driver.compress(call, memory, case.schedule)
        logits.append(outcome.logits)
        memory = outcome.memory
    assert memory is not None and memory.state == whole.memory.state
    split = driver.engine.read(memory)
    case.assert_close(torch.cat(logits), whole.logits, "split and whole")
    case.assert_close(split.memory_rows, rows.memory_rows, "memory, split and whole")
    case.assert_close(split.window_rows, rows.window_rows, "window, split and whole")


def test_an_empty_directory_fails(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MEMOSERVE_GOLDEN_DIR", str(tmp_path))
    assert golden_directory() == tmp_path
    with pytest.raises(AssertionError, match="no golden case"):
        test_there_are_cases()


@by_stem(PLAIN[:1])
def test_a_wrong_number_is_caught(case: Case) -> None:
    """The comparison itself can fail: one weight nudged, and nothing passes."""
    weights = case.weights
    name = "model.layers.0.self_attn.v_proj.weight"
    weights[name] = weights[name] * 1.01
    driver = make_driver(make_model(case.config, weights))
    nudged = driver.compress(case.context, None, case.schedule)
    with pytest.raises(AssertionError):
        case.assert_logits(nudged, "memorize")
    with pytest.raises(AssertionError):
        case.assert_memory(driver, nudged.memory, "memory")
