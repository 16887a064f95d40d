"""The prompts, in English and Chinese: our wording of MemoRAG's tasks (arXiv 2409.05591).

``{context}`` and ``{input}`` are filled in one pass; what is filled in is never looked at again,
so braces or template marks in a document mean nothing. A model directory may bring its own words
(see ``prompt_file``); these are the ones of a model that brings none.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass

from memoserve.errors import InvalidArgument
from memoserve.pipeline.values import ClueKind, Language

_HOLE = re.compile(r"\{(context|input)\}")


@dataclass(frozen=True)
class Prompts:
    """Prompts of one language; ``clues`` by kind, each with or without ``{input}``."""

    context: str
    acknowledgement: str
    clues: Mapping[ClueKind, str]
    answer: str
    summary: str


EN = Prompts(
    context=(
        "You will be given a long text. Read it with care and keep what it says in mind: "
        "questions about it come afterwards, when the text itself is no longer shown.\n\n"
        "Start of the text:\n{context}\nEnd of the text.\n\n"
        "The questions and tasks about this text follow."
    ),
    acknowledgement="I have read the text and remember it. Please go on with the questions.",
    clues={
        ClueKind.SPAN: (
            "Think of the text you have read. To answer the question below, which parts of it "
            "matter?\nQuestion: {input}\n"
            "1. Write down the passages of the text that help to answer, as close to its own "
            "words as you can.\n2. One passage a line, nothing else.\n"
            "3. Write at most five lines."
        ),
        ClueKind.SURROGATE: (
            "Think of the text you have read. The question below may be vague.\n"
            "Question: {input}\n"
            "1. Write simpler, more precise questions whose answers stand in the text and "
            "together answer it.\n2. One question a line, nothing else.\n"
            "3. Write at most five lines."
        ),
        ClueKind.DRAFT_ANSWER: (
            "Answer the question from the text you have read.\nQuestion: {input}\n"
            "1. Use only what the text says.\n2. Be brief; do not explain.\n"
            "3. If the text does not say, answer that it does not."
        ),
        ClueKind.KEY_POINT: (
            "Think of the text you have read and list its key points.\n"
            "1. Cover the whole text, from its beginning to its end.\n"
            "2. One point a line, a full sentence each, nothing else."
        ),
    },
    answer=(
        "Answer the question from the evidence below.\n\nEvidence:\n{context}\n\n"
        "Question: {input}\n\nGive the answer alone, as short as it can be."
    ),
    summary=(
        "Write a summary of the text from which the passages below are taken, in their order.\n\n"
        "Passages:\n{context}\n\nWrite one coherent text, without headings."
    ),
)

ZH = Prompts(
    context=(
        "下面给出一篇长文。请仔细阅读并记住其中的内容:之后会就它提问,届时不再展示原文。\n\n"
        "正文开始:\n{context}\n正文结束。\n\n"
        "接下来是关于这篇文章的问题和任务。"
    ),
    acknowledgement="我已读完全文并记住了内容,请继续提问。",
    clues={
        ClueKind.SPAN: (
            "请回想读过的文章。要回答下面的问题,文中哪些部分有用?\n问题:{input}\n"
            "1. 写出有助于回答的原文片段,尽量使用原文的措辞。\n"
            "2. 每行一个片段,不写其他内容。\n3. 最多写五行。"
        ),
        ClueKind.SURROGATE: (
            "请回想读过的文章。下面的问题可能比较笼统。\n问题:{input}\n"
            "1. 写出几个更简单、更具体的问题,它们的答案在文中,合起来能回答原问题。\n"
            "2. 每行一个问题,不写其他内容。\n3. 最多写五行。"
        ),
        ClueKind.DRAFT_ANSWER: (
            "请根据读过的文章回答问题。\n问题:{input}\n"
            "1. 只使用文中的内容。\n2. 简短作答,不要解释。\n3. 文中没有提到的,请直接说明。"
        ),
        ClueKind.KEY_POINT: (
            "请回想读过的文章,列出它的要点。\n1. 从头到尾覆盖全文。\n"
            "2. 每行一个要点,用完整的句子,不写其他内容。"
        ),
    },
    answer=(
        "请根据下面的材料回答问题。\n\n材料:\n{context}\n\n问题:{input}\n\n只写答案,尽量简短。"
    ),
    summary=(
        "下面的片段按原文顺序摘自一篇文章,请写出这篇文章的摘要。\n\n"
        "片段:\n{context}\n\n写成一段连贯的文字,不用标题。"
    ),
)


@dataclass(frozen=True)
class PromptSet:
    """The prompts a model is served with, in each language."""

    en: Prompts
    zh: Prompts

    def of(self, language: Language) -> Prompts:
        """Prompts of a settled language."""
        return self.zh if language is Language.ZH else self.en

    @property
    def acknowledgements(self) -> tuple[str, ...]:
        """What the memory is made to say behind the document; written again, it is no clue."""
        return (self.en.acknowledgement, self.zh.acknowledgement)

    @property
    def fingerprint(self) -> str | None:
        """sha256 in hex over the words around the document, None where they are the built-in ones.

        A stored memory begins with the opening words and is asked behind the closing ones. All
        other prompts are a query's own: memories outlive a change of them.
        """
        words = [self.en.context, self.zh.context]
        if words == [EN.context, ZH.context]:
            return None
        return hashlib.sha256(json.dumps(words).encode()).hexdigest()


BUILT_IN = PromptSet(en=EN, zh=ZH)


def fill(template: str, values: Mapping[str, str]) -> str:
    """Replace ``{context}`` and ``{input}`` in one pass; names without a value stay."""
    return _HOLE.sub(lambda match: values.get(match.group(1), match.group(0)), template)


def check_template(template: str, needed: tuple[str, ...]) -> str:
    """A caller's template; raises InvalidArgument where a placeholder is missing."""
    missing = [name for name in needed if f"{{{name}}}" not in template]
    if missing:
        holes = ", ".join(f"{{{name}}}" for name in missing)
        raise InvalidArgument("template", f"the placeholder {holes} is missing")
    return template
