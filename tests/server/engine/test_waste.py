"""What the reference wastes and the engine must not: rows through head and projections, counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from memoserve.engine.sampler import SamplingParams
from memoserve.engine.sequence import Logits
from memoserve.models.loader import LoadedModel
from tests.server.fixtures import make_driver, random_ids, tiny_model

TEXT = random_ids(29, seed=1)  # windows of 8, ratio 4: 7 beacons
RAW, BEACONS = 29, 7


@pytest.fixture(scope="module")
def model() -> LoadedModel:
    return tiny_model(beacon_param=["q", "k", "v", "o"])


@contextmanager
def counted(model: LoadedModel) -> Iterator[Counter[str]]:
    """Rows that went into each module while the block ran."""
    rows: Counter[str] = Counter()

    def hook(name: str) -> object:
        return lambda _, x: rows.update({name: x[0].shape[0]})

    hooks = [
        module.register_forward_pre_hook(hook(name))
        for name, module in model.model.named_modules()
        if name.endswith(("proj", "lm_head", "embed_tokens"))
    ]
    try:
        yield rows
    finally:
        for handle in hooks:
            handle.remove()


def layer(rows: Counter[str], number: int, name: str) -> int:
    return rows[f"model.layers.{number}.{name}"]


def test_memorizing_runs_no_head(model: LoadedModel) -> None:
    with counted(model) as rows:
        make_driver(model).compress(TEXT, logits=Logits.NONE)
    assert rows["lm_head"] == 0


def test_each_row_goes_through_one_projection_only(model: LoadedModel) -> None:
    with counted(model) as rows:
        make_driver(model).compress(TEXT, logits=Logits.NONE)
    assert rows["model.embed_tokens"] == RAW
    for which in "qkvo":
        assert layer(rows, 0, f"self_attn.{which}_proj") == RAW
        assert layer(rows, 0, f"self_attn.beacon_{which}_proj") == BEACONS


def test_the_last_layer_gives_keys_and_values_only(model: LoadedModel) -> None:
    """Nobody reads the hidden states of a memorized text: no query, no output, no MLP."""
    with counted(model) as rows:
        make_driver(model).compress(TEXT, logits=Logits.NONE)
    for which in "kv":
        assert layer(rows, 1, f"self_attn.{which}_proj") == RAW
        assert layer(rows, 1, f"self_attn.beacon_{which}_proj") == BEACONS
    for which in "qo":
        assert layer(rows, 1, f"self_attn.{which}_proj") == 0
        assert layer(rows, 1, f"self_attn.beacon_{which}_proj") == 0
    assert layer(rows, 1, "mlp.up_proj") == 0
    assert layer(rows, 0, "mlp.up_proj") == RAW + BEACONS


@pytest.mark.parametrize("logits", [Logits.NONE, Logits.LAST])
@pytest.mark.parametrize("chunk", [0, 3])
def test_a_prompt_asks_for_its_last_row(model: LoadedModel, logits: Logits, chunk: int) -> None:
    driver = make_driver(model, chunk_tokens=chunk)
    prompt = random_ids(20, 2)
    with counted(model) as rows:
        driver.generate(prompt, max_tokens=1, logits=logits)
    assert rows["lm_head"] == 1
    assert layer(rows, 1, "self_attn.q_proj") == layer(rows, 1, "mlp.up_proj") == 1
    assert layer(rows, 1, "self_attn.k_proj") == 20


def test_a_decode_step_asks_for_one_row(model: LoadedModel) -> None:
    """Also where a beacon goes with it."""
    driver = make_driver(model)
    with counted(model) as rows:
        driver.generate(random_ids(2, 2), max_tokens=9, logits=Logits.NONE)
    assert rows["lm_head"] == 9
    assert layer(rows, 1, "mlp.up_proj") == 9
    assert layer(rows, 0, "mlp.up_proj") == 10 + 2


def test_all_logits_are_of_raw_rows(model: LoadedModel) -> None:
    with counted(model) as rows:
        make_driver(model).compress(TEXT, logits=Logits.ALL)
    assert rows["lm_head"] == layer(rows, 1, "mlp.up_proj") == RAW
    assert layer(rows, 1, "self_attn.beacon_q_proj") == 0


def test_many_sequences_are_one_forward(model: LoadedModel) -> None:
    driver = make_driver(model, step_tokens=1000)
    calls: list[int] = []
    hook = model.model.register_forward_pre_hook(lambda _, x: calls.append(x[0].ids.shape[0]))
    try:
        for seed in range(5):
            driver.submit(random_ids(4, seed), sampling=SamplingParams(max_tokens=3))
        driver.drain()
    finally:
        hook.remove()
    assert calls == [25, 5, 5]  # prompts of 4 with a beacon each, then two decode steps
