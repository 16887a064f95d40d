"""Generate: recall, retrieve, then answer from the evidence; or parts of that."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, aclosing
from dataclasses import replace

from memoserve.errors import InvalidArgument
from memoserve.generators.base import AnswerRequest, Evidence, Finished, GeneratedText
from memoserve.pipeline.prompts import check_template, fill, prompts_of
from memoserve.pipeline.recall import Asking, Tally, recall_clues, write_from_memory
from memoserve.pipeline.residents import Resident
from memoserve.pipeline.retrieve import Shelf, check_retrieve, open_shelves, search
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
    Usage,
)


class _Answer:
    """State of one Generate call."""

    def __init__(self, runtime: Runtime, query: GenerateQuery, deadline: float | None) -> None:
        self.runtime = runtime
        self.query = query
        self.deadline = deadline
        self.tally = Tally()
        self.usage = Usage()
        self.text = ""
        self.reason = "stop"

    async def events(self) -> AsyncGenerator[QueryEvent, None]:
        """Run the task's stages, then tell the end."""
        async with AsyncExitStack() as stack:
            residents: list[Resident] = []
            if self._uses_memory:
                for ref in self.query.memories:
                    opened = self.runtime.residents.open(ref)
                    residents.append(await stack.enter_async_context(opened))
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
        if self.query.task is Task.MEMORAG:
            asked = self.query.use_clues
            return self.runtime.model_info.clues_trusted if asked is None else asked
        return self.query.task in (Task.MEMORY_ONLY, Task.SUMMARIZE)

    async def _from_memory(self, residents: list[Resident]) -> AsyncGenerator[QueryEvent, None]:
        """The memory alone answers; several memories one after the other."""
        yield Stage(StageName.GENERATE)
        began = time.monotonic()
        for resident in residents:
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
        self.usage = replace(self.usage, generate_s=time.monotonic() - began)

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
        refs = [resident.ref for resident in residents] or list(self.query.memories)
        shelves = await open_shelves(self.runtime, refs, self.runtime.residents)
        passages = await search(self.runtime, shelves, self._retrieve_query(clues))
        self.usage = replace(self.usage, retrieve_s=time.monotonic() - began)
        for passage in passages:
            yield passage
        async with aclosing(self._generate(shelves, passages)) as answer:
            async for event in answer:
                yield event

    async def _recall(self, residents: list[Resident]) -> AsyncGenerator[QueryEvent, None]:
        yield Stage(StageName.RECALL)
        began = time.monotonic()
        kinds = self.query.kinds
        if self.query.task is Task.SUMMARIZE:
            kinds = (ClueKind.KEY_POINT,)
        asking = RecallQuery(
            self.query.memories, self.query.query, kinds, language=self.query.language
        )
        events = recall_clues(self.runtime, residents, asking, self.deadline, self.tally)
        async with aclosing(events) as recalled:
            async for event in recalled:
                yield event
        self.usage = replace(self.usage, recall_s=time.monotonic() - began)

    def _retrieve_query(self, clues: Sequence[str]) -> RetrieveQuery:
        query = self.query
        return RetrieveQuery(
            memories=query.memories,
            query="" if query.task is Task.SUMMARIZE and clues else query.query,
            clues=tuple(clues),
            top_k=query.top_k,
            max_passages=query.max_passages,
            max_tokens=query.max_tokens,
            fusion=query.fusion,
        )

    # -- the answer ------------------------------------------------------------------------------

    async def _generate(
        self, shelves: Sequence[Shelf], passages: Sequence[Passage]
    ) -> AsyncGenerator[QueryEvent, None]:
        yield Stage(StageName.GENERATE)
        began = time.monotonic()
        generator = self.runtime.generator(self.query.generator)
        refs = [shelf.ref for shelf in shelves]
        request = self._answer_request(refs, passages)
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
                        break
                else:
                    self.tally.saw_token()
                    self.text += ("\n" if self.text else "") + item.text
                    places = (item.start_byte, item.end_byte, item.start_char, item.end_char)
                    yield Quote(
                        refs[item.memory], item.source_id, item.text, *places, item.score
                    )
        rest = stops.flush()
        if rest:
            self.text += rest
            yield Token(rest)
        self.usage = replace(self.usage, generate_s=time.monotonic() - began)

    def _ended(self, finished: Finished) -> None:
        self.reason = finished.reason
        self.tally.generated_tokens += finished.generated_tokens
        self.tally.prompt_tokens += finished.prompt_tokens
        self.tally.queue_s = max(self.tally.queue_s, finished.queued_s)

    def _answer_request(
        self, refs: Sequence[MemoryRef], passages: Sequence[Passage]
    ) -> AnswerRequest:
        query = self.query
        summarize = query.task is Task.SUMMARIZE
        prompts = prompts_of(self._language(refs[0]))
        template = query.template or (prompts.summary if summarize else prompts.answer)
        context = "\n\n".join(passage.text for passage in passages)
        return AnswerRequest(
            question=query.query,
            evidence=tuple(_evidence(refs, passage) for passage in passages),
            prompt=fill(template, {"context": context, "input": query.query}),
            sampling=resolve(
                query.sampling,
                self.runtime.model.generation,
                ANSWER_TOKENS,
                self.runtime.limits.max_new_tokens,
            ),
            deadline=self.deadline,
        )

    def _language(self, ref: MemoryRef) -> Language:
        if self.query.language is not Language.AUTO:
            return self.query.language
        stored = self.runtime.store.get(ref.name, ref.version).meta.get("language")
        return Language(stored) if isinstance(stored, str) else Language.EN

    def _final(self) -> Final:
        tally = self.tally
        usage = replace(
            self.usage,
            prompt_tokens=tally.prompt_tokens,
            generated_tokens=tally.generated_tokens,
            queue_s=tally.queue_s,
            first_token_s=tally.first_token_s,
            first_clue_s=tally.first_clue_s,
        )
        return Final(self.text, self.reason, usage, self.query.memories)


def _evidence(refs: Sequence[MemoryRef], passage: Passage) -> Evidence:
    return Evidence(
        text=passage.text,
        source_id=passage.source_id,
        start_char=passage.start_char,
        start_byte=passage.start_byte,
        memory=refs.index(passage.memory),
        score=passage.score,
    )


async def generate(
    runtime: Runtime, query: GenerateQuery, deadline: float | None
) -> AsyncGenerator[QueryEvent, None]:
    """Stream stages, clues, passages and the answer; the last event is Final.

    Raises InvalidArgument naming the field (empty query, template without its placeholder, option
    out of range), NotFound (memory, generator), FailedPrecondition, ResourceExhausted,
    DeadlineExceeded.
    """
    summarize = query.task is Task.SUMMARIZE
    if not query.query.strip() and not summarize:
        raise InvalidArgument("query", "is empty")
    if query.template:
        check_template(query.template, ("context",) if summarize else ("context", "input"))
    if query.task is not Task.MEMORY_ONLY:
        runtime.generator(query.generator)
        check_retrieve(RetrieveQuery(
            query.memories, query.query, (), query.top_k, query.max_passages, query.max_tokens,
            query.fusion,
        ))
    resolve(
        query.sampling, runtime.model.generation, ANSWER_TOKENS, runtime.limits.max_new_tokens
    )
    async with aclosing(_Answer(runtime, query, deadline).events()) as events:
        async for event in events:
            yield event
