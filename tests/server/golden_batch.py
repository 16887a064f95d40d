"""A golden case among strangers: its memorize, its queries and eight other sequences together."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import torch

from memoserve.engine.sampler import SamplingParams
from memoserve.engine.sequence import Logits, MemoryHandle
from tests.server.fixtures import Driver, Outcome
from tests.server.golden import Case

NUM_RANDOM = 8


def random_requests(case: Case) -> list[dict[str, Any]]:
    """Eight other sequences: texts and queries, with and without the memory below them."""
    draw = np.random.default_rng(1)
    vocab, window = case.model.config.vocab_size, case.rules.window
    requests = []
    for number in range(NUM_RANDOM):
        tokens = draw.integers(0, vocab, int(draw.integers(1, 3 * window))).tolist()
        sampling = SamplingParams(max_tokens=12) if number % 2 else None
        requests.append({"tokens": tokens, "on_memory": number % 4 < 2, "sampling": sampling})
    return requests


def submit_all(
    case: Case, driver: Driver, memory: MemoryHandle, logits: Logits
) -> tuple[Outcome, list[Outcome], list[Outcome]]:
    """The memorize again, the queries and the random sequences, all waiting."""
    _, again = driver.submit(case.context, None, case.schedule, logits=logits)
    asked = [
        driver.submit(
            query["ids"],
            memory,
            sampling=SamplingParams(max_tokens=len(query["generated"])),
            logits=logits,
            keep=True,
        )[1]
        for query in case.queries
    ]
    others = []
    for request in random_requests(case):
        base = memory if request["on_memory"] else None
        sampling = request["sampling"]
        others.append(
            driver.submit(
                request["tokens"],
                base,
                case.schedule,
                sampling,
                logits=Logits.ALL,
                keep=sampling is not None,
            )[1]
        )
    return again, asked, others


@cache
def alone(case: Case) -> list[tuple[Outcome, torch.Tensor, torch.Tensor]]:
    """Each random sequence by itself: its outcome, memory rows and window rows."""
    driver = case.driver(sequences=NUM_RANDOM + 3)
    memory = driver.compress(case.context, None, case.schedule).memory
    results = []
    for request in random_requests(case):
        base = memory if request["on_memory"] else None
        _, outcome = driver.submit(
            request["tokens"],
            base,
            case.schedule,
            request["sampling"],
            logits=Logits.ALL,
            keep=request["sampling"] is not None,
        )
        driver.drain()
        host = driver.engine.read(outcome.memory)
        results.append((outcome, host.memory_rows, host.window_rows))
    return results
