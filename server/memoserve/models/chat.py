"""Chat turns to a prompt: the template's special tokens as ids, everything else as text.

The template never sees a message: each is rendered as a random word and put in afterwards, so a
message cannot name a special token or steer the template, and a document can be streamed into
the place of a hole.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from transformers.utils.chat_template_utils import render_jinja_template

from memoserve.errors import InvalidArgument
from memoserve.models.stream_encoder import StreamEncoder
from memoserve.models.tokenizer_files import AddedToken

_ROLES = ("user", "assistant")

# Declared to give a string; gives the strings and, second, spans that are not asked for here.
_render_all: Callable[..., Any] = render_jinja_template


@dataclass(frozen=True)
class Special:
    """A special token that the template put there."""

    id: int


@dataclass(frozen=True)
class Text:
    """Ordinary text, whatever it contains."""

    text: str


@dataclass(frozen=True)
class Hole:
    """A place for text that is given later, or streamed."""

    name: str


Piece = Special | Text | Hole


@dataclass(frozen=True)
class Message:
    """One turn; ``role`` is "user" or "assistant"."""

    role: str
    content: str | Hole

    def __post_init__(self) -> None:
        if self.role not in _ROLES:
            raise InvalidArgument("role", f"{self.role!r} is not one of {', '.join(_ROLES)}")


@dataclass(frozen=True)
class Prompt:
    """A rendered chat. Neighbouring texts are one piece, as their seam is none to the tokenizer."""

    pieces: tuple[Piece, ...]

    @classmethod
    def of(cls, pieces: Iterable[Piece]) -> Prompt:
        """Joins neighbouring texts and leaves out empty ones."""
        joined: list[Piece] = []
        for piece in pieces:
            if isinstance(piece, Text) and joined and isinstance(last := joined[-1], Text):
                joined[-1] = Text(last.text + piece.text)
            elif piece != Text(""):
                joined.append(piece)
        return cls(tuple(joined))

    def split(self, name: str) -> tuple[Prompt, Prompt]:
        """What stands before and after a hole. Raises KeyError where there is no such hole."""
        if Hole(name) not in self.pieces:
            raise KeyError(name)
        at = self.pieces.index(Hole(name))
        return Prompt(self.pieces[:at]), Prompt(self.pieces[at + 1 :])

    def fill(self, texts: Mapping[str, str]) -> Prompt:
        """Put text into holes, in one pass; holes that are not named stay."""
        return Prompt.of(
            Text(texts[piece.name]) if isinstance(piece, Hole) and piece.name in texts else piece
            for piece in self.pieces
        )


def encode_prompt(prompt: Prompt, encoder: StreamEncoder) -> list[int]:
    """Feed a prompt to an encoder; its last text may stay pending there, so flush at the end.

    Raises KeyError for a hole that was not filled, before anything is fed.
    """
    for piece in prompt.pieces:
        if isinstance(piece, Hole):
            raise KeyError(piece.name)
    ids: list[int] = []
    for piece in prompt.pieces:
        if isinstance(piece, Special):
            ids += encoder.special(piece.id)
        elif isinstance(piece, Text):
            ids += encoder.feed(piece.text)
    return ids


@dataclass(frozen=True)
class ChatTemplate:
    """Renders turns; ``template`` None takes the plain form, for models that have no template.

    The plain form is

        <BOS, if the tokenizer begins texts with it>User: {content}

        Assistant: {content}

    and at last, where an answer is asked for, "Assistant:".

    ``named`` are the special tokens a template can name. Messages go in as they are: a template
    that would trim a message does not.
    """

    template: str | None
    named: Mapping[str, str]
    added: Mapping[int, AddedToken]
    plain_bos: int | None

    def __post_init__(self) -> None:
        """Try the template on the turns we use, so that a bad one fails at load."""
        first, second, third = (Hole(name) for name in ("first", "second", "third"))
        turns = [Message("user", first), Message("assistant", second), Message("user", third)]
        for count in (1, 3):
            for add_generation_prompt in (False, True):
                self.render(turns[:count], add_generation_prompt)

    def render(self, messages: Sequence[Message], add_generation_prompt: bool) -> Prompt:
        """The prompt of some turns.

        Raises InvalidArgument (field ``chat_template``) for a template that fails or does not
        give every message once and in order, and where there are no messages.
        """
        if not messages:
            raise InvalidArgument("messages", "there are none")
        if self.template is None:
            return Prompt.of(self._plain(messages, add_generation_prompt))
        marks = [secrets.token_hex(16) for _ in messages]
        turns = [
            {"role": message.role, "content": mark}
            for message, mark in zip(messages, marks, strict=True)
        ]
        parts = re.split("(" + "|".join(marks) + ")", self._render(turns, add_generation_prompt))
        if parts[1::2] != marks:
            raise InvalidArgument(
                "chat_template", "it does not give every message once and in order"
            )
        pieces: list[Piece] = self._pieces(parts[0])
        for message, part in zip(messages, parts[2::2], strict=True):
            pieces += [_content_piece(message.content), *self._pieces(part)]
        return Prompt.of(pieces)

    def _render(self, turns: list[dict[str, str]], add_generation_prompt: bool) -> str:
        try:
            rendered: list[str] = _render_all(
                [turns],
                chat_template=self.template,
                add_generation_prompt=add_generation_prompt,
                **self.named,
            )[0]
        except Exception as error:  # a template can raise whatever Python can
            raise InvalidArgument(
                "chat_template", f"it cannot be rendered: {type(error).__name__}: {error}"
            ) from error
        return rendered[0]

    def _pieces(self, text: str) -> list[Piece]:
        """Template text with its added tokens, leftmost and longest first, taken out."""
        pieces: list[Piece] = []
        end = 0
        for match in self._added_pattern.finditer(text):
            token = self._longest_first[(match.lastindex or 1) - 1]
            pieces += [Text(text[end : match.start()]), Special(token.id)]
            end = match.end()
        return [*pieces, Text(text[end:])]

    @cached_property
    def _longest_first(self) -> tuple[AddedToken, ...]:
        return tuple(sorted(self.added.values(), key=lambda token: -len(token.content)))

    @cached_property
    def _added_pattern(self) -> re.Pattern[str]:
        return re.compile("|".join(map(_token_pattern, self._longest_first)) or r"(?!)")

    def _plain(self, messages: Sequence[Message], add_generation_prompt: bool) -> list[Piece]:
        pieces: list[Piece] = [] if self.plain_bos is None else [Special(self.plain_bos)]
        for message in messages:
            heading = Text(f"{message.role.capitalize()}: ")
            pieces += [heading, _content_piece(message.content), Text("\n\n")]
        return [*pieces, Text("Assistant:")] if add_generation_prompt else pieces


def _content_piece(content: str | Hole) -> Piece:
    return Text(content) if isinstance(content, str) else content


def _token_pattern(token: AddedToken) -> str:
    """The token as one group, with the white space that it eats."""
    before, after = r"\s*" * token.lstrip, r"\s*" * token.rstrip
    return f"{before}({re.escape(token.content)}){after}"
