"""The engine: sequences in, steps, events out. One thread calls it; it touches no file."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from functools import partial
from itertools import count

from torch import Tensor

from memoserve.engine.admission import Admission, Room
from memoserve.engine.faults import (
    SequenceFault,
    finite_part,
    finite_rows,
    is_device_lost,
    is_shortage,
    shortage,
)
from memoserve.engine.host_tier import COPY_BYTES, HostTier, tell
from memoserve.engine.model_runner import ModelRunner
from memoserve.engine.placed import Chunk
from memoserve.engine.sampler import Sampler
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
from memoserve.memory.memory import HostState
from memoserve.memory.page_pool import PagePool
from memoserve.memory.transfer import Holder
from memoserve.metrics import Metrics

log = logging.getLogger(__name__)


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
        copy_bytes: int = COPY_BYTES,
    ) -> None:
        self.rules = runner.rules
        self.device = runner.device
        self.pool = pool
        self.metrics = metrics
        self._runner = runner
        self._cache = cache
        self._sampler = Sampler(runner.uploads)
        self._scheduler = Scheduler(runner.rules, limits)
        self._tier = HostTier(cache, pool, runner.uploads, copy_bytes)
        self._admission = Admission(
            runner.rules, pool, self._tier, lambda cause: metrics.spills.labels(cause).inc()
        )
        self._clock = clock
        self._numbers = count()
        self._steps = 0
        self._sequences: list[Sequence] = []
        # The oldest that runs and has pages freed for it.
        self._lacking: Sequence | None = None

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
            self._admission.needs.check_possible(sequence)
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
            self._admission.forget(handle)
        else:
            self._admission.drop_host_copy(handle)

    def release(self, handle: MemoryHandle) -> None:
        """Forget a memory as soon as nobody uses it; running readers have their own forks."""
        handle.released = True
        if handle.pins == 0:
            self._admission.forget(handle)

    def read(self, handle: MemoryHandle, first_row: int = 0) -> HostState:
        """Copy a memory's rows from ``first_row`` on to host tensors, at once.

        Raises SequenceFault where the model gave rows that are not finite: nothing may keep them.
        """
        if handle.paged is not None:
            return finite_rows(self._tier.read_whole(handle.paged, first_row))
        return self._on_host(handle, first_row)

    def start_reading(
        self, handle: MemoryHandle, first_row: int, answer: Future[HostState]
    ) -> None:
        """As ``read``, slice by slice between steps; ``answer`` gets what it gives or raises.

        The rows are those of now, whatever becomes of the memory meanwhile.
        """
        if handle.paged is not None:
            self._tier.start_reading(handle.paged, first_row, answer, finite_rows)
        else:
            tell(answer, partial(self._on_host, handle, first_row))

    def _on_host(self, handle: MemoryHandle, first_row: int) -> HostState:
        if handle.host is None:
            raise ValueError("the memory was dropped")
        return finite_part(handle.host, first_row)

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
        return bool(self._tier.readings) or any(
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

    @property
    def _holders(self) -> list[Holder]:
        return [*self._sequences, *self._admission.handles]

    def check_integrity(self) -> None:
        """Every page is free or held by exactly the tables that say so."""
        states = [holder.held for holder in self._holders]
        states += [reading.leaving.paged for reading in self._tier.readings]
        tables = [t.pages for state in states if state is not None for t in state.tables]
        self.pool.check_integrity(tables)

    # -- one step ---------------------------------------------------------------------------------

    def step(self) -> bool:
        """Reap, move memories, admit, run, hand out; True if anything was computed or moved."""
        self._reap()
        self._tier.begin_step()
        self._admission.go_on_leaving(self._sequences)
        self._let_arrive()
        self._admit()
        shares = self._fit(self._scheduler.schedule(self._with_status(Status.RUNNING)))
        if shares:
            self._steps += 1
            self._run(shares)
        self._finish_exhausted()
        self._tier.end_step(idle=not shares)
        self._report()
        if not self._sequences and not self._tier.readings:
            self.check_integrity()
        return bool(shares) or self._tier.progressed

    def _reap(self) -> None:
        """Cancelled and late sequences leave before any more work is done for them."""
        now = self._clock()
        for sequence in list(self._sequences):
            deadline = sequence.request.deadline
            if sequence.cancelled:
                self._finish(sequence, Failed(Cancelled("the request was cancelled")))
            elif deadline is not None and now >= deadline:
                self._finish(sequence, Failed(DeadlineExceeded("the deadline passed")))

    def _let_arrive(self) -> None:
        """Rows on their way to somebody's pages; it runs once they are there."""
        for sequence in self._with_status(Status.WAITING):
            try:
                if self._admission.go_on_arriving(sequence):
                    self._start(sequence)
            except Exception as error:
                self._blame(sequence, error)

    def _admit(self) -> None:
        """Oldest first; nobody overtakes, so that nobody starves."""
        lacking = self._lacking
        for sequence in self._with_status(Status.WAITING):
            if lacking is not None and lacking.number < sequence.number:
                break
            if sequence.moving is not None:
                continue
            if sequence.host is not None and sequence.idle and sequence.started:
                continue  # spilled, and its client sends nothing: pages would lie unused
            try:
                if not self._admission.admit(sequence, self._sequences):
                    break
            except Exception as error:
                self._blame(sequence, error)
                continue
            self._start(sequence)

    def _blame(self, sequence: Sequence, error: Exception) -> None:
        """End one sequence for what went wrong on its behalf; the others go on.

        Raises it where the device is lost, and with it the engine.
        """
        if is_device_lost(error):
            raise error
        if is_shortage(error):
            log.warning("sequence %d: %s", sequence.number, error)
            error = shortage("this request")
        elif not isinstance(error, MemoserveError):
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
        self._lacking = None
        # Only memories leave the queries' reserve alone; a step of queries need not add it up.
        compresses = any(share.sequence.compresses for share in shares)
        reserve = self._admission.needs.reserved(self._sequences) if compresses else 0
        for share in shares:
            sequence = share.sequence
            if sequence.paged is None or sequence.status is not Status.RUNNING:
                continue  # spilled for an older one a moment ago, or on its way
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
        return [share for share in fitting if share.sequence.status is Status.RUNNING]

    def _provide(self, sequence: Sequence, needed: int) -> bool:
        """Make room for a running sequence; where there is none it waits, steps back or fails."""
        room = self._admission.make_room(needed, self._sequences, keep=None, asking=sequence)
        older = self._lacking is None or sequence.number < self._lacking.number
        if room is Room.SOON and older:
            self._lacking = sequence
        if room is Room.NONE:
            others = [s for s in self._sequences if s is not sequence and s.held is not None]
            if not others:
                refusal = self._admission.needs.refusal(needed + self.pool.num_used)
                self._finish(sequence, Failed(refusal))
            elif sequence.compresses and any(s.compresses for s in others):
                self._admission.spill_sequence(sequence)
        return room is Room.FREE

    def _run(self, shares: list[Share]) -> None:
        started = self._clock()
        chunks = [self._chunk(share) for share in shares]
        results = self._run_together(chunks)
        if results is None:
            results = [self._run_alone(s, c) for s, c in zip(shares, chunks, strict=True)]
        computed = [(s, out) for s, out in zip(shares, results, strict=True) if out is not None]
        self._count_tokens([share for share, _ in computed])
        for share, logits in computed:
            self._hand_out(share, logits)
        self._draw([(s.sequence, out[-1]) for s, out in computed if s.sequence.draws])
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
            wanted = Logits.LAST if sequence.draws else Logits.NONE
        return Chunk(sequence.paged, tokens, wanted)

    def _run_together(self, chunks: list[Chunk]) -> list[Tensor | None] | None:
        """Logits of each chunk; None where the step failed: nothing of it has happened."""
        try:
            return list(self._runner.run(chunks))
        except Exception as error:
            lacking = is_shortage(error)
            log.log(
                logging.WARNING if lacking else logging.ERROR,
                "a step of %d sequences failed; each is tried alone",
                len(chunks),
                exc_info=error,
            )
        # Outside the handler, which keeps alive what the failed step had allocated.
        if lacking:
            self._tier.device.empty_cache()
        return None

    def _run_alone(self, share: Share, chunk: Chunk) -> Tensor | None:
        try:
            return self._runner.run([chunk])[0]
        except Exception as error:
            lacking = is_shortage(error)
            self._blame(share.sequence, error)
        if lacking:
            self._tier.device.empty_cache()
        return None

    def _count_tokens(self, shares: list[Share]) -> None:
        """Once a step, not once a sequence: between two steps the device has nothing to do."""
        fed: Counter[str] = Counter()
        for share in shares:
            decodes = "decode" if share.sequence.decoding else "prompt"
            fed["memorize" if share.sequence.compresses else decodes] += share.tokens
        for use, tokens in fed.items():
            self.metrics.raw_tokens.labels(use).inc(tokens)

    def _hand_out(self, share: Share, logits: Tensor) -> None:
        sequence = share.sequence
        sequence.last_step = self._steps
        sequence.tokens_fed += share.tokens
        if sequence.request.logits is Logits.ALL:
            self._tell(sequence, LogitsOut(logits))
        if sequence.compresses and sequence.paged is not None:
            self._tell(sequence, Fed(sequence.tokens_fed, sequence.paged.state.memory_rows))

    def _draw(self, drawing: list[tuple[Sequence, Tensor]]) -> None:
        """One token for each; the only thing that a step waits for the device for."""
        tokens = self._sampler.draw([s.turn(logits) for s, logits in drawing])
        for (sequence, _), token in zip(drawing, tokens, strict=True):
            if isinstance(token, Exception):
                self._blame(sequence, token)
            else:
                self._accept(sequence, token)

    def _accept(self, sequence: Sequence, token: int) -> None:
        sequence.generated.append(token)
        sequence.history.append(token)
        if token in sequence.request.stop_ids:
            self._complete(sequence, "stop")
            return
        self._tell(sequence, TokenOut(token))
        if sequence.tokens_to_draw == 0:
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
        self._admission.drop(sequence)
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
        """End every sequence and every reading; the engine is going down."""
        for sequence in list(self._sequences):
            self._finish(sequence, Failed(error))
        self._tier.end_readings(error)

    def _report(self) -> None:
        gauges = self.metrics
        for status in (Status.WAITING, Status.RUNNING):
            gauges.sequences.labels(status.value).set(len(self._with_status(status)))
        gauges.pages.labels("free").set(self.pool.num_free)
        gauges.pages.labels("used").set(self.pool.num_used)
        gauges.pages.labels("shared").set(self.pool.num_shared)
        held = [holder.held for holder in self._holders]
        gauges.wasted_slots.set(sum(p.wasted_slots for p in held if p is not None))
