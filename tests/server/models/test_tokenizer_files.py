"""A checkpoint's files: what is read from them and what is refused by name."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from memoserve.errors import InvalidArgument
from memoserve.models.chat import Hole, Message, Special
from memoserve.models.seams import LetterSeams, NoSeams, RegexSeams
from memoserve.models.tokenizer import TextTokenizer
from memoserve.models.tokenizer_files import read_tokenizer_files
from tests.server.models.tokenizers import FAMILIES, library_tokenizer, save, spec_text

Json = dict[str, Any]


def changed(name: str, folder: Path, change: Callable[[Json], object]) -> Path:
    spec = json.loads(spec_text(name))
    change(spec)
    save(name, folder)
    (folder / "tokenizer.json").write_text(json.dumps(spec))
    return folder


def configured(name: str, folder: Path, **more: object) -> Path:
    save(name, folder)
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | more))
    return folder


@pytest.mark.parametrize("name", FAMILIES)
def test_sizes_and_special_ids(name: str, tmp_path: Path) -> None:
    tokenizer = TextTokenizer.from_directory(save(name, tmp_path))
    library = library_tokenizer(name)
    added = library.get_added_tokens_decoder()
    assert tokenizer.vocab_size == 1 + max(library.get_vocab().values())
    assert tokenizer.special_ids == {index for index, token in added.items() if token.special}
    assert tokenizer.eos_id in tokenizer.special_ids
    assert tokenizer.bounded == (name != "unknown")


def test_the_fingerprint_is_of_the_vocabulary_and_the_template(tmp_path: Path) -> None:
    def fingerprint() -> str:
        return TextTokenizer.from_directory(tmp_path).fingerprint

    save("qwen2", tmp_path)
    plain = fingerprint()
    assert len(plain) == 64
    assert fingerprint() == plain
    save("qwen2", tmp_path, "{% for m in messages %}{{ m['content'] }}{% endfor %}")
    templated = fingerprint()
    save("llama3", tmp_path)
    assert len({plain, templated, fingerprint()}) == 3


def test_where_the_template_comes_from(tmp_path: Path) -> None:
    entries = [{"name": "tool_use", "template": "a"}, {"name": "default", "template": "b"}]
    configured("qwen2", tmp_path, chat_template=entries)
    assert read_tokenizer_files(tmp_path).chat_template == "b"
    (tmp_path / "chat_template.jinja").write_text("c")
    assert read_tokenizer_files(tmp_path).chat_template == "c"


def test_no_config_at_all(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text(spec_text("qwen2"))
    tokenizer = TextTokenizer.from_directory(tmp_path)
    assert tokenizer.eos_id is None
    assert tokenizer.special_ids


def test_a_special_token_that_only_the_config_names(tmp_path: Path) -> None:
    def forget(spec: Json) -> None:
        spec["added_tokens"] = []

    folder = changed("mistral", tmp_path, forget)
    tokenizer = TextTokenizer.from_directory(folder)
    assert tokenizer.eos_id == library_tokenizer("mistral").token_to_id("</s>")
    assert tokenizer.eos_id in tokenizer.special_ids
    entry = {"9000": {"content": "<more>", "special": True}}
    configured("mistral", folder, added_tokens_decoder=entry, extra_special_tokens=["[INST]"])
    assert TextTokenizer.from_directory(folder).vocab_size == 9001


BOS = {"SpecialToken": {"id": "<s>", "type_id": 0}}
TEMPLATE = {"type": "TemplateProcessing", "single": [BOS, {"Sequence": {"id": "A", "type_id": 0}}]}


@pytest.mark.parametrize(
    ("processor", "add_bos_token", "expected"),
    [
        (None, None, False),
        (TEMPLATE, None, True),
        ({"type": "Sequence", "processors": [{"type": "ByteLevel"}, TEMPLATE]}, None, True),
        (TEMPLATE, False, False),
        (None, True, True),
    ],
)
def test_plain_turns_begin_with_bos_where_texts_do(
    tmp_path: Path, processor: Json | None, add_bos_token: bool | None, expected: bool
) -> None:
    more = {} if add_bos_token is None else {"add_bos_token": add_bos_token}
    folder = configured("mistral", tmp_path, **more)
    spec = json.loads(spec_text("mistral"))
    if processor is not None:
        filled = {
            "pair": [],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}},
        }
        for step in processor.get("processors", [processor]):
            step |= filled if step["type"] == "TemplateProcessing" else {}
        spec["post_processor"] = processor
    (folder / "tokenizer.json").write_text(json.dumps(spec))
    tokenizer = TextTokenizer.from_directory(folder)
    prompt = tokenizer.render_chat([Message("user", Hole("d"))], add_generation_prompt=False)
    assert (prompt.pieces[0] == Special(tokenizer.named_ids.get("bos_token", 0))) is expected


def reshaped(**values: object) -> Callable[[Json], object]:
    return lambda spec: spec.update(values)


def remodelled(**values: object) -> Callable[[Json], object]:
    return lambda spec: spec["model"].update(values)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (reshaped(model=None), "no model"),
        (remodelled(type="Unigram"), "'Unigram' is not BPE"),
        (remodelled(vocab=[]), "not BPE"),
        (remodelled(merges=[["no", "such"]]), "cannot be loaded"),
        (reshaped(decoder=None), "no decoder"),
        (reshaped(decoder={"type": "WordPiece", "prefix": "##", "cleanup": True}), "WordPiece"),
        (reshaped(added_tokens=[{"content": "x"}]), "no id"),
        (remodelled(merges=[["<|im_", "end|>"]]), "special '<|im_end|>'"),
    ],
)
def test_what_is_refused(tmp_path: Path, change: Callable[[Json], object], why: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        TextTokenizer.from_directory(changed("qwen2", tmp_path, change))
    assert caught.value.field == "tokenizer.json"
    assert why in str(caught.value)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match=r"tokenizer\.json: there is none"):
        TextTokenizer.from_directory(tmp_path)
    (tmp_path / "tokenizer.json").write_bytes(b"\xff{")
    with pytest.raises(InvalidArgument, match="is not JSON"):
        TextTokenizer.from_directory(tmp_path)
    (tmp_path / "tokenizer.json").write_text("[]")
    with pytest.raises(InvalidArgument, match="not a JSON object"):
        TextTokenizer.from_directory(tmp_path)
    configured("qwen2", tmp_path, added_tokens_decoder=["odd"])
    with pytest.raises(InvalidArgument, match=r"tokenizer_config\.json: has an odd shape"):
        TextTokenizer.from_directory(tmp_path)
    configured("qwen2", tmp_path, chat_template=3)
    with pytest.raises(InvalidArgument, match=r"tokenizer_config\.json: chat_template"):
        TextTokenizer.from_directory(tmp_path)


SPLIT = json.loads(spec_text("llama3"))["pre_tokenizer"]["pretokenizers"]


@pytest.mark.parametrize(
    "change",
    [
        reshaped(normalizer={"type": "NFKC"}),
        reshaped(pre_tokenizer={"type": "Sequence", "pretokenizers": [*SPLIT[:1], *SPLIT]}),
        reshaped(
            pre_tokenizer={
                "type": "Sequence",
                "pretokenizers": [{**SPLIT[0], "pattern": {"Regex": r"\w+|\W"}}, SPLIT[1]],
            }
        ),
        reshaped(
            pre_tokenizer={
                "type": "Sequence",
                "pretokenizers": [SPLIT[0], {**SPLIT[1], "add_prefix_space": True}],
            }
        ),
        remodelled(end_of_word_suffix="</w>", merges=[]),
    ],
)
def test_no_seams_where_none_are_proved(tmp_path: Path, change: Callable[[Json], object]) -> None:
    tokenizer = TextTokenizer.from_directory(changed("llama3", tmp_path, change))
    assert isinstance(tokenizer.codec.seams, NoSeams)


@pytest.mark.parametrize(
    "change",
    [
        remodelled(ignore_merges=True),
        lambda spec: spec["model"]["merges"].append(["<0xE4>", "<0xB8>"]),
    ],
)
def test_no_pair_seams_where_pairs_do_not_show_all(
    tmp_path: Path, change: Callable[[Json], object]
) -> None:
    def with_product(spec: Json) -> None:
        spec["model"]["vocab"].setdefault("<0xE4><0xB8>", len(spec["model"]["vocab"]))
        change(spec)

    tokenizer = TextTokenizer.from_directory(changed("mistral", tmp_path, with_product))
    assert isinstance(tokenizer.codec.seams, NoSeams)


def test_no_letters_are_parted_where_a_byte_has_no_token(tmp_path: Path) -> None:
    def forget_a_byte(spec: Json) -> None:
        del spec["model"]["vocab"]["Ā"]

    tokenizer = TextTokenizer.from_directory(changed("qwen2", tmp_path, forget_a_byte))
    seams = tokenizer.codec.seams
    assert isinstance(seams, RegexSeams)
    assert not isinstance(seams.letters, LetterSeams)


def test_what_makes_encoding_random_or_cuts_it_is_switched_off(tmp_path: Path) -> None:
    cut = {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0}

    def spoil(spec: Json) -> None:
        spec["model"]["dropout"] = 0.9
        spec["truncation"] = cut

    spoilt = TextTokenizer.from_directory(changed("qwen2", tmp_path, spoil))
    plain = TextTokenizer.from_directory(save("qwen2", tmp_path))
    text = "the memory of a long text"
    assert spoilt.encode(text) == plain.encode(text)


def test_a_special_token_that_is_a_word_of_the_vocabulary(tmp_path: Path) -> None:
    """Where whole words are looked up, such a word must still be ordinary text."""

    def hide(spec: Json) -> None:
        index = spec["model"]["vocab"]["windowed"]
        spec["added_tokens"].append({**spec["added_tokens"][0], "id": index, "content": "windowed"})

    tokenizer = TextTokenizer.from_directory(changed("llama3", tmp_path, hide))
    ids = tokenizer.encode("windowed")
    assert not tokenizer.special_ids.intersection(ids)
    assert tokenizer.decode(ids) == "windowed"


def test_merges_may_be_written_as_words(tmp_path: Path) -> None:
    def as_words(spec: Json) -> None:
        spec["model"]["merges"] = [" ".join(pair) for pair in spec["model"]["merges"]]

    old = TextTokenizer.from_directory(changed("mistral", tmp_path, as_words))
    new = TextTokenizer.from_directory(save("mistral", tmp_path))
    assert old.codec.seams == new.codec.seams
    assert old.encode("the memory 记忆") == new.encode("the memory 记忆")
