"""A request in flight, and what the engine tells about it."""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from memoserve.engine.sampler import SamplingParams, Turn
from memoserve.errors import InvalidArgument, MemoserveError
from memoserve.memory.memory import HostState, PagedState
from memoserve.memory.transfer import Holder, Transfer
from memoserve.memory.window import RatioSchedule, WindowState


class Logits(enum.Enum):
    """Which rows of a prompt want logits; compressing wants none."""

    NONE = "none"
    LAST = "last"
    ALL = "all"


class Status(enum.Enum):
    """WAITING for pages, RUNNING in steps, FINISHED (done, failed or cancelled)."""

    WAITING = "waiting"
    RUNNING = "running"
    FINISHED = "finished"


@dataclass(eq=False)
class MemoryHandle(Holder):
    """A memory the engine holds, in pages or, spilled, in host tensors.

    Touched by the engine's thread alone. ``fetched_for``: who has it brought to the device.
    ``droppable``: it is on disk too, so spilling it may forget it while ``pins``, the number of
    users, is 0. ``released``: its holder is done with it.
    """

    paged: PagedState | None
    host: HostState | None = None
    moving: Transfer | None = None
    fetched_for: Sequence | None = None
    pins: int = 0
    droppable: bool = False
    last_used: int = 0
    released: bool = False

    @property
    def gone(self) -> bool:
        """It was dropped or freed."""
        return self.paged is None and self.host is None

    @property
    def state(self) -> WindowState:
        """Where the memory stands; raises ValueError once it is dropped."""
        if self.paged is not None:
            return self.paged.state
        if self.host is not None:
            return self.host.state
        raise ValueError("the memory was dropped")

    @property
    def schedule(self) -> RatioSchedule:
        """Ratios the memory was made with."""
        holder = self.paged or self.host
        if holder is None:
            raise ValueError("the memory was dropped")
        return holder.schedule


@dataclass(frozen=True)
class Started:
    """Admitted: the first chunk is computed in this step. ``queued_s`` in the queue."""

    queued_s: float


@dataclass(frozen=True)
class Fed:
    """A chunk of input was computed; totals of the sequence's own tokens and memory rows."""

    tokens: int
    memory_rows: int


@dataclass(frozen=True)
class LogitsOut:
    """Logits of raw rows fed in this step, ``[rows, vocab]``, in order."""

    logits: Tensor


@dataclass(frozen=True)
class TokenOut:
    """A token was drawn."""

    token: int


@dataclass(frozen=True)
class Done:
    """Finished well. ``reason``: stop or length of a generation, memory of a compression."""

    reason: str
    memory: MemoryHandle | None


@dataclass(frozen=True)
class Failed:
    """Finished badly; its pages are back."""

    error: MemoserveError


Event = Started | Fed | LogitsOut | TokenOut | Done | Failed


@dataclass(frozen=True)
class SequenceRequest:
    """What a sequence is to do.

    ``base``: the memory it goes on from, a state to restore, or None for a fresh one under
    ``schedule``. ``sampling`` None compresses: it feeds tokens and ends in a memory. ``keep``:
    a generation ends in a memory too. ``on_event`` runs on the engine's thread and must not
    block. ``deadline`` is on ``time.monotonic``'s clock.
    """

    on_event: Callable[[Event], None]
    schedule: RatioSchedule
    base: MemoryHandle | HostState | None = None
    tokens: tuple[int, ...] = ()
    sampling: SamplingParams | None = None
    stop_ids: frozenset[int] = frozenset()
    logits: Logits = Logits.NONE
    input_open: bool = False
    keep: bool = False
    deadline: float | None = None

    def __post_init__(self) -> None:
        if self.sampling is not None and (self.input_open or not self.tokens):
            raise InvalidArgument("prompt", "a generation goes on from a whole, non-empty prompt")


@dataclass(eq=False)
class Sequence(Holder):
    """One request's progress. ``number`` is its age; lower is older."""

    number: int
    request: SequenceRequest
    submitted_s: float
    pending: deque[int] = field(default_factory=deque)
    input_open: bool = False
    status: Status = Status.WAITING
    paged: PagedState | None = None
    host: HostState | None = None
    moving: Transfer | None = None
    tokens_fed: int = 0
    generated: list[int] = field(default_factory=list)
    history: list[int] = field(default_factory=list)
    generator: torch.Generator | None = None
    cancelled: bool = False
    last_step: int = 0
    started: bool = False

    @property
    def compresses(self) -> bool:
        """It makes a memory and asks for no tokens."""
        return self.request.sampling is None

    @property
    def decoding(self) -> bool:
        """Its prompt is done; it feeds one drawn token a step."""
        return bool(self.generated)

    @property
    def idle(self) -> bool:
        """It waits for its client's next input."""
        return self.input_open and not self.pending

    @property
    def exhausted(self) -> bool:
        """A compression with nothing left to feed."""
        return self.compresses and not self.input_open and not self.pending

    @property
    def tokens_to_come(self) -> int:
        """Most tokens it may still feed, as far as is known."""
        if self.request.sampling is None:
            return len(self.pending)
        # The last drawn token is never fed.
        return len(self.pending) + max(self.tokens_to_draw - 1, 0)

    @property
    def tokens_to_draw(self) -> int:
        """Tokens it may still draw."""
        sampling = self.request.sampling
        return sampling.max_tokens - len(self.generated) if sampling is not None else 0

    @property
    def draws(self) -> bool:
        """All its input is taken: a token is drawn from the last row."""
        return not self.compresses and not self.pending

    def turn(self, logits: Tensor) -> Turn:
        """Its draw from ``logits [vocab]``; raises ValueError for a compression."""
        params = self.request.sampling
        if params is None:
            raise ValueError("a compression draws nothing")
        if self.generator is None and not params.greedy:
            self.generator = params.generator(logits.device)
        return Turn(logits, params, self.history, self.generator)

    def take(self, count: int) -> list[int]:
        """Remove the next ``count`` pending tokens."""
        return [self.pending.popleft() for _ in range(count)]
