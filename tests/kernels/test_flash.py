"""The flash-attn back end over a stand-in for flash-attn: same signature, plain PyTorch.

flash-attn itself runs on a GPU alone; this holds what is handed to it and what is taken back.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from functools import partial
from importlib.machinery import ModuleSpec
from itertools import pairwise
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from memoserve_kernels import ops
from tests.kernels.attention_cases import Shape, Step, make_step

pytest.importorskip("triton")
from memoserve_kernels import flash

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="its stand-in is for a CPU")

MIXED = [Shape(5, 9, 2), Shape(6, 3, 1, beacons=2), Shape(1, 4), Shape(9, 0, 5)]


class FakeFlash:
    """``flash_attn_varlen_func`` in float64, and what it was called with."""

    def __init__(self) -> None:
        self.calls: list[dict[str, Any]] = []
        self.padded_sums = False

    def flash_attn_varlen_func(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        cu_seqlens_q: Tensor,
        cu_seqlens_k: Tensor,
        max_seqlen_q: int,
        max_seqlen_k: int,
        dropout_p: float = 0.0,
        softmax_scale: float | None = None,
        causal: bool = False,
        *,
        return_attn_probs: bool = False,
    ) -> Any:
        """Causal, aligned to the last key; returns out ``[n, H, D]`` and sums ``[H, n]``."""
        assert q.dtype in (torch.float16, torch.bfloat16)
        assert cu_seqlens_q.dtype == cu_seqlens_k.dtype == torch.int32
        assert causal
        assert dropout_p == 0
        assert softmax_scale is not None
        rows, keys = cu_seqlens_q.tolist(), cu_seqlens_k.tolist()
        assert (rows[-1], keys[-1]) == (len(q), len(k)) == (len(q), len(v))
        self.calls.append({"rows": rows, "keys": keys})
        assert max_seqlen_q == max(b - a for a, b in pairwise(rows))
        assert max_seqlen_k == max(b - a for a, b in pairwise(keys))
        out, sums = torch.empty_like(q), torch.empty(q.shape[1], len(q))
        group = q.shape[1] // k.shape[1]
        for (a, b), (c, d) in zip(pairwise(rows), pairwise(keys), strict=True):
            wide = [x.double().repeat_interleave(group, dim=1) for x in (k[c:d], v[c:d])]
            scores = torch.einsum("qhd,khd->hqk", q[a:b].double(), wide[0]) * softmax_scale
            hidden = torch.ones(b - a, d - c, dtype=torch.bool).triu(d - c - (b - a) + 1)
            scores = scores.masked_fill(hidden, float("-inf"))
            out[a:b] = torch.einsum("hqk,khd->qhd", scores.softmax(-1), wide[1]).to(q.dtype)
            sums[:, a:b] = scores.logsumexp(-1)
        return (out, sums[None] if self.padded_sums else sums, None) if return_attn_probs else out


@pytest.fixture(autouse=True)
def looked_up_again() -> Iterator[None]:
    """What was found once is kept by the process."""
    for found in (ops.require_flash, flash._varlen):
        found.cache_clear()
    yield
    for found in (ops.require_flash, flash._varlen):
        found.cache_clear()


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeFlash:
    made, module = FakeFlash(), ModuleType("flash_attn")
    module.__spec__ = ModuleSpec("flash_attn", None)
    module.__dict__["flash_attn_varlen_func"] = made.flash_attn_varlen_func
    monkeypatch.setitem(sys.modules, "flash_attn", module)
    monkeypatch.setenv("MEMOSERVE_BACKEND", "flash")
    return made


def check(step: Step, tolerance: float = 4e-3) -> None:
    out = torch.full_like(step.q, float("nan"))
    lse = torch.full(step.q.shape[:2], float("nan"))
    ops.window_attention(step.q, step.kv, step.layout, step.scale, out=out, lse=lse)
    close = {"atol": tolerance, "rtol": tolerance, "equal_nan": True}
    torch.testing.assert_close(out.double(), step.by_hand(), **close)  # type: ignore[arg-type]
    torch.testing.assert_close(lse.double(), step.lse_by_hand(), **close)  # type: ignore[arg-type]


@pytest.mark.parametrize("page_size", [1, 3, 16])
def test_causal_sequences_go_to_flash_attn_and_the_others_to_triton(
    fake: FakeFlash, page_size: int
) -> None:
    check(make_step(MIXED, dtype=torch.float16, page_size=page_size))
    assert fake.calls == [{"rows": [0, 5, 6, 15], "keys": [0, 16, 21, 35]}]


def test_rows_that_no_sequence_names_are_left_alone(fake: FakeFlash) -> None:
    step = make_step([Shape(3, 5), Shape(4, 2)], dtype=torch.float16)
    few, many = step.layout.divided("few", lambda s: s.last_row - s.first_row <= 3)
    for layout in (many, few):
        check(Step(**{**vars(step), "layout": layout}))
    assert [call["rows"] for call in fake.calls] == [[0, 4], [0, 3]]


def test_float32_stays_with_triton(fake: FakeFlash) -> None:
    check(make_step([Shape(3, 5)]), tolerance=1e-5)
    assert not fake.calls


def test_all_beacons(fake: FakeFlash) -> None:
    check(make_step([Shape(6, 3, 1, beacons=2)], dtype=torch.float16))
    assert not fake.calls


def test_layers_share_what_is_derived(fake: FakeFlash) -> None:
    step = make_step([Shape(3, 5)], dtype=torch.float16)
    check(step)
    before = dict(step.layout._derived)
    check(step)
    assert len(fake.calls) == 2
    assert all(step.layout._derived[key] is value for key, value in before.items())


def test_an_older_flash_attn_is_named(fake: FakeFlash) -> None:
    fake.padded_sums = True
    step = make_step([Shape(3, 5)], dtype=torch.float16)
    with pytest.raises(ValueError, match=r"2\.6 or newer"):
        check(step)


def test_flash_attn_is_looked_up_once(fake: FakeFlash, monkeypatch: pytest.MonkeyPatch) -> None:
    step, looks = make_step([Shape(3, 5)], dtype=torch.float16), list[str]()
    find, load = importlib.util.find_spec, importlib.import_module

    def noted(call: Any, name: str, *more: Any) -> Any:
        if name == "flash_attn":
            looks.append(call.__name__)
        return call(name, *more)

    monkeypatch.setattr(importlib.util, "find_spec", partial(noted, find))
    monkeypatch.setattr(importlib, "import_module", partial(noted, load))
    for _ in range(3):
        check(step)
    assert len(fake.calls) == 3
    assert looks == ["find_spec", "import_module"]


def test_without_flash_attn_the_choice_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEMOSERVE_BACKEND", "flash")
    monkeypatch.setitem(sys.modules, "flash_attn", None)
    x = torch.zeros(1, 4, dtype=torch.float16)
    with pytest.raises(ValueError, match="wants the package flash-attn"):
        ops.rms_norm(x, x[0], 1e-6)
    with pytest.raises(ValueError, match="wants the package flash-attn"):
        ops.rms_norm(x, x[0], 1e-6)
