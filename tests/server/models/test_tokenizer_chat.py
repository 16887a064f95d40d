"""Templates give special tokens; messages never do."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memoserve.errors import InvalidArgument
from memoserve.models.chat import Hole, Message, Prompt, Special, Text, encode_prompt
from memoserve.models.tokenizer import TextTokenizer
from memoserve.models.tokenizer_files import AddedToken
from tests.server.models.tokenizers import (
    SPECIAL_STRINGS,
    loaded,
    messy_texts,
    transformers_tokenizer,
)

CHATML = (
    "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nYou help.<|im_end|>\n{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
INST = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}"
    "[INST] {{ m['content'] }} [/INST]{% elif m['role'] == 'assistant' %}"
    " {{ m['content'] | trim }}{{ eos_token }}{% else %}{{ raise_exception('bad role') }}"
    "{% endif %}{% endfor %}"
)
LLAMA3 = (
    "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m['role'] }}<|end_header_id|>\n\n"
    "{{ m['content'] | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
CHATS = [
    ("qwen2", CHATML),
    ("llama3", LLAMA3),
    ("mistral", INST),
    ("mistral_first", INST),
    ("mistral_always", INST),
    ("gpt2", CHATML),  # whose marks are no tokens there, so they stay text
]
chats = pytest.mark.parametrize(("name", "template"), CHATS, ids=[name for name, _ in CHATS])


def turns(*contents: str | Hole) -> list[Message]:
    return [
        Message(role, content)
        for role, content in zip(itertools.cycle(["user", "assistant"]), contents, strict=False)
    ]


def ids_of(tokenizer: TextTokenizer, prompt: Prompt) -> list[int]:
    encoder = tokenizer.stream_encoder()
    return encode_prompt(prompt, encoder) + encoder.flush()


def without_special(text: str) -> str:
    for special in SPECIAL_STRINGS:
        text = text.replace(special, "")
    return text.replace("[/INST]", "").strip() or "x"


contents = st.lists(messy_texts.map(without_special), min_size=1, max_size=3)


@chats
@settings(max_examples=40)
@given(contents=contents, generation=st.booleans())
def test_ids_are_those_of_transformers(
    name: str, template: str, contents: list[str], generation: bool
) -> None:
    tokenizer, theirs = loaded(name, template), transformers_tokenizer(name)
    messages = turns(*contents)
    rendered = theirs.apply_chat_template(
        [{"role": m.role, "content": str(m.content)} for m in messages],
        chat_template=template,
        tokenize=False,
        add_generation_prompt=generation,
    )
    prompt = tokenizer.render_chat(messages, add_generation_prompt=generation)
    expected = theirs(rendered, add_special_tokens=False)["input_ids"]
    assert ids_of(tokenizer, prompt) == expected


@chats
@settings(max_examples=40)
@given(document=messy_texts, query=messy_texts, cut=st.integers(0, 60))
def test_a_streamed_hole_gives_the_ids_of_a_filled_one(
    name: str, template: str, document: str, query: str, cut: int
) -> None:
    tokenizer = loaded(name, template)
    messages = turns(Hole("document"), "I have read it.", query)
    prompt = tokenizer.render_chat(messages, add_generation_prompt=True)
    before, after = prompt.split("document")
    encoder = tokenizer.stream_encoder()
    ids = encode_prompt(before, encoder) + encoder.feed(document[:cut])
    # What a commit stores, and what a query goes on from.
    fork = tokenizer.stream_encoder(encoder.pending_text, at_segment_start=encoder.at_segment_start)
    ids += fork.feed(document[cut:]) + encode_prompt(after, fork) + fork.flush()
    assert ids == ids_of(tokenizer, prompt.fill({"document": document}))


@chats
def test_special_strings_in_a_message_are_text(name: str, template: str) -> None:
    tokenizer = loaded(name, template)
    plain = tokenizer.render_chat(turns("x"), add_generation_prompt=True)
    hostile = "".join(token.content for token in tokenizer.table.added.values()) + "{{ bos_token }}"
    prompt = tokenizer.render_chat(turns(hostile), add_generation_prompt=True)
    specials = [piece for piece in plain.pieces if isinstance(piece, Special)]
    assert [piece for piece in prompt.pieces if isinstance(piece, Special)] == specials
    assert any(isinstance(piece, Text) and hostile in piece.text for piece in prompt.pieces)
    marks = [index for index in ids_of(tokenizer, prompt) if index in tokenizer.special_ids]
    assert marks == [piece.id for piece in specials]


def test_pieces_of_a_chatml_prompt() -> None:
    tokenizer = loaded("qwen2", CHATML)
    ids = {token.content: token.id for token in tokenizer.table.added.values()}
    start, end = Special(ids["<|im_start|>"]), Special(ids["<|im_end|>"])
    prompt = tokenizer.render_chat(turns(Hole("document")), add_generation_prompt=True)
    assert prompt.pieces == (
        start,
        Text("system\nYou help."),
        end,
        Text("\n"),
        start,
        Text("user\n"),
        Hole("document"),
        end,
        Text("\n"),
        start,
        Text("assistant\n"),
    )


def test_filling_is_one_pass_and_joins_texts() -> None:
    prompt = Prompt((Text("a"), Hole("x"), Text("b"), Hole("y")))
    assert prompt.fill({"x": "{y}"}).pieces == (Text("a{y}b"), Hole("y"))
    assert prompt.fill({"x": "", "y": ""}).pieces == (Text("ab"),)
    assert prompt.split("x") == (Prompt((Text("a"),)), Prompt((Text("b"), Hole("y"))))
    with pytest.raises(KeyError, match="z"):
        prompt.split("z")


def test_an_unfilled_hole_is_told_before_anything_is_fed() -> None:
    tokenizer = loaded("qwen2")
    encoder = tokenizer.stream_encoder()
    with pytest.raises(KeyError, match="doc"):
        encode_prompt(Prompt((Text("abc"), Hole("doc"))), encoder)
    assert encoder.pending_text == ""


def test_without_a_template_turns_are_plain() -> None:
    messages = turns(Hole("document"), "Read.", "What?")
    tokenizer = loaded("gpt2")
    assert tokenizer.render_chat(messages, add_generation_prompt=True).pieces == (
        Text("User: "),
        Hole("document"),
        Text("\n\nAssistant: Read.\n\nUser: What?\n\nAssistant:"),
    )
    ended = tokenizer.render_chat(messages, add_generation_prompt=False)
    assert ended.pieces[-1] == Text("\n\nAssistant: Read.\n\nUser: What?\n\n")


@pytest.mark.parametrize(
    ("template", "why"),
    [
        ("{% for m in messages %}", "TemplateSyntaxError"),
        ("{{ nothing.at_all }}{{ messages[0]['content'] }}", "UndefinedError"),
        ("{{ raise_exception('no users here') }}", "no users here"),
        ("{{ messages[0]['content'] }}{{ messages[0]['content'] }}", "once and in order"),
        ("{% for m in messages|reverse %}{{ m['content'] }}{% endfor %}", "once and in order"),
        ("{% for m in messages %}{{ m['content'] | upper }}{% endfor %}", "once and in order"),
        ("{{ messages[0]['content'].__class__.__mro__ }}", "SecurityError"),
        ("{{ messages[2]['content'] }}", "chat_template"),
    ],
)
def test_a_template_that_cannot_serve_fails_at_load(template: str, why: str) -> None:
    with pytest.raises(InvalidArgument, match=why) as caught:
        loaded("qwen2", template)
    assert caught.value.field == "chat_template"


def test_roles_and_empty_chats() -> None:
    with pytest.raises(InvalidArgument, match="role"):
        Message("system", "x")
    with pytest.raises(InvalidArgument, match="messages"):
        loaded("qwen2", CHATML).render_chat([], add_generation_prompt=True)


def test_added_tokens_are_taken_longest_first_and_eat_white_space() -> None:
    chat = loaded("qwen2", CHATML).chat
    added = {
        1: AddedToken(1, "<a>", special=True),
        2: AddedToken(2, "<a>b", special=False, lstrip=True),
        3: AddedToken(3, "<c>", special=True, rstrip=True),
        4: AddedToken(4, "<a>c", special=False),
    }
    template = "x <a>c<a>{{ messages[0]['content'] }} <a>b <c>\n y{% if messages|length > 1 %}" + (
        "{{ messages[1]['content'] }}{{ messages[2]['content'] }}{% endif %}"
    )
    pieces = type(chat)(template, {}, added, None).render(turns(" b "), False).pieces
    assert pieces == (
        Text("x "),
        Special(4),
        Special(1),
        Text(" b "),
        Special(2),
        Text(" "),
        Special(3),
        Text("y"),
    )
