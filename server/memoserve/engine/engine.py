"""The engine: sequences in, steps, events out. One thread calls it; it touches no file."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from itertools import count

from torch import Tensor

from memoserve.engine.admission import Admission
from memoserve.engine.model_runner import Chunk, ModelRunner
from memoserve.engine.sampler import sample
from memoserve.engine.scheduler import Scheduler, Share, StepLimits
from memoserve.engine.sequence import (
    Done,
    Event,
    Failed,
    Fed,
    Logits,
    LogitsOut,
    MemoryHandle,
    Sequence,
    SequenceRequest,
    Started,
    Status,
    TokenOut,
)
from memoserve.errors import Cancelled, DeadlineExceeded, MemoserveError, ResourceExhausted
from memoserve.memory.kv_cache import KVCache
from memoserve.memory.memory import HostState, to_host
from memoserve.memory.page_pool import PagePool
from memoserve.metrics import Metrics

log = logging.getLogger(__name__)


class SequenceFault(MemoserveError):
    """The model failed on this sequence alone; a bug, told without its text."""

    status = "INTERNAL"
    default_reason = "SEQUENCE_FAULT"


class Engine:
    """Holds the pool, the model and all sequences. Not thread-safe; see ``worker``."""

    def __init__(
        self,
        runner: ModelRunner,
        pool: PagePool,
        cache: KVCache,
        limits: StepLimits,
        metrics: Metrics,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.rules = runner.rules
        self.pool = pool
        self.metrics = metrics
        self._runner = runner
        self._cache = cache
        self._scheduler = Scheduler(runner.rules, limits)
        self._admission = Admission(
            runner.rules, pool, cache, lambda cause: metrics.spills.labels(cause).inc()
        )
        self._clock = clock
        self._numbers = count()
        self._steps = 0
        self._sequences: list[Sequence] = []

    # -- what callers do -----------------------------------------------------------------------

    def submit(self, request: SequenceRequest) -> Sequence:
        """Queue a request; one that could never fit is refused by an event at once."""
        sequence = Sequence(next(self._numbers), request, self._clock())
        sequence.pending.extend(request.tokens)
        if not sequence.compresses:
            sequence.history.extend(request.tokens)
        sequence.input_open = request.input_open
        if isinstance(request.base, MemoryHandle) and not self.pin(request.base):
            raise ValueError("the memory is gone")
        try:
            self._admission.check_possible(sequence)
        except ResourceExhausted as error:
            self._finish(sequence, Failed(error))
            return sequence
        self._sequences.append(sequence)
        return sequence

    def feed(self, sequence: Sequence, tokens: Iterable[int], *, last: bool = False) -> None:
        """More input for an open sequence; ``last`` closes it. Too late is no error."""
        if sequence.status is not Status.FINISHED:
            sequence.pending.extend(tokens)
            sequence.input_open = sequence.input_open and not last

    def pin(self, handle: MemoryHandle) -> bool:
        """Use a memory: it is not dropped until ``unpin``. False if it is gone already."""
        if handle.gone or handle.released:
            return False
        handle.pins += 1
        handle.last_used = self._steps
        return True

    def unpin(self, handle: MemoryHandle) -> None:
        """Stop using a memory; the last user frees a released one, or a spare host copy."""
        handle.pins -= 1
        handle.last_used = self._steps
        if handle.released and handle.pins == 0:
            self._free(handle)
        else:
            self._admission.drop_host_copy(handle)

    def release(self, handle: MemoryHandle) -> None:
        """Forget a memory as soon as nobody uses it; running readers have their own forks."""
        handle.released = True
        if handle.pins == 0:
            self._free(handle)

    def _free(self, handle: MemoryHandle) -> None:
        if handle.paged is not None:
            handle.paged.release()
        handle.paged = handle.host = None
        if handle in self._admission.handles:
            self._admission.handles.remove(handle)

    def read(self, handle: MemoryHandle, first_row: int = 0) -> HostState:
        """Copy a memory's rows from ``first_row`` on to host tensors.

        Raises SequenceFault where the model gave rows that are not finite: nothing may keep them.
        """
        host = self._read(handle, first_row)
        if not bool(host.memory_rows.isfinite().all() & host.window_rows.isfinite().all()):
            raise SequenceFault("the model gave no usable memory")
        return host

    def _read(self, handle: MemoryHandle, first_row: int) -> HostState:
        if handle.paged is not None:
            return to_host(self._cache, handle.paged, first_row)
        if handle.host is None:
            raise ValueError("the memory was dropped")
        host = handle.host
        rows = host.memory_rows[first_row:]
        return HostState(host.schedule, host.state, first_row, rows, host.window_rows)

    def truncate(self, handle: MemoryHandle, windows: int) -> MemoryHandle:
        """A new memory cut back to a window border; shares the pages it keeps."""
        twin = self._admission.resident(handle).fork()
        twin.truncate(self.rules, windows)
        cut = MemoryHandle(twin, last_used=self._steps)
        self._admission.handles.append(cut)
        return cut

    @property
    def busy(self) -> bool:
        """Something waits for pages or has input to feed."""
        return any(
            s.pending or s.exhausted or s.cancelled or not s.started for s in self._sequences
        )

    @property
    def next_deadline(self) -> float | None:
        """Earliest deadline of all sequences, on the engine's clock."""
        deadlines = [s.request.deadline for s in self._sequences]
        return min((d for d in deadlines if d is not None), default=None)

    def _with_status(self, status: Status) -> list[Sequence]:
        """Sequences of a status, oldest first."""
        return [s for s in self._sequences if s.status is status]

    def check_integrity(self) -> None:
        """Every page is free or held by exactly the tables that say so."""
        states = [s.paged for s in self._sequences]
        states += [h.paged for h in self._admission.handles]
        tables = [t.pages for state in states if state is not None for t in state.tables]
        self.pool.check_integrity(tables)

    # -- one step ---------------------------------------------------------------------------------

    def step(self) -> bool:
        """Reap, admit, run, hand out; True if anything was computed."""
        self._reap()
        self._admit()
        shares = self._fit(self._scheduler.schedule(self._with_status(Status.RUNNING)))
        if shares:
            self._steps += 1
            self._run(shares)
        self._finish_exhausted()
        self._report()
        if not self._sequences:
            self.check_integrity()
        return bool(shares)

    def _reap(self) -> None:
        """Cancelled and late sequences leave before any more work is done for them."""
        now = self._clock()
        for sequence in list(self._sequences):
            deadline = sequence.request.deadline
            if sequence.cancelled:
                self._finish(sequence, Failed(Cancelled("the request was cancelled")))
            elif deadline is not None and now >= deadline:
                self._finish(sequence, Failed(DeadlineExceeded("the deadline passed")))

    def _admit(self) -> None:
        """Oldest first; nobody overtakes, so that nobody starves."""
        for sequence in self._with_status(Status.WAITING):
            if sequence.host is not None and sequence.idle:
                continue  # spilled, and its client sends nothing: pages would lie unused
            try:
                if not self._admission.admit(sequence, self._sequences):
                    break
            except Exception as error:
                self._blame(sequence, error)
                continue
            self._start(sequence)

    def _blame(self, sequence: Sequence, error: Exception) -> None:
        """End one sequence for what went wrong on its behalf; the others go on."""
        if not isinstance(error, MemoserveError):
            log.error("sequence %d failed", sequence.number, exc_info=error)
            error = SequenceFault("the sequence failed")
        self._finish(sequence, Failed(error))

    def _start(self, sequence: Sequence) -> None:
        if isinstance(sequence.request.base, MemoryHandle):
            sequence.request.base.last_used = self._steps
        if sequence.started:
            return
        sequence.started = True
        queued = self._clock() - sequence.submitted_s
        self.metrics.queue_seconds.observe(queued)
        self._tell(sequence, Started(queued))

    def _fit(self, shares: list[Share]) -> list[Share]:
        """Leave out whoever lacks pages now; queries have theirs reserved."""
        fitting, taken = [], 0
        # Only memories leave the queries' reserve alone; a step of queries need not add it up.
        compresses = any(share.sequence.compresses for share in shares)
        reserve = self._admission.reserved(self._sequences) if compresses else 0
        for share in shares:
            sequence = share.sequence
            if sequence.paged is None:
                continue  # spilled for an older one a moment ago
            try:
                self._runner.check_positions(sequence.paged, share.tokens)
                pages = self._runner.pages_needed(sequence.paged, share.tokens)
                needed = taken + pages + (reserve if sequence.compresses else 0)
                if self.pool.num_free < needed and not self._provide(sequence, needed):
                    continue
            except Exception as error:
                self._blame(sequence, error)
                continue
            fitting.append(share)
            taken += pages
        return [share for share in fitting if share.sequence.paged is not None]

    def _provide(self, sequence: Sequence, needed: int) -> bool:
        """Make room for a running sequence; where there is none it waits, steps back or fails."""
        if self._admission.make_room(needed, self._sequences, keep=None, asking=sequence):
            return True
        others = [s for s in self._with_status(Status.RUNNING) if s is not sequence]
        if not others:
            self._finish(sequence, Failed(self._admission.refusal(needed + self.pool.num_used)))
        elif sequence.compresses and any(s.compresses for s in others):
            self._admission.spill_sequence(sequence)
        return False

    def _run(self, shares: list[Share]) -> None:
        started = self._clock()
        chunks = [self._chunk(share) for share in shares]
        try:
            results: list[Tensor | None] = list(self._runner.run(chunks))
        except Exception:
            log.exception("a step of %d sequences failed; each is tried alone", len(shares))
            results = [self._run_alone(s, c) for s, c in zip(shares, chunks, strict=True)]
        for share, logits in zip(shares, results, strict=True):
            if logits is not None:
                self._hand_out(share, logits)
        seconds = self._clock() - started
        self._scheduler.observe(sum(share.tokens for share in shares), seconds)
        self.metrics.step_seconds.observe(seconds)
        self.metrics.step_sequences.observe(len(shares))

    def _chunk(self, share: Share) -> Chunk:
        sequence = share.sequence
        if sequence.paged is None:
            raise ValueError("a scheduled sequence has pages")
        tokens = tuple(sequence.take(share.tokens))
        wanted = sequence.request.logits
        if wanted is not Logits.ALL:
            # Only the row that a token is drawn from goes through the head.
            draws = not sequence.compresses and not sequence.pending
            wanted = Logits.LAST if draws else Logits.NONE
        return Chunk(sequence.paged, tokens, wanted)

    def _run_alone(self, share: Share, chunk: Chunk) -> Tensor | None:
        try:
            return self._runner.run([chunk])[0]
        except Exception as error:
            self._blame(share.sequence, error)
            return None

    def _hand_out(self, share: Share, logits: Tensor) -> None:
        sequence = share.sequence
        sequence.last_step = self._steps
        sequence.tokens_fed += share.tokens
        use = "memorize" if sequence.compresses else "decode" if sequence.decoding else "prompt"
        self.metrics.raw_tokens.labels(use).inc(share.tokens)
        if sequence.request.logits is Logits.ALL:
            self._tell(sequence, LogitsOut(logits))
        if sequence.compresses and sequence.paged is not None:
            self._tell(sequence, Fed(sequence.tokens_fed, sequence.paged.state.memory_rows))
        elif not sequence.pending:
            self._draw(sequence, logits[-1])

    def _draw(self, sequence: Sequence, logits: Tensor) -> None:
        params = sequence.request.sampling
        if params is None:
            raise ValueError("a compression draws nothing")
        if sequence.generator is None and not params.greedy:
            sequence.generator = params.generator(logits.device)
        try:
            token = sample(logits, params, sequence.history, sequence.generator)
        except Exception:
            log.exception("sequence %d has logits that nothing can be drawn from", sequence.number)
            self._finish(sequence, Failed(SequenceFault("the model gave no usable logits")))
            return
        sequence.generated.append(token)
        sequence.history.append(token)
        if token in sequence.request.stop_ids:
            self._complete(sequence, "stop")
            return
        self._tell(sequence, TokenOut(token))
        if len(sequence.generated) >= params.max_tokens:
            self._complete(sequence, "length")
        else:
            sequence.pending.append(token)

    def _finish_exhausted(self) -> None:
        for sequence in [s for s in self._with_status(Status.RUNNING) if s.exhausted]:
            self._complete(sequence, "memory")

    # -- endings -----------------------------------------------------------------------------

    def _complete(self, sequence: Sequence, reason: str) -> None:
        memory = None
        if (sequence.compresses or sequence.request.keep) and sequence.paged is not None:
            memory = MemoryHandle(sequence.paged, last_used=self._steps)
            self._admission.handles.append(memory)
            sequence.paged = None
        if not self._finish(sequence, Done(reason, memory)) and memory is not None:
            self.release(memory)  # nobody took it

    def _finish(self, sequence: Sequence, event: Done | Failed) -> bool:
        """End a sequence and tell its requester; False if that failed."""
        if sequence.status is Status.FINISHED:
            return False
        sequence.status = Status.FINISHED
        if sequence.paged is not None:
            sequence.paged.release()
        sequence.paged = sequence.host = None
        sequence.pending.clear()
        if isinstance(sequence.request.base, MemoryHandle):
            self.unpin(sequence.request.base)
        if sequence in self._sequences:
            self._sequences.remove(sequence)
        outcome = event.reason if isinstance(event, Done) else event.error.status
        self.metrics.finished.labels(outcome).inc()
        return self._tell(sequence, event)

    def _tell(self, sequence: Sequence, event: Event) -> bool:
        """A requester that raises loses its own sequence, nobody else's; False if it did."""
        try:
            sequence.request.on_event(event)
        except Exception:
            log.exception("the requester of sequence %d failed", sequence.number)
            sequence.cancelled = True
            return False
        return True

    def fail_all(self, error: MemoserveError) -> None:
        """End every sequence; the engine is going down."""
        for sequence in list(self._sequences):
            self._finish(sequence, Failed(error))

    def _report(self) -> None:
        gauges = self.metrics
        for status in (Status.WAITING, Status.RUNNING):
            gauges.sequences.labels(status.value).set(len(self._with_status(status)))
        gauges.pages.labels("free").set(self.pool.num_free)
        gauges.pages.labels("used").set(self.pool.num_used)
        gauges.pages.labels("shared").set(self.pool.num_shared)
        held = [s.paged for s in self._sequences] + [h.paged for h in self._admission.handles]
        gauges.wasted_slots.set(sum(p.wasted_slots for p in held if p is not None))
