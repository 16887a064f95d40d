"""Ids of a document and of what is asked behind it, as the server will feed them."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from tokenizers import Tokenizer

from memoserve.models.chat import Hole, Message, Prompt, Special, Text
from memoserve.models.tokenizer import TextTokenizer

# The prompts of the model in the box: short, since every query pays for them. The same words as
# the memoserve_prompts.json that is shipped with it.
PROMPTS: Final[Mapping[str, Any]] = {
    "en": {
        "context": "{context}",
        "acknowledgement": "ok",
        "clues": {
            "span": "quote: {input}",
            "surrogate": "split: {input}",
            "draft_answer": "answer: {input}",
            "key_point": "list",
        },
        "answer": "{context}\nanswer: {input}",
        "summary": "{context}\nlist",
    }
}


class Task(enum.Enum):
    """What a branch asks for; the names of ``clues`` in a set of prompts."""

    SPAN = "span"
    SURROGATE = "surrogate"
    ANSWER = "draft_answer"
    KEY_POINT = "key_point"


@dataclass(frozen=True)
class Asked:
    """Ids of one branch; those from ``first`` on are what the model is to write."""

    ids: tuple[int, ...]
    first: int


def around_document(
    text: TextTokenizer, prompts: Mapping[str, Any], instruction: str | Hole
) -> tuple[Prompt, Prompt]:
    """What the chat puts before a document, and behind it up to what is to be written."""
    turns = [
        Message("user", Hole("document")),
        Message("assistant", prompts["acknowledgement"]),
        Message("user", instruction),
    ]
    rendered = text.render_chat(turns, add_generation_prompt=True)
    before, after = prompts["context"].split("{context}")
    opening, rest = rendered.split("document")
    return (
        Prompt.of([*opening.pieces, Text(before)]),
        Prompt.of([Text(after), *rest.pieces]),
    )


@dataclass(frozen=True)
class ChatWords:
    """A tokenizer with prompts in its chat template."""

    text: TextTokenizer
    fast: Tokenizer
    prompts: Mapping[str, Any]

    @cached_property
    def _around(self) -> tuple[Prompt, Prompt]:
        return around_document(self.text, self.prompts, Hole("instruction"))

    def _ids(self, prompt: Prompt) -> list[int]:
        ids: list[int] = []
        for piece in prompt.pieces:
            if isinstance(piece, Special):
                ids.append(piece.id)
            elif isinstance(piece, Text):
                ids += self.fast.encode(piece.text, add_special_tokens=False).ids
        return ids

    def document(self, text: str) -> tuple[list[int], list[int]]:
        """Ids of [chat prefix + text], and where each ends in ``text`` (0 for the prefix)."""
        *marks, last = self._around[0].pieces
        before = last.text if isinstance(last, Text) else ""
        if not isinstance(last, Text):
            marks = [*marks, last]
        ids = self._ids(Prompt(tuple(marks)))
        encoded = self.fast.encode(before + text, add_special_tokens=False)
        ends = [max(0, end - len(before)) for _, end in encoded.offsets]
        return ids + encoded.ids, [0] * len(ids) + ends

    def ask(self, task: Task, question: str, written: str) -> Asked:
        """Closing words, instruction and what is written; a line of it begins with a space.

        With the space a name has the ids that it has within a sentence.
        """
        instruction = self.prompts["clues"][task.value].replace("{input}", question)
        ids = self._ids(self._around[1].fill({"instruction": instruction}))
        lines = "\n".join(f" {line}" for line in written.split("\n"))
        answer = self.fast.encode(lines, add_special_tokens=False).ids
        eos = self.text.eos_id
        if eos is None:
            raise ValueError("the tokenizer names no eos_token")
        return Asked((*ids, *answer, eos), len(ids))


def open_words(model: Path) -> ChatWords:
    """Tokenizer of a model directory, with the prompts of the model in the box."""
    fast = Tokenizer.from_file(str(model / "tokenizer.json"))
    return ChatWords(TextTokenizer.from_directory(model), fast, PROMPTS["en"])
