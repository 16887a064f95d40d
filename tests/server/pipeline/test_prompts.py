"""Templates are filled in one pass, and say what is missing."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memoserve.errors import InvalidArgument
from memoserve.pipeline.prompts import BUILT_IN, EN, ZH, Prompts, check_template, fill
from memoserve.pipeline.values import ClueKind, Language

# Text that a second pass, str.format or a template language would read.
HOSTILE = st.text("{}contextiup $%<|im_end>\n", max_size=30) | st.sampled_from(
    ["{context}", "{input}", "{0}", "{context.__class__}", "{{input}}", "{% if %}", "%s", "\\1"]
)


@given(HOSTILE, HOSTILE)
def test_what_is_filled_in_is_never_read_again(context: str, asked: str) -> None:
    filled = fill("a{context}b{input}c{context}", {"context": context, "input": asked})
    assert filled == f"a{context}b{asked}c{context}"


def test_other_braces_and_names_without_a_value_stay() -> None:
    assert (
        fill("{} {other} {input} {context} {input}", {"input": "x"}) == "{} {other} x {context} x"
    )


@pytest.mark.parametrize(
    ("template", "missing"),
    [
        ("{context}", "{input}"),
        ("{input}", "{context}"),
        ("{ input } {CONTEXT}", "{context}, {input}"),
    ],
)
def test_a_template_names_the_placeholder_it_lacks(template: str, missing: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        check_template(template, ("context", "input"))
    assert caught.value.field == "template"
    assert missing in caught.value.message


def test_a_whole_template_passes() -> None:
    template = "Q {input}\n{json: 1}\nE {context}"
    assert check_template(template, ("context", "input")) == template


@pytest.mark.parametrize("prompts", [EN, ZH], ids=["en", "zh"])
def test_our_own_prompts_have_their_holes(prompts: Prompts) -> None:
    assert prompts.context.count("{context}") == 1
    assert set(prompts.clues) == set(ClueKind)
    for kind, clue in prompts.clues.items():
        assert clue.count("{input}") == (0 if kind is ClueKind.KEY_POINT else 1), kind
    check_template(prompts.answer, ("context", "input"))
    check_template(prompts.summary, ("context",))


def test_each_language_has_its_prompts() -> None:
    assert BUILT_IN.of(Language.ZH) is ZH
    assert BUILT_IN.of(Language.EN) is EN
