"""Muon, orthogonalized momentum for matrices, in float32 and many matrices at a time.

``torch.optim.Muon`` orthogonalizes matrix by matrix in bfloat16, which on a CPU took more than
half of a small model's step (docs/training-log.md). Source: K. Jordan, "Muon: an optimizer for
hidden layers in neural networks", 2024.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import torch
from torch import Tensor, nn

# A quintic whose fifth iterate brings every singular value near 1.
_A, _B, _C = 3.4445, -4.7750, 2.0315
STEPS: Final = 5


def orthogonalize(batch: Tensor) -> Tensor:
    """``[n, rows, columns]`` matrices with their singular values brought near 1."""
    tall = batch.shape[-2] > batch.shape[-1]
    x = batch.mT if tall else batch
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(STEPS):
        gram = x @ x.mT
        x = _A * x + (_B * gram + _C * gram @ gram) @ x
    result: Tensor = x.mT if tall else x
    return result


class Muon(torch.optim.Optimizer):
    """Nesterov momentum, orthogonalized; weight decay apart from the gradient."""

    def __init__(
        self,
        params: Iterable[nn.Parameter],
        lr: float,
        momentum: float = 0.95,
        weight_decay: float = 0.01,
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Move every parameter that has a gradient."""
        for group in self.param_groups:
            same: dict[torch.Size, list[nn.Parameter]] = {}
            for parameter in group["params"]:
                if parameter.grad is not None:
                    same.setdefault(parameter.shape, []).append(parameter)
            for parameters in same.values():
                self._move(parameters, group["lr"], group["momentum"], group["weight_decay"])

    def _move(
        self, parameters: list[nn.Parameter], rate: float, momentum: float, decay: float
    ) -> None:
        updates = []
        for parameter in parameters:
            gradient, state = parameter.grad, self.state[parameter]
            assert gradient is not None  # the caller looked
            if "momentum" not in state:
                state["momentum"] = torch.zeros_like(gradient)
            state["momentum"].lerp_(gradient, 1 - momentum)
            updates.append(gradient.lerp(state["momentum"], momentum))
        rows, columns = parameters[0].shape
        scale = max(1.0, rows / columns) ** 0.5
        for parameter, update in zip(
            parameters, orthogonalize(torch.stack(updates).float()), strict=True
        ):
            parameter.mul_(1 - rate * decay)
            parameter.add_(update.to(parameter.dtype), alpha=-rate * scale)
