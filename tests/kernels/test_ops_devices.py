"""Each door launches on the GPU that its tensors lie on: stand-ins for a machine with several."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from memoserve_kernels import ops, reference
from memoserve_kernels.layout import Rotation


class Far:
    """What a door looks at of a tensor on ``cuda:1``; every shape is the same to it."""

    is_cuda, dtype, device = True, torch.bfloat16, torch.device("cuda:1")
    shape = (4, 4, 4, 4, 4)

    def get_device(self) -> int:
        return 1


FAR: Any = Far()
TURN = Rotation(FAR, FAR)
LAYOUT: Any = SimpleNamespace(rows=4)
DOORS: dict[str, Callable[[], object]] = {
    "rope_and_append": lambda: ops.rope_and_append(FAR, FAR, FAR, TURN, FAR, FAR),
    "append": lambda: ops.append(FAR, FAR, TURN, FAR, FAR),
    "rotate": lambda: ops.rotate(FAR, TURN),
    "window_attention": lambda: ops.window_attention(FAR, FAR, LAYOUT, 1.0, out=FAR),
    "paged_decode": lambda: ops.paged_decode(FAR, FAR, LAYOUT, 1.0, out=FAR),
    "evict_window": lambda: ops.evict_window(FAR, FAR, FAR, TURN),
    "rms_norm": lambda: ops.rms_norm(FAR, FAR, 1e-6),
    "add_rms_norm": lambda: ops.add_rms_norm(FAR, FAR, FAR, 1e-6),
    "silu_mul": lambda: ops.silu_mul(FAR, FAR),
}


class Machine:
    """Which GPU is the current one, and on which each kernel was launched."""

    def __init__(self, current: int) -> None:
        self.current = current
        self.entered = 0
        self.launched: list[tuple[str, int]] = []

    @contextmanager
    def device(self, wanted: torch.device) -> Iterator[None]:
        before, self.current = self.current, wanted.index
        self.entered += 1
        try:
            yield
        finally:
            self.current = before

    def backend(self, *_: object) -> SimpleNamespace:
        def launch(name: str) -> Callable[..., object]:
            def kernel(*_: object) -> object:
                self.launched.append((name, self.current))
                return (FAR, FAR) if name == "add_rms_norm" else FAR

            return kernel

        return SimpleNamespace(**{name: launch(name) for name in DOORS})


def machine(monkeypatch: pytest.MonkeyPatch, current: int) -> Machine:
    made = Machine(current)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: made.current)
    monkeypatch.setattr(torch.cuda, "device", made.device)
    monkeypatch.setattr(ops, "_backend", made.backend)
    return made


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("current", [0, 1])
def test_a_door_launches_where_its_tensors_lie(
    door: str, current: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = machine(monkeypatch, current)
    DOORS[door]()
    assert made.launched == [(door, 1)]
    assert made.current == current
    assert made.entered == (current != 1)


def test_without_a_gpu_nobody_asks_for_the_current_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def ask() -> int:
        raise AssertionError("a CPU has none")

    monkeypatch.setattr(torch.cuda, "current_device", ask)
    x = torch.ones(2, 4)
    assert ops.rms_norm(x, x[0], 0.0).tolist() == x.tolist()


def test_every_door_is_here() -> None:
    doors = {name for name in vars(ops) if name in vars(reference) and callable(vars(ops)[name])}
    imported = {"Tensor", "Rotation", "AttentionLayout", "MemoryPages", "SequenceLayout"}
    assert doors - imported == set(DOORS)


def test_kernels_refuse_to_lose_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    x, weight = torch.ones(2, 4, requires_grad=True), torch.ones(4)
    ops.rms_norm(x, weight, 1e-6).sum().backward()
    monkeypatch.setenv("MEMOSERVE_BACKEND", "triton")
    with pytest.raises(ValueError, match="no gradients: set MEMOSERVE_BACKEND=reference"):
        ops.rms_norm(x, weight, 1e-6)
    monkeypatch.setattr(ops, "_module", lambda name: reference)
    with torch.no_grad():
        ops.rms_norm(x, weight, 1e-6)
