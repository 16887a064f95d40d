"""Two optimizers as one: Muon for the matrices of the layers, AdamW for everything else."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from memoserve_training.muon import Muon


@dataclass(frozen=True)
class Rates:
    """Learning rates at their height."""

    matrices: float = 0.02
    others: float = 3e-3


class Optimizers:
    """Muon on matrices, AdamW on embeddings, biases and norms.

    Parameters that need no gradient are left alone. ``state`` is tensors alone: no pickle.
    """

    def __init__(self, named: Iterable[tuple[str, nn.Parameter]], rates: Rates) -> None:
        wanted = [(n, p) for n, p in named if p.requires_grad]
        matrices = [(n, p) for n, p in wanted if p.dim() == 2 and "embed" not in n]
        matrices = [(n, p) for n, p in matrices if n != "lm_head.weight"]
        names = {name for name, _ in matrices}
        others = [(n, p) for n, p in wanted if n not in names]
        self._parts: list[tuple[float, torch.optim.Optimizer, list[tuple[str, nn.Parameter]]]] = []
        if matrices:
            muon = Muon([p for _, p in matrices], lr=rates.matrices)
            self._parts.append((rates.matrices, muon, matrices))
        if others:
            adam = torch.optim.AdamW(
                [p for _, p in others], lr=rates.others, betas=(0.9, 0.98), weight_decay=0.0
            )
            self._parts.append((rates.others, adam, others))

    def step(self, factor: float) -> None:
        """One step at ``factor`` of the height; gradients are cleared."""
        for rate, optimizer, _ in self._parts:
            for group in optimizer.param_groups:
                group["lr"] = rate * factor
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    def state(self) -> dict[str, Tensor]:
        """Every buffer by ``parameter/buffer``."""
        return {f"{name}/{key}": value for name, key, value in self._buffers()}

    def _buffers(self) -> Iterator[tuple[str, str, Tensor]]:
        for _, optimizer, named in self._parts:
            for name, parameter in named:
                for key, value in optimizer.state[parameter].items():
                    yield name, key, torch.as_tensor(value)

    def load(self, state: dict[str, Tensor]) -> None:
        """Put back what ``state`` gave."""
        for _, optimizer, named in self._parts:
            for name, parameter in named:
                found = {
                    key.rpartition("/")[2]: value
                    for key, value in state.items()
                    if key.rpartition("/")[0] == name
                }
                if found:
                    optimizer.state[parameter] = found
