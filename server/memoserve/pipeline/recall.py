"""Recall: what the memories suggest to look for, line by line as it is written."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace

from memoserve.engine.sampler import SamplingParams
from memoserve.engine.sequence import SequenceRequest
from memoserve.errors import InvalidArgument
from memoserve.generators.writing import Written, write
from memoserve.pipeline.clues import ClueLines, LineSplitter
from memoserve.pipeline.conversation import Conversation
from memoserve.pipeline.merging import merged
from memoserve.pipeline.prompts import fill
from memoserve.pipeline.residents import Resident
from memoserve.pipeline.runtime import Runtime
from memoserve.pipeline.sampling import MAX_NEW_TOKENS, resolve
from memoserve.pipeline.stop import StopStrings
from memoserve.pipeline.tasks import in_thread
from memoserve.pipeline.values import (
    Clue,
    ClueKind,
    Final,
    Language,
    QueryEvent,
    RecallQuery,
    SamplingOptions,
    Stage,
    StageName,
    Token,
    Usage,
)


@dataclass
class Tally:
    """Counts of a query's generations, filled as they run."""

    started: float = field(default_factory=time.monotonic)
    prompt_tokens: int = 0
    generated_tokens: int = 0
    queue_s: float = 0.0
    first_token_s: float | None = None
    first_clue_s: float | None = None
    finish_reason: str = "stop"

    def saw_token(self) -> None:
        """Note the time of the first token."""
        if self.first_token_s is None:
            self.first_token_s = time.monotonic() - self.started

    def saw_clue(self) -> None:
        """Note the time of the first clue."""
        if self.first_clue_s is None:
            self.first_clue_s = time.monotonic() - self.started

    def ended(self, written: Written) -> None:
        """Add a finished generation."""
        self.generated_tokens += written.tokens
        self.queue_s = max(self.queue_s, written.queued_s)
        if written.reason == "length":
            self.finish_reason = "length"  # of several generations, one was cut

    def usage(self) -> Usage:
        """The counts so far."""
        return Usage(
            prompt_tokens=self.prompt_tokens,
            generated_tokens=self.generated_tokens,
            queue_s=self.queue_s,
            first_token_s=self.first_token_s,
            first_clue_s=self.first_clue_s,
        )


@dataclass(frozen=True)
class Asking:
    """One instruction to one memory."""

    resident: Resident
    kind: ClueKind
    query: str
    sampling: SamplingOptions
    language: Language
    deadline: float | None


async def write_from_memory(
    runtime: Runtime, asking: Asking, tally: Tally
) -> AsyncGenerator[str, None]:
    """Text that a memory writes on an instruction, in pieces of whole characters."""
    contents = asking.resident.contents
    language = contents.language if asking.language is Language.AUTO else asking.language
    instruction = fill(runtime.prompts.of(language).clues[asking.kind], {"input": asking.query})
    # The closing words behind the document are those that go with its opening.
    conversation = Conversation(runtime.tokenizer, runtime.prompts.of(contents.language))
    ids = await in_thread(conversation.ask, contents, instruction)
    if len(ids) > runtime.limits.max_query_tokens:
        raise InvalidArgument(
            "query",
            f"{len(ids)} tokens with the instruction, at most "
            f"{runtime.limits.max_query_tokens} are taken",
        )
    sampling = _sampling(runtime, asking.sampling, asking.kind)
    tally.prompt_tokens += len(ids)
    request = SequenceRequest(
        lambda _: None,
        contents.schedule,
        base=asking.resident.handle,
        tokens=tuple(ids),
        sampling=sampling,
        stop_ids=runtime.stop_ids,
        deadline=asking.deadline,
    )
    stops = StopStrings(asking.sampling.stop)
    async with aclosing(write(runtime.worker, runtime.tokenizer, request)) as pieces:
        async for piece in pieces:
            if isinstance(piece, Written):
                tally.ended(piece)
                continue
            if piece.tokens:
                tally.saw_token()
            yield stops.feed(piece.text)
            if stops.stopped:
                tally.ended(Written("stop", piece.tokens, piece.queued_s))
                return
    yield stops.flush()


def check_query_chars(runtime: Runtime, query: str) -> None:
    """Raise InvalidArgument for a query that is too long to be looked at any closer."""
    limit = runtime.limits.max_query_chars
    if len(query) > limit:
        raise InvalidArgument("query", f"{len(query)} characters, at most {limit} are taken")


def check_recall(runtime: Runtime, query: RecallQuery) -> None:
    """Raise InvalidArgument, naming the field, before anything is loaded for a bad query."""
    if not query.kinds:
        raise InvalidArgument("kinds", "name at least one")
    check_query_chars(runtime, query.query)
    if not query.query.strip() and set(query.kinds) != {ClueKind.KEY_POINT}:
        raise InvalidArgument("query", "is empty")
    for kind in query.kinds:
        _sampling(runtime, query.sampling, kind)


def _sampling(runtime: Runtime, options: SamplingOptions, kind: ClueKind) -> SamplingParams:
    limit = runtime.limits.max_new_tokens
    return resolve(options, runtime.model.generation, MAX_NEW_TOKENS[kind], limit)


async def recall(
    runtime: Runtime, query: RecallQuery, deadline: float | None
) -> AsyncGenerator[QueryEvent, None]:
    """Stream clues as they are written; the last event is Final.

    Raises InvalidArgument naming the field, NotFound, DataLoss, FailedPrecondition,
    ResourceExhausted, DeadlineExceeded.
    """
    check_recall(runtime, query)
    tally = Tally()
    yield Stage(StageName.RECALL)
    async with runtime.residents.open(query.memories) as residents:
        events = recall_clues(runtime, residents, query, deadline, tally)
        async with aclosing(events) as clues:
            async for event in clues:
                yield event
    usage = replace(tally.usage(), recall_s=time.monotonic() - tally.started)
    yield Final("", tally.finish_reason, usage, tuple(resident.ref for resident in residents))


async def recall_clues(
    runtime: Runtime,
    residents: Sequence[Resident],
    query: RecallQuery,
    deadline: float | None,
    tally: Tally,
) -> AsyncGenerator[QueryEvent, None]:
    """Clues of all memories and kinds, asked in one batch, in the order they are written.

    A clue is dropped where it is empty, said twice, too short or the acknowledgement; dropped
    ones are told only with ``return_dropped``.
    """
    streams = []
    for resident in residents:
        judge = ClueLines(runtime.clue_rules)
        for kind in dict.fromkeys(query.kinds):
            asking = Asking(resident, kind, query.query, query.sampling, query.language, deadline)
            streams.append(_clues(runtime, asking, judge, query, tally))
    async with aclosing(merged(streams)) as events:
        async for event in events:
            yield event


async def _clues(
    runtime: Runtime, asking: Asking, judge: ClueLines, query: RecallQuery, tally: Tally
) -> AsyncGenerator[QueryEvent, None]:
    lines = LineSplitter()
    async with aclosing(write_from_memory(runtime, asking, tally)) as texts:
        async for text in texts:
            if query.stream_tokens and text:
                yield Token(text, asking.kind)
            for line in lines.feed(text):
                clue = _clue(asking, judge, line, tally)
                if query.return_dropped or not clue.dropped:
                    yield clue
    for line in lines.finish():
        clue = _clue(asking, judge, line, tally)
        if query.return_dropped or not clue.dropped:
            yield clue


def _clue(asking: Asking, judge: ClueLines, line: str, tally: Tally) -> Clue:
    text, dropped = judge.judge(line)
    if asking.kind is ClueKind.DRAFT_ANSWER and dropped == "too short":
        dropped = ""  # an answer may be one word
    if not dropped:
        tally.saw_clue()
    return Clue(asking.kind, text, asking.resident.ref, dropped)
