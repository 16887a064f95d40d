"""Generate: recall, retrieve, then answer from the evidence; or parts of that."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, aclosing
from dataclasses import replace

from memoserve.engine.sampler import SamplingParams
from memoserve.errors import InvalidArgument
from memoserve.generators.base import AnswerRequest, Evidence, Finished, GeneratedText
from memoserve.pipeline.prompts import check_template, fill
from memoserve.pipeline.recall import (
    Asking,
    Tally,
    check_query_chars,
    recall_clues,
    write_from_memory,
)
from memoserve.pipeline.residents import Resident
from memoserve.pipeline.retrieve import Shelf, check_retrieve, open_shelves, search, spread
from memoserve.pipeline.runtime import Runtime
from memoserve.pipeline.sampling import ANSWER_TOKENS, resolve
from memoserve.pipeline.stop import StopStrings
from memoserve.pipeline.values import (
    Clue,
    ClueKind,
    Final,
    GenerateQuery,
    Language,
    MemoryRef,
    Passage,
    QueryEvent,
    Quote,
    RecallQuery,
    RetrieveQuery,
    Stage,
    StageName,
    Task,
    Token,
)


class _Answer:
    """State of one Generate call."""

    def __init__(self, runtime: Runtime, query: GenerateQuery, deadline: float | None) -> None:
        self.runtime = runtime
        self.query = query
        self.deadline = deadline
        self.tally = Tally()
        self.recall_s = self.retrieve_s = self.generate_s = 0.0
        self.refs: tuple[MemoryRef, ...] = query.memories
        self.text = ""
        self.reason = "stop"

    async def events(self) -> AsyncGenerator[QueryEvent, None]:
        """Run the task's stages, then tell the end."""
        async with AsyncExitStack() as stack:
            residents: list[Resident] = []
            if self._uses_memory:
                opened = self.runtime.residents.open(self.query.memories)
                residents = await stack.enter_async_context(opened)
                self.refs = tuple(resident.ref for resident in residents)
            if self.query.task is Task.MEMORY_ONLY:
                stream = self._from_memory(residents)
            else:
                stream = self._from_evidence(residents)
            async with aclosing(stream) as events:
                async for event in events:
                    yield event
        yield self._final()

    @property
    def _uses_memory(self) -> bool:
        if self.query.task in (Task.MEMORAG, Task.SUMMARIZE):
            asked = self.query.use_clues
            return self.runtime.model_info.clues_trusted if asked is None else asked
        return self.query.task is Task.MEMORY_ONLY

    @property
    def _summarizes(self) -> bool:
        return self.query.task is Task.SUMMARIZE

    async def _from_memory(self, residents: list[Resident]) -> AsyncGenerator[QueryEvent, None]:
        """The memory alone answers; several memories one after the other, a line each."""
        yield Stage(StageName.GENERATE)
        began = time.monotonic()
        for number, resident in enumerate(residents):
            if number:
                self.text += "\n"
                yield Token("\n")
            asking = Asking(
                resident,
                ClueKind.DRAFT_ANSWER,
                self.query.query,
                self.query.sampling,
                self.query.language,
                self.deadline,
            )
            async with aclosing(write_from_memory(self.runtime, asking, self.tally)) as pieces:
                async for text in pieces:
                    self.text += text
                    if text:
                        yield Token(text)
        self.reason = self.tally.finish_reason
        self.generate_s = time.monotonic() - began

    async def _from_evidence(self, residents: list[Resident]) -> AsyncGenerator[QueryEvent, None]:
        clues: list[str] = []
        if residents:
            async with aclosing(self._recall(residents)) as recalled:
                async for event in recalled:
                    if isinstance(event, Clue) and not event.dropped:
                        clues.append(event.text)
                    yield event
        yield Stage(StageName.RETRIEVE)
        began = time.monotonic()
        # Records of open memories are good even if they have been deleted meanwhile.
        records = [resident.record for resident in residents]
        if not records:
            store = self.runtime.store
            records = [store.get(ref.name, ref.version) for ref in self.query.memories]
        shelves = await open_shelves(self.runtime, records)
        self.refs = tuple(shelf.ref for shelf in shelves)
        passages = await self._retrieve(shelves, clues)
        self.retrieve_s = time.monotonic() - began
        for passage in passages:
            yield passage
        async with aclosing(self._generate(shelves, passages)) as answer:
            async for event in answer:
                yield event

    async def _recall(self, residents: list[Resident]) -> AsyncGenerator[QueryEvent, None]:
        yield Stage(StageName.RECALL)
        began = time.monotonic()
        asking = RecallQuery(
            self.query.memories,
            self.query.query,
            (ClueKind.KEY_POINT,) if self._summarizes else self.query.kinds,
            language=self.query.language,
        )
        events = recall_clues(self.runtime, residents, asking, self.deadline, self.tally)
        async with aclosing(events) as recalled:
            async for event in recalled:
                yield event
        self.recall_s = time.monotonic() - began

    async def _retrieve(self, shelves: Sequence[Shelf], clues: Sequence[str]) -> list[Passage]:
        query = self.query
        asked = RetrieveQuery(
            memories=query.memories,
            query="" if self._summarizes and clues else query.query,
            clues=tuple(clues),
            top_k=query.top_k,
            max_passages=query.max_passages,
            max_tokens=query.max_tokens,
            fusion=query.fusion,
        )
        if self._summarizes and not clues and not query.query.strip():
            return await asyncio.to_thread(spread, self.runtime, shelves, asked)
        return await search(self.runtime, shelves, asked)

    # -- the answer ------------------------------------------------------------------------------

    async def _generate(
        self, shelves: Sequence[Shelf], passages: Sequence[Passage]
    ) -> AsyncGenerator[QueryEvent, None]:
        yield Stage(StageName.GENERATE)
        began = time.monotonic()
        generator = self.runtime.generator(self.query.generator)
        request = self._answer_request(shelves[0].language, passages)
        stops = StopStrings(self.query.sampling.stop)
        async with aclosing(generator.answer(request)) as items:
            async for item in items:
                if isinstance(item, Finished):
                    self._ended(item)
                elif isinstance(item, GeneratedText):
                    self.tally.saw_token()
                    text = stops.feed(item.text)
                    self.text += text
                    if text:
                        yield Token(text)
                    if stops.stopped:
                        self._ended(Finished("stop", item.prompt_tokens, item.generated_tokens))
                        break
                else:
                    self.tally.saw_token()
                    self.text += ("\n" if self.text else "") + item.text
                    places = (item.start_byte, item.end_byte, item.start_char, item.end_char)
                    memory = self.refs[item.memory]
                    yield Quote(memory, item.source_id, item.text, *places, item.score)
        rest = stops.flush()
        if rest:
            self.text += rest
            yield Token(rest)
        self.generate_s = time.monotonic() - began

    def _ended(self, finished: Finished) -> None:
        # An answer that quotes nothing because nothing was found has used up its evidence, too.
        self.reason = "evidence" if finished.reason == "no_evidence" else finished.reason
        self.tally.generated_tokens += finished.generated_tokens
        self.tally.prompt_tokens += finished.prompt_tokens
        self.tally.queue_s = max(self.tally.queue_s, finished.queued_s)

    def _answer_request(self, stored: Language, passages: Sequence[Passage]) -> AnswerRequest:
        query = self.query
        language = stored if query.language is Language.AUTO else query.language
        prompts = self.runtime.prompts.of(language)
        template = query.template or (prompts.summary if self._summarizes else prompts.answer)
        context = "\n\n".join(passage.text for passage in passages)
        return AnswerRequest(
            question=query.query,
            evidence=tuple(_evidence(self.refs, passage) for passage in passages),
            prompt=fill(template, {"context": context, "input": query.query}),
            sampling=_answer_sampling(self.runtime, query),
            deadline=self.deadline,
        )

    def _final(self) -> Final:
        usage = replace(
            self.tally.usage(),
            recall_s=self.recall_s,
            retrieve_s=self.retrieve_s,
            generate_s=self.generate_s,
        )
        return Final(self.text, self.reason, usage, self.refs)


def _evidence(refs: Sequence[MemoryRef], passage: Passage) -> Evidence:
    return Evidence(
        text=passage.text,
        source_id=passage.source_id,
        start_char=passage.start_char,
        start_byte=passage.start_byte,
        memory=refs.index(passage.memory),
        score=passage.score,
    )


def _answer_sampling(runtime: Runtime, query: GenerateQuery) -> SamplingParams:
    limit = runtime.limits.max_new_tokens
    return resolve(query.sampling, runtime.model.generation, ANSWER_TOKENS, limit)


def check_generate(runtime: Runtime, query: GenerateQuery) -> None:
    """Raise InvalidArgument, naming the field, or NotFound, before anything is loaded."""
    summarizes = query.task is Task.SUMMARIZE
    check_query_chars(runtime, query.query)
    if not query.query.strip() and not summarizes:
        raise InvalidArgument("query", "is empty")
    if not query.kinds:
        raise InvalidArgument("kinds", "name at least one")
    if query.template:
        check_template(query.template, ("context",) if summarizes else ("context", "input"))
    if query.task is not Task.MEMORY_ONLY:
        runtime.generator(query.generator)
        limits = (query.top_k, query.max_passages, query.max_tokens)
        check_retrieve(RetrieveQuery(query.memories, query.query, (), *limits, query.fusion))
    _answer_sampling(runtime, query)


async def generate(
    runtime: Runtime, query: GenerateQuery, deadline: float | None
) -> AsyncGenerator[QueryEvent, None]:
    """Stream stages, clues, passages and the answer; the last event is Final.

    Raises InvalidArgument naming the field (empty query, template without its placeholder, option
    out of range), NotFound (memory, generator), FailedPrecondition, ResourceExhausted,
    DeadlineExceeded.
    """
    check_generate(runtime, query)
    async with aclosing(_Answer(runtime, query, deadline).events()) as events:
        async for event in events:
            yield event
