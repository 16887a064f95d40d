"""The training forward against the reference's numbers and against the engine's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from memoserve.memory.window import RatioSchedule
from memoserve.models.loader import LoadedModel
from memoserve_training.attend import TreeAttend
from memoserve_training.batch import TreeIds, forward_batch
from memoserve_training.shape import rules_of
from memoserve_training.tree import Places, Tree, places, tree
from tests.server.fixtures import make_driver, random_ids, tiny_model
from tests.server.golden import Case, golden_paths

CASES = [case for case in map(Case, golden_paths()) if case.quirk is None]


def straight(plan: Tree, lent: int = 1) -> Places:
    return places(np.random.default_rng(0), plan.trunk.after.memory_rows * lent)


@pytest.mark.parametrize("case", CASES, ids=[case.path.stem for case in CASES])
def test_golden_logits(case: Case) -> None:
    """Trunk logits are those of memorizing; a branch's those of its query."""
    model = case.model
    dtype = model.model.lm_head.weight.dtype
    trunk = torch.tensor([case.context])
    plan = tree(case.rules, case.schedule, len(case.context))
    attend = TreeAttend(plan, model.rope, straight(plan), trunk.device, dtype=dtype)
    with torch.no_grad():
        logits = model.model(forward_batch(plan, TreeIds.of_trunks(trunk), attend))
    case.assert_logits_of(logits, "memorize")
    for number, query in enumerate(case.queries):
        asked = query["ids"] + query["generated"][:-1]
        plan = tree(case.rules, case.schedule, len(case.context), len(asked), 2)
        attend = TreeAttend(plan, model.rope, straight(plan), trunk.device, dtype=dtype)
        branches = torch.tensor([[asked, asked]])
        with torch.no_grad():
            logits = model.model(forward_batch(plan, TreeIds(trunk, branches), attend))
        for branch in logits.unflatten(0, (2, -1)):
            case.assert_logits_of(branch, f"query{number}")


def logits_of(
    model: LoadedModel, trunk: Tensor, branches: Tensor, ratio: int, at: Places | None, lent: int
) -> Tensor:
    """Logits ``[B, Q, U, vocab]`` of the branches."""
    rules = rules_of(model.config.beacon)
    tokens = branches.shape[2]
    plan = tree(rules, RatioSchedule((ratio,)), trunk.shape[1], tokens, branches.shape[1])
    stand = at or straight(plan, lent)
    attend = TreeAttend(plan, model.rope, stand, trunk.device, dtype=torch.float64, lent=lent)
    with torch.no_grad():
        out: Tensor = model.model(forward_batch(plan, TreeIds(trunk, branches), attend))
    logits: Tensor = out.unflatten(0, (*branches.shape[:2], tokens))
    return logits


@pytest.fixture(scope="module")
def model() -> LoadedModel:
    return tiny_model(dtype=torch.float64)


def ids(*shape: int, seed: int = 0) -> Tensor:
    count = int(np.prod(shape))
    return torch.tensor(random_ids(count, seed)).view(*shape)


@pytest.mark.parametrize("ratio", [0, 2, 4])
@pytest.mark.parametrize("trunk", [16, 37, 48])
def test_equals_the_engine(model: LoadedModel, ratio: int, trunk: int) -> None:
    """Branches that close windows of their own, against the paged engine."""
    schedule = RatioSchedule((ratio,))
    documents, asked = ids(2, trunk), ids(2, 3, 21, seed=1)
    found = logits_of(model, documents, asked, ratio, None, 1)
    for i in range(2):
        driver = make_driver(model, page_size=4, num_pages=256)
        memory = driver.compress(documents[i].tolist(), None, schedule).memory
        for j in range(3):
            wanted = driver.compress(asked[i, j].tolist(), memory, schedule).logits
            torch.testing.assert_close(found[i, j], wanted, rtol=1e-9, atol=1e-9)


def test_a_branch_sees_no_other(model: LoadedModel) -> None:
    documents, asked = ids(2, 40), ids(2, 3, 12, seed=1)
    before = logits_of(model, documents, asked, 4, None, 1)
    other = asked.clone()
    other[:, 1] = ids(2, 12, seed=2)
    after = logits_of(model, documents, other, 4, None, 1)
    torch.testing.assert_close(before[:, [0, 2]], after[:, [0, 2]], rtol=0, atol=1e-12)
    assert not torch.allclose(before[:, 1], after[:, 1])


def test_lent_memories_are_read(model: LoadedModel) -> None:
    """A group's branches see every memory of the group and none of another's."""
    documents, asked = ids(4, 40), ids(4, 2, 6, seed=1)
    before = logits_of(model, documents, asked, 4, None, 2)
    other = documents.clone()
    other[1] = ids(40, seed=3)
    after = logits_of(model, other, asked, 4, None, 2)
    assert not torch.allclose(before[0], after[0])
    torch.testing.assert_close(before[2:], after[2:], rtol=0, atol=1e-12)


def test_lending_of_whole_windows_is_the_memory_side_by_side(model: LoadedModel) -> None:
    """One layer's memory does not depend on what came before it: there, lent is concatenated."""
    shallow = tiny_model(dtype=torch.float64, num_hidden_layers=1)
    window = shallow.config.beacon.window
    both = ids(2, window)
    asked = ids(1, 1, 7, seed=1).expand(2, 1, 7)
    lent = logits_of(shallow, both, asked, 4, None, 2)
    joined = logits_of(shallow, both.reshape(1, -1), asked[:1], 4, None, 1)
    for document in lent:
        torch.testing.assert_close(document[0], joined[0, 0], rtol=1e-9, atol=1e-9)


def test_gaps_move_the_memory(model: LoadedModel) -> None:
    documents, asked = ids(1, 48), ids(1, 1, 6, seed=1)
    plan = tree(rules_of(model.config.beacon), RatioSchedule((4,)), 48, 6, 1)
    rows = plan.trunk.after.memory_rows
    plain = logits_of(model, documents, asked, 4, straight(plan), 1)
    spread = places(np.random.default_rng(1), rows, span=40 * rows)
    assert not torch.allclose(plain, logits_of(model, documents, asked, 4, spread, 1))
    shifted = Places(np.arange(rows) + 100)
    moved = logits_of(model, documents, asked, 4, shifted, 1)
    # Rotation is relative: with all of the memory moved as one, only the first window, which
    # has no memory before it and stands at 0, could tell.
    torch.testing.assert_close(plain, moved, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("windows", [None, 0, 1, 5])
def test_gradients_stop_at_detached_windows(model: LoadedModel, windows: int | None) -> None:
    window = model.config.beacon.window
    plan = tree(rules_of(model.config.beacon), RatioSchedule((4,)), 3 * window, 5, 1)
    attend = TreeAttend(
        plan, model.rope, straight(plan), torch.device("cpu"), dtype=torch.float64,
        detach_after=windows,
    )  # fmt: skip
    rows, config = plan.rows, model.config
    shape = (rows, config.num_kv_heads, config.head_dim)
    keys = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    query = torch.randn(rows, config.num_heads, config.head_dim, dtype=torch.float64)
    attend(0, query, keys, keys).reshape(rows, -1)[-5:].sum().backward()
    assert keys.grad is not None
    reached = [bool(keys.grad[piece.rows].any()) for piece in plan.trunk.pieces]
    kept = 3 if windows is None else min(3, windows)
    assert reached == [False] * (3 - kept) + [True] * kept
