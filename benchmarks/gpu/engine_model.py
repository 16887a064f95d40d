"""A random memory model made on the device, and an engine on it that is stepped by hand."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise

import torch
from torch import Tensor

from benchmarks.gpu.bench import TimeIsUp
from benchmarks.gpu.machine import Machine
from benchmarks.gpu.sizes import Sizes
from memoserve.engine.build import EngineOptions, build_engine, rules_of
from memoserve.engine.device import DeviceOptions
from memoserve.engine.engine import Engine
from memoserve.engine.sampler import SamplingParams
from memoserve.engine.sequence import (
    Done,
    Event,
    Failed,
    Fed,
    MemoryHandle,
    SequenceRequest,
    TokenOut,
)
from memoserve.errors import DeadlineExceeded
from memoserve.memory import window as win
from memoserve.memory.memory import HostState
from memoserve.memory.window import RatioSchedule, WindowRules
from memoserve.metrics import Metrics
from memoserve.models.config import parse_config
from memoserve.models.layers import BeaconLM
from memoserve.models.loader import LoadedModel, build_model
from memoserve.models.rope import read_rope

# A pool that fills a CPU's dry run soon.
DRY_PAGES = 160
DRAWN_ROWS = 1024


def random_weights(machine: Machine, sizes: Sizes, seed: int) -> dict[str, Tensor]:
    """Weights by published names, bfloat16, made where they stay."""
    generator = machine.generator(seed)
    with torch.device("meta"):
        shapes = {n: p.shape for n, p in BeaconLM(parse_config(sizes.config())).named_parameters()}
    return {
        name: torch.ones(shape, dtype=torch.bfloat16, device=machine.device)
        if name.endswith("norm.weight")
        else machine.normal(*shape, dtype=torch.bfloat16, generator=generator, scale=0.02)
        for name, shape in shapes.items()
    }


def model_of(sizes: Sizes, weights: Mapping[str, Tensor]) -> LoadedModel:
    """A loaded model without a directory; beacon tensors that lack are derived."""
    config = parse_config(sizes.config())
    rope = read_rope(config.raw, config.head_dim, config.max_positions)
    model = build_model(config, weights)
    return LoadedModel("random", model, rope, "random", {}, frozenset(), "")


def rules_for(sizes: Sizes) -> WindowRules:
    """Window rules of the shape."""
    return rules_of(parse_config(sizes.config()).beacon)


def random_ids(sizes: Sizes, count: int, seed: int) -> tuple[int, ...]:
    """Token ids from 3 on."""
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randint(3, sizes.vocab, (count,), generator=generator).tolist())


def random_state(machine: Machine, sizes: Sizes, beacons: int, seed: int) -> HostState:
    """A memory of whole windows with ``beacons`` random rows, as it lies on the host."""
    ratio, rules = sizes.ratios[0], rules_for(sizes)
    schedule = RatioSchedule((ratio,))
    state = win.border(rules, schedule, beacons // (sizes.window // ratio))
    row, generator = (sizes.layers, 2, sizes.kv_heads, sizes.head_dim), machine.generator(seed)
    rows = torch.empty((state.memory_rows, *row), dtype=torch.bfloat16)
    # In parts: an engine's pool leaves no room for all of it, and a CPU draws too slowly.
    for part in rows.split(DRAWN_ROWS):
        part.copy_(machine.normal(*part.shape, dtype=rows.dtype, generator=generator))
    return HostState(schedule, state, 0, (rows,), (rows[:0],))


def page_locked(machine: Machine, host: HostState) -> HostState:
    """The same in memory that the device reads without a copy between; as it is on a CPU."""
    if machine.dry:
        return host
    return replace(host, memory_blocks=(host.memory_rows.pin_memory(),))


@dataclass
class Told:
    """What the engine told about one sequence, with the time of each token."""

    tokens: list[float] = field(default_factory=list)
    ids: list[int] = field(default_factory=list)
    fed: int = 0
    memory: MemoryHandle | None = None
    error: Exception | None = None

    def tell(self, event: Event) -> None:
        """The engine's ``on_event``."""
        match event:
            case TokenOut(token=token):
                self.tokens.append(time.perf_counter())
                self.ids.append(token)
            case Fed(tokens=tokens):
                self.fed = tokens
            case Done(memory=memory):
                self.memory = memory
            case Failed(error=error):
                self.error = error


@dataclass(frozen=True)
class Reading:
    """Seconds to the first token, one a reader; and between tokens while all of them decode."""

    first_s: list[float]
    between_s: list[float]


class Session:
    """An engine on a device, stepped by hand until a deadline of the monotonic clock."""

    def __init__(
        self,
        machine: Machine,
        model: LoadedModel,
        deadline: float,
        features: DeviceOptions | None = None,
        memory_dtype: str = "auto",
        num_pages: int = 0,
        page_size: int = 0,
    ) -> None:
        self.machine = machine
        self.deadline = deadline
        options = EngineOptions(
            device=str(machine.device),
            num_pages=num_pages or (DRY_PAGES if machine.dry else 0),
            page_size=page_size,
            memory_dtype=memory_dtype,
            features=features or DeviceOptions(),
        )
        self.engine: Engine = build_engine(model, options, Metrics())

    def run(self, requests: Iterable[Callable[[Told], SequenceRequest]]) -> list[Told]:
        """Submit all and step to their end; raises what the engine failed one with."""
        told = []
        for request in requests:
            told.append(Told())
            self.engine.submit(request(told[-1]))
        while self.engine.busy:
            if time.monotonic() > self.deadline:
                fed = sum(one.fed for one in told)
                self.machine.synchronise()
                self.engine.fail_all(DeadlineExceeded("the stage's time was up"))
                raise TimeIsUp(f"the stage's time was up after {fed} tokens of input")
            self.engine.step()
        self.machine.synchronise()
        for one in told:
            if one.error is not None:
                raise one.error
        return told

    def memorize(
        self, tokens: tuple[int, ...], ratio: int, base: MemoryHandle | None = None
    ) -> tuple[MemoryHandle, float]:
        """A memory of ``tokens``, after ``base``, and the seconds it took."""
        schedule = RatioSchedule((ratio,))
        return self._made(lambda t: SequenceRequest(t.tell, schedule, base=base, tokens=tokens))

    def restore(self, host: HostState) -> tuple[MemoryHandle, float]:
        """A memory brought to the device, and the seconds it took."""
        return self._made(_restoring(host))

    def _made(self, request: Callable[[Told], SequenceRequest]) -> tuple[MemoryHandle, float]:
        self.machine.synchronise()
        began = time.perf_counter()
        memory = self.run([request])[0].memory
        if memory is None:
            raise RuntimeError("the engine kept no memory")
        return memory, time.perf_counter() - began

    def answers(
        self, memory: MemoryHandle, queries: list[tuple[int, ...]], new_tokens: int
    ) -> list[list[int]]:
        """Greedy tokens of some queries at once."""
        asked = [_asking(memory, query, new_tokens) for query in queries]
        return [one.ids for one in self.run(asked)]

    def read(
        self,
        memories: list[MemoryHandle],
        query: tuple[int, ...],
        new_tokens: int,
        beside: HostState | None = None,
    ) -> Reading:
        """One query on each, all at once; the same memory may be named many times.

        ``beside`` is brought to the device meanwhile, and given up.
        """
        requests = [_asking(memory, query, new_tokens) for memory in memories]
        if beside is not None:
            requests.append(_restoring(beside))
        self.machine.synchronise()
        began = time.perf_counter()
        told = self.run(requests)
        if beside is not None and (memory := told.pop().memory) is not None:
            self.engine.release(memory)
        times = [one.tokens for one in told]
        return Reading([one[0] - began for one in times], between_while_all(times))


def between_while_all(times: list[list[float]]) -> list[float]:
    """Seconds between tokens from when the last decodes until the first is done: all take part."""
    begun, done = max(one[0] for one in times), min(one[-1] for one in times)
    return [
        later - earlier
        for one in times
        for earlier, later in pairwise(one)
        if begun <= earlier and later <= done
    ]


Request = Callable[[Told], SequenceRequest]


def _asking(base: MemoryHandle, query: tuple[int, ...], new_tokens: int) -> Request:
    sampling = SamplingParams(max_tokens=new_tokens)
    return lambda told: SequenceRequest(
        told.tell, base.schedule, base=base, tokens=query, sampling=sampling
    )


def _restoring(host: HostState) -> Request:
    return lambda told: SequenceRequest(told.tell, host.schedule, base=host)
