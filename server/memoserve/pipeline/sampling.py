"""A request's sampling wishes over the checkpoint's own defaults."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from memoserve.engine.sampler import SamplingParams
from memoserve.errors import InvalidArgument
from memoserve.pipeline.api import MAX_STOPS
from memoserve.pipeline.values import ClueKind, SamplingOptions

MAX_NEW_TOKENS = {
    ClueKind.SPAN: 128,
    ClueKind.SURROGATE: 128,
    ClueKind.DRAFT_ANSWER: 128,
    ClueKind.KEY_POINT: 512,
}
ANSWER_TOKENS = 256


def resolve(
    options: SamplingOptions, generation: Mapping[str, Any], default_tokens: int, limit: int
) -> SamplingParams:
    """Sampling of one generation: request, else generation_config.json, else greedy.

    A checkpoint's temperature, top_k and top_p count only where it says ``do_sample``. Raises
    InvalidArgument naming the field.
    """
    sampled = bool(generation.get("do_sample", False))

    def pick(name: str, off: float, *, needs_sampling: bool) -> float:
        asked = getattr(options, name)
        if asked is not None:
            return float(asked)
        stated = generation.get(name)
        usable = isinstance(stated, int | float) and (sampled or not needs_sampling)
        return float(stated) if usable and stated is not None else off

    if len(options.stop) > MAX_STOPS:
        raise InvalidArgument("sampling.stop", f"at most {MAX_STOPS} stop strings are taken")
    tokens = options.max_tokens if options.max_tokens is not None else default_tokens
    if tokens > limit:
        raise InvalidArgument("sampling.max_tokens", f"{tokens} is above the limit of {limit}")
    return SamplingParams(
        max_tokens=tokens,
        # A checkpoint that samples without a temperature means 1.
        temperature=pick("temperature", 1.0 if sampled else 0.0, needs_sampling=True),
        top_k=int(pick("top_k", 0, needs_sampling=True)),
        top_p=pick("top_p", 1.0, needs_sampling=True),
        repetition_penalty=pick("repetition_penalty", 1.0, needs_sampling=False),
        seed=options.seed,
    )
