"""From logits to the next token, one sequence's way at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from memoserve.errors import InvalidArgument


@dataclass(frozen=True)
class SamplingParams:
    """How tokens are drawn. ``temperature`` 0 is greedy; ``top_k`` 0 and ``top_p`` 1 are off.

    ``seed`` None draws from a fresh generator. Raises InvalidArgument naming the field.
    """

    max_tokens: int = 128
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    repetition_penalty: float = 1.0
    seed: int | None = None

    def __post_init__(self) -> None:
        checks = {
            "max_tokens": (self.max_tokens >= 1, "must be at least 1"),
            "temperature": (0 <= self.temperature <= 100, "must be from 0 to 100"),
            "top_k": (self.top_k >= 0, "must not be negative"),
            "top_p": (0 < self.top_p <= 1, "must be above 0 and at most 1"),
            "repetition_penalty": (
                0.01 <= self.repetition_penalty <= 100,
                "must be from 0.01 to 100",
            ),
            "seed": (self.seed is None or 0 <= self.seed < 2**63, "must be from 0 to 2^63 - 1"),
        }
        for field, (holds, message) in checks.items():
            if not holds:
                raise InvalidArgument(f"sampling.{field}", f"{getattr(self, field)} {message}")

    @property
    def greedy(self) -> bool:
        """The most likely token is always taken."""
        return self.temperature == 0 or self.top_k == 1

    def generator(self, device: torch.device) -> torch.Generator:
        """A generator of this request alone, so that neighbours change nothing."""
        generator = torch.Generator(device)
        if self.seed is None:
            generator.seed()
        else:
            generator.manual_seed(self.seed)
        return generator


def sample(
    logits: Tensor,
    params: SamplingParams,
    seen: Sequence[int],
    generator: torch.Generator | None,
) -> int:
    """Next token from ``logits [vocab]``; ``seen`` are the ids that repetition is counted over.

    Raises FloatingPointError where the logits are not finite, so that a broken sequence fails
    alone and does not answer nonsense.
    """
    logits = logits.double()
    if not bool(logits.max().isfinite()):  # NaN, an infinity, or every token ruled out
        raise FloatingPointError("logits are not finite")
    if params.repetition_penalty != 1.0 and seen:
        logits = _penalise(logits, params.repetition_penalty, seen)
    if params.greedy:
        return int(logits.argmax())
    # Below the largest, so that no temperature, however small, overflows.
    weights = _nucleus((logits - logits.max()) / params.temperature, params.top_k, params.top_p)
    return int(torch.multinomial(weights, 1, generator=generator))


def _penalise(logits: Tensor, penalty: float, seen: Sequence[int]) -> Tensor:
    """Divide positive and multiply negative logits of seen ids (CTRL, arXiv 1909.05858, 4.1)."""
    ids = torch.tensor(sorted(set(seen)), device=logits.device)
    picked = logits[ids]
    return logits.index_copy(0, ids, torch.where(picked > 0, picked / penalty, picked * penalty))


def _nucleus(logits: Tensor, top_k: int, top_p: float) -> Tensor:
    """Probabilities after top-k and then top-p (arXiv 1904.09751); zero where cut."""
    if 0 < top_k < logits.shape[0]:
        logits = logits.masked_fill(logits < logits.topk(top_k).values[-1], float("-inf"))
    weights = logits.softmax(dim=-1)
    if top_p < 1.0:
        ordered, index = weights.sort(descending=True)
        # The first token that reaches top_p stays in.
        outside = ordered.cumsum(dim=-1) - ordered >= top_p
        weights = weights.index_fill(0, index[outside], 0.0)
    return weights
