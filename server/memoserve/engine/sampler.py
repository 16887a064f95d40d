"""From logits to the next tokens: all sequences of a step together, each in its own way."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from memoserve.engine.uploads import Uploads
from memoserve.errors import InvalidArgument
from memoserve_kernels.layout import Upload

log = logging.getLogger(__name__)

# Rows widened to float64 at a time: what a draw takes does not grow with the batch.
WIDE_ROWS = 32


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


@dataclass(frozen=True)
class Turn:
    """One sequence's next draw from ``logits [vocab]``; ``seen`` ids count as repetitions.

    ``generator`` None is enough where the parameters are greedy.
    """

    logits: Tensor
    params: SamplingParams
    seen: Sequence[int]
    generator: torch.Generator | None

    @property
    def penalised(self) -> bool:
        """Some logits change before anything is drawn."""
        return self.params.repetition_penalty != 1.0 and len(self.seen) > 0


class Sampler:
    """Draws a step's tokens on the device and brings them over in one copy."""

    def __init__(self, uploads: Uploads) -> None:
        self._uploads = uploads

    def draw(self, turns: Sequence[Turn]) -> list[int | Exception]:
        """A token a turn, or why there is none; what befalls one turn is no other's matter."""
        if not turns:
            return []
        generators = [g for turn in turns if (g := turn.generator) is not None]
        states = [generator.get_state() for generator in generators]
        try:
            return self._fetch(turns)
        except Exception:
            log.exception("drawing for %d sequences failed; each is tried alone", len(turns))
        # Outside the handler, which keeps alive what the failed attempt had allocated.
        self._uploads.device.empty_cache()
        # Some have drawn: a seeded request gets the tokens it would have got.
        for generator, state in zip(generators, states, strict=True):
            generator.set_state(state)
        return [self._draw_alone(turn) for turn in turns]

    def _draw_alone(self, turn: Turn) -> int | Exception:
        try:
            return self._fetch([turn])[0]
        except Exception as error:
            return error

    def _fetch(self, turns: Sequence[Turn]) -> list[int | Exception]:
        tokens = self._uploads.device.fetch(draw(turns, self._uploads.upload)).tolist()
        broken = FloatingPointError("the logits are not finite")
        return [broken if token < 0 else token for token in tokens]


def draw(turns: Sequence[Turn], upload: Upload) -> Tensor:
    """Next tokens, int64 ``[turns]``, where the logits are; waits for no result of the device.

    -1 where the largest logit is not finite, so that a broken sequence fails alone and does not
    answer nonsense. A token depends on its own turn only, whatever turns are beside it.
    """
    rows = torch.stack([turn.logits for turn in turns])
    finite = rows.amax(dim=-1).isfinite()  # no NaN, no infinity, not every token ruled out
    tokens = rows.argmax(dim=-1)
    others = [i for i, turn in enumerate(turns) if turn.penalised or not turn.params.greedy]
    for first in range(0, len(others), WIDE_ROWS):
        part = others[first : first + WIDE_ROWS]
        index = upload(np.asarray(part, dtype=np.int64))
        drawn = _draw_wide([turns[i] for i in part], rows[index].double(), upload)
        tokens = tokens.index_copy(0, index, drawn)
    return tokens.where(finite, -1)


def _draw_wide(turns: list[Turn], logits: Tensor, upload: Upload) -> Tensor:
    """Tokens from ``logits [turns, vocab]`` in float64."""
    table = upload(np.array([_numbers(turn.params) for turn in turns], dtype=np.float64))
    temperature, top_p = table[:, 0, None], table[:, 1, None]
    if any(turn.penalised for turn in turns):
        logits = _penalise(logits, turns, table[:, 2], upload)
    # Below the largest, so that no temperature, however small, overflows.
    logits = (logits - logits.amax(dim=-1, keepdim=True)) / temperature
    logits = _cut_to_top_k(logits, [_top_k(turn.params) for turn in turns], upload)
    weights = logits.softmax(dim=-1)
    if any(turn.params.top_p < 1.0 for turn in turns):
        weights = _cut_to_nucleus(weights, top_p)
    # The race that torch.multinomial runs, which itself waits for the device: of exponential
    # times of rates w, the one of token i is the least with probability w_i / sum(w).
    times = torch.ones_like(weights)
    for row, turn in zip(times, turns, strict=True):
        if not turn.params.greedy:
            row.exponential_(generator=turn.generator)
    return (weights / times).argmax(dim=-1)


def _numbers(params: SamplingParams) -> tuple[float, float, float]:
    """Temperature, nucleus and penalty; values that change nothing where one is off."""
    temperature = 1.0 if params.greedy else params.temperature
    # Sums of probabilities may pass 1 by rounding, never infinity.
    top_p = params.top_p if params.top_p < 1.0 else float("inf")
    return temperature, top_p, params.repetition_penalty


def _top_k(params: SamplingParams) -> int:
    return 1 if params.greedy else params.top_k


def _penalise(logits: Tensor, turns: list[Turn], penalties: Tensor, upload: Upload) -> Tensor:
    """Divide positive and multiply negative logits of seen ids (CTRL, arXiv 1909.05858, 4.1)."""
    seen = [np.unique(np.asarray(t.seen, dtype=np.int64)) for t in turns]
    counts = [len(ids) if t.penalised else 0 for t, ids in zip(turns, seen, strict=True)]
    rows = np.repeat(np.arange(len(turns)), counts)
    ids = np.concatenate([s[:count] for s, count in zip(seen, counts, strict=True)])
    place = upload(np.stack([rows, ids])).unbind()
    picked, penalty = logits[place], penalties[place[0]]
    changed = torch.where(picked > 0, picked / penalty, picked * penalty)
    return logits.index_put(place, changed)


def _cut_to_top_k(logits: Tensor, top_k: list[int], upload: Upload) -> Tensor:
    """Minus infinity below each row's k-th largest; 0 keeps a row whole."""
    vocab = logits.shape[1]
    if not any(0 < k < vocab for k in top_k):
        return logits
    most = logits.topk(min(max(top_k), vocab)).values
    kth = upload(np.array([min(k, vocab) - 1 for k in top_k], dtype=np.int64))[:, None]
    least = most.gather(1, kth.clamp(min=0)).where(kth >= 0, float("-inf"))
    return logits.masked_fill(logits < least, float("-inf"))


def _cut_to_nucleus(weights: Tensor, top_p: Tensor) -> Tensor:
    """Zero outside each row's nucleus (arXiv 1904.09751) of ``top_p [rows, 1]``."""
    ordered, index = weights.sort(dim=-1, descending=True)
    # The first token that reaches top_p stays in.
    outside = ordered.cumsum(dim=-1) - ordered >= top_p
    return weights.masked_fill(torch.zeros_like(outside).scatter(1, index, outside), 0.0)
