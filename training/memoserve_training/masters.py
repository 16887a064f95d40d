"""What trains of a loaded model: its choice, float32 masters, and AdamW over them."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from memoserve.models.layers import BeaconLM


class Trains(enum.Enum):
    """Which parameters move: those of the beacon rows alone, or every one."""

    BEACONS = "beacons"
    ALL = "all"


def choose(model: BeaconLM, trains: Trains) -> dict[str, nn.Parameter]:
    """Let the chosen parameters need gradients, and no other; by published names.

    They are put into storage of their own: loaded weights may be pages of their file.
    """
    chosen: dict[str, nn.Parameter] = {}
    for name, parameter in model.named_parameters():
        wanted = trains is Trains.ALL or "beacon_" in name
        parameter.requires_grad_(wanted)
        if wanted:
            parameter.data = parameter.data.clone()
            chosen[name] = parameter
    return chosen


def recompute_layers(model: BeaconLM) -> None:
    """Keep only what goes between layers for the backward pass, and run each layer again there.

    Less memory for one more forward pass; the gradients are the same (arXiv 1604.06174).
    """
    for layer in model.model.layers:
        # An attribute of the instance shadows the method: names of parameters stay.
        setattr(layer, "forward", partial(checkpoint, layer.forward, use_reentrant=False))  # noqa: B010


class Masters:
    """AdamW (arXiv 1711.05101) on float32 copies of parameters that are narrower.

    A bfloat16 weight loses every change below 1/256 of it; its master keeps them, and adds up the
    gradients of several batches. Parameters in float32 are their own masters.
    """

    def __init__(self, chosen: Mapping[str, nn.Parameter], weight_decay: float = 0.0) -> None:
        self._chosen = dict(chosen)
        self._masters = {
            name: p if p.dtype == torch.float32 else nn.Parameter(p.detach().float())
            for name, p in self._chosen.items()
        }
        self._adam = torch.optim.AdamW(
            list(self._masters.values()), betas=(0.9, 0.98), weight_decay=weight_decay
        )

    def collect(self) -> None:
        """Add the gradients of the last backward pass to those of the masters."""
        for name, master in self._masters.items():
            parameter = self._chosen[name]
            if parameter is master or parameter.grad is None:
                continue
            gradient = parameter.grad.float()
            master.grad = gradient if master.grad is None else master.grad + gradient
            parameter.grad = None

    def step(self, rate: float, clip: float) -> None:
        """One step, the norm of all gradients cut to ``clip``; gradients are cleared.

        Raises RuntimeError where a gradient is not finite, before anything moves.
        """
        masters = self._masters.values()
        torch.nn.utils.clip_grad_norm_(masters, clip, error_if_nonfinite=True)
        for group in self._adam.param_groups:
            group["lr"] = rate
        self._adam.step()
        self._adam.zero_grad(set_to_none=True)
        self._hand_down()

    @torch.no_grad()
    def _hand_down(self) -> None:
        for name, master in self._masters.items():
            if self._chosen[name] is not master:
                self._chosen[name].copy_(master)

    def copies(self) -> dict[str, Tensor]:
        """What the model's chosen parameters are now, in their own type."""
        return {name: parameter.detach().clone() for name, parameter in self._chosen.items()}

    def weights(self) -> dict[str, Tensor]:
        """The masters by name, float32."""
        return {name: master.detach().contiguous() for name, master in self._masters.items()}

    def moments(self) -> dict[str, Tensor]:
        """AdamW's buffers as ``name/buffer``."""
        return {
            f"{name}/{key}": torch.as_tensor(value).contiguous()
            for name, master in self._masters.items()
            for key, value in self._adam.state[master].items()
        }

    @torch.no_grad()
    def load(self, weights: Mapping[str, Tensor], moments: Mapping[str, Tensor]) -> None:
        """Put back what ``weights`` and ``moments`` gave. Raises ValueError for other names."""
        if set(weights) != set(self._masters):
            other = sorted(set(weights) ^ set(self._masters))
            raise ValueError(f"the saved state trains other parameters: {', '.join(other[:3])}")
        for name, master in self._masters.items():
            master.copy_(weights[name])
        self._hand_down()
        for key, value in moments.items():
            name, _, buffer = key.rpartition("/")
            master = self._masters[name]
            # AdamW counts its steps on the host.
            device = value.device if buffer == "step" else master.device
            self._adam.state[master][buffer] = value.to(device)
