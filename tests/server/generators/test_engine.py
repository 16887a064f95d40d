"""A prompt too long for the model to answer is refused before it is worked on."""

from __future__ import annotations

from typing import Any, cast

import pytest

from memoserve.config import EMBEDDED_MODEL
from memoserve.engine.sampler import SamplingParams
from memoserve.errors import InvalidArgument, MemoserveError, OutOfRange
from memoserve.generators.base import AnswerRequest
from memoserve.generators.engine import CHARS_PER_TOKEN, EngineGenerator
from memoserve.models.tokenizer import TextTokenizer

LIMIT = 200


class Untouched:
    """Stands for what must not be reached."""

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"{name} was used")


async def refusal(prompt: str, tokenizer: Any, max_positions: int = 8192) -> MemoserveError:
    generator = EngineGenerator(
        cast(Any, Untouched()), tokenizer, frozenset(), max_positions, LIMIT
    )
    request = AnswerRequest("which?", (), prompt, SamplingParams(max_tokens=4), None)
    with pytest.raises(MemoserveError) as caught:
        async for _ in generator.answer(request):
            pass
    return caught.value


async def test_a_prompt_of_too_many_tokens_names_the_field_that_shortens_it() -> None:
    error = await refusal("word " * 2 * LIMIT, TextTokenizer.from_directory(EMBEDDED_MODEL))
    assert isinstance(error, InvalidArgument)
    assert error.field == "max_tokens"
    assert str(LIMIT) in error.message
    assert "tokens" in error.description


async def test_far_too_many_characters_are_not_tokenized() -> None:
    error = await refusal("x" * (LIMIT * CHARS_PER_TOKEN + 1), Untouched())
    assert isinstance(error, InvalidArgument)
    assert error.field == "max_tokens"
    assert f"{LIMIT * CHARS_PER_TOKEN + 1} characters" in error.message


async def test_the_models_own_length_is_another_error() -> None:
    tokenizer = TextTokenizer.from_directory(EMBEDDED_MODEL)
    assert isinstance(await refusal("word " * 100, tokenizer, max_positions=50), OutOfRange)
