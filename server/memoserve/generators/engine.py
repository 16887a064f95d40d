"""The memory model as generator: a fresh sequence at ratio 0, which is the base model exactly."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

from memoserve.engine.sequence import SequenceRequest
from memoserve.engine.worker import EngineWorker
from memoserve.errors import InvalidArgument, OutOfRange
from memoserve.generators.base import AnswerItem, AnswerRequest, Finished, GeneratedText
from memoserve.generators.writing import Piece, write
from memoserve.memory.window import RatioSchedule
from memoserve.models.chat import Message, encode_prompt
from memoserve.models.tokenizer import TextTokenizer

# A longer prompt is refused by its length alone, before the time to tokenize it is spent: no
# vocabulary has tokens so long that ordinary text of that size would fit.
CHARS_PER_TOKEN = 16


class EngineGenerator:
    """Answers with the server's own model from the filled prompt; the memory is not used.

    ``max_prompt_tokens`` bounds the whole prompt, evidence included, below the model's length.
    """

    def __init__(
        self,
        worker: EngineWorker,
        tokenizer: TextTokenizer,
        stop_ids: frozenset[int],
        max_positions: int,
        max_prompt_tokens: int = 16384,
    ) -> None:
        self._worker = worker
        self._tokenizer = tokenizer
        self._stop_ids = stop_ids
        self._max_positions = max_positions
        self._max_prompt_tokens = max_prompt_tokens

    @property
    def name(self) -> str:
        """Name that a request chooses it by."""
        return "memory-model"

    async def answer(self, request: AnswerRequest) -> AsyncGenerator[AnswerItem, None]:
        """Stream the answer; the last item is ``Finished``.

        Raises OutOfRange for a prompt that leaves no room within the model's trained length,
        InvalidArgument on ``max_tokens`` (of the evidence) for one above ``max_prompt_tokens``.
        """
        self._check_chars(request.prompt)
        ids = await asyncio.to_thread(self._encode, request.prompt)
        longest = self._max_positions - request.sampling.max_tokens
        if len(ids) > longest:
            raise OutOfRange(
                f"the prompt with its evidence has {len(ids)} tokens; at most {longest} leave room "
                f"for {request.sampling.max_tokens} of the answer: ask for fewer passages",
                tokens=len(ids),
                max_tokens=longest,
            )
        if len(ids) > self._max_prompt_tokens:
            raise self._too_long(f"{len(ids)} tokens")
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

    def _encode(self, text: str) -> list[int]:
        turn = Message("user", text)
        prompt = self._tokenizer.render_chat([turn], add_generation_prompt=True)
        encoder = self._tokenizer.stream_encoder()
        return encode_prompt(prompt, encoder) + encoder.flush()

    def _check_chars(self, prompt: str) -> None:
        if len(prompt) > CHARS_PER_TOKEN * self._max_prompt_tokens:
            raise self._too_long(f"{len(prompt)} characters")

    def _too_long(self, size: str) -> InvalidArgument:
        return InvalidArgument(
            "max_tokens",
            f"the prompt with its evidence has {size}; at most {self._max_prompt_tokens} tokens "
            "are taken: name a smaller max_tokens, or ask for fewer passages",
        )
