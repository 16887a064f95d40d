"""The memory model as generator: a fresh sequence at ratio 0, which is the base model exactly."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

from memoserve.engine.sequence import SequenceRequest
from memoserve.engine.worker import EngineWorker
from memoserve.errors import OutOfRange
from memoserve.generators.base import AnswerItem, AnswerRequest, Finished, GeneratedText
from memoserve.generators.writing import Piece, write
from memoserve.memory.window import RatioSchedule
from memoserve.models.chat import Message, encode_prompt
from memoserve.models.tokenizer import TextTokenizer


class EngineGenerator:
    """Answers with the server's own model from the filled prompt; the memory is not used."""

    def __init__(
        self,
        worker: EngineWorker,
        tokenizer: TextTokenizer,
        stop_ids: frozenset[int],
        max_positions: int,
    ) -> None:
        self._worker = worker
        self._tokenizer = tokenizer
        self._stop_ids = stop_ids
        self._max_positions = max_positions

    @property
    def name(self) -> str:
        """Name that a request chooses it by."""
        return "memory-model"

    async def answer(self, request: AnswerRequest) -> AsyncGenerator[AnswerItem, None]:
        """Stream the answer; the last item is ``Finished``.

        Raises OutOfRange for a prompt that leaves no room within the model's trained length.
        """
        turn = Message("user", request.prompt)
        prompt = self._tokenizer.render_chat([turn], add_generation_prompt=True)
        encoder = self._tokenizer.stream_encoder()
        ids = encode_prompt(prompt, encoder) + encoder.flush()
        longest = self._max_positions - request.sampling.max_tokens
        if len(ids) > longest:
            raise OutOfRange(
                f"the prompt with its evidence has {len(ids)} tokens; at most {longest} leave room "
                f"for {request.sampling.max_tokens} of the answer: ask for fewer passages",
                tokens=len(ids),
                max_tokens=longest,
            )
        generation = SequenceRequest(
            lambda _: None,
            RatioSchedule((0,), sink=False),
            tokens=tuple(ids),
            sampling=request.sampling,
            stop_ids=self._stop_ids,
            deadline=request.deadline,
        )
        async with aclosing(write(self._worker, self._tokenizer, generation)) as pieces:
            async for piece in pieces:
                if isinstance(piece, Piece):
                    if piece.text:
                        yield GeneratedText(piece.text, len(ids), piece.tokens)
                    continue
                yield Finished(
                    "length" if piece.reason == "length" else "stop",
                    len(ids),
                    piece.tokens,
                    piece.queued_s,
                )
