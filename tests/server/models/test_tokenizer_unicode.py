"""What the seam rules assume of single characters, checked over all of Unicode."""

from __future__ import annotations

import sys
import unicodedata
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import normalizers, pre_tokenizers

from memoserve.models.byte_level import BYTE_OF_CHAR, straddles, token_bytes
from memoserve.models.seams import PairSeams, char_pairs, last_seam
from memoserve.models.unicode_kinds import Kind, kind_of, starts_fresh

NFC, NFD = normalizers.NFC(), normalizers.NFD()


def assigned() -> Iterator[str]:
    for code in range(sys.maxunicode + 1):
        char = chr(code)
        if unicodedata.category(char) not in ("Cn", "Co", "Cs"):
            yield char


def test_fresh_characters_join_nothing_before_them() -> None:
    """In the tokenizer library's own normalizer: no composition ends in one, none is moved."""
    for char in assigned():
        parts = NFD.normalize_str(char)
        assert not any(map(starts_fresh, parts[1:])), hex(ord(char))
        if starts_fresh(char):
            # U+0345 has the highest class there is: whatever is reordered goes before it.
            assert NFC.normalize_str("\u0345" + char) == "\u0345" + char, hex(ord(char))


def test_enough_characters_are_fresh() -> None:
    for char in "aé1 \n的あア한😀жאع。、！\u3000":
        assert starts_fresh(char)
    for char in "\u0301\u0345\u1161\u11a8\u3099\u093c\u212b\u0958\U0001d165":
        assert not starts_fresh(char)


def test_unassigned_characters_are_not_trusted() -> None:
    assert not starts_fresh("\u0378")


def test_composing_keeps_the_kind() -> None:
    """So the kind of a fresh character is settled before the marks that may follow it."""
    for char in assigned():
        parts = NFD.normalize_str(char)
        if parts != char and starts_fresh(char):
            assert kind_of(parts[0]) is kind_of(char), hex(ord(char))


def test_kinds() -> None:
    samples = {
        Kind.LETTER: "aÉß的あ한ʰא𝔘",
        Kind.NUMBER: "0٣Ⅷ½①",
        Kind.SPACE: " \t\n\r\x85\u00a0\u3000\u2028",
        Kind.OTHER: "!'，。🙂\u0301\u200d\x00\u200b",
    }
    for kind, chars in samples.items():
        assert {kind_of(char) for char in chars} == {kind}


@given(data=st.binary(max_size=40))
def test_the_byte_table_is_the_tokenizer_librarys(data: bytes) -> None:
    alphabet = {byte: char for char, byte in BYTE_OF_CHAR.items()}
    assert token_bytes("".join(alphabet[byte] for byte in data)) == data
    assert set(BYTE_OF_CHAR) == set(pre_tokenizers.ByteLevel.alphabet())


@given(text=st.text(min_size=1, max_size=6))
def test_the_byte_table_spells_text_as_the_library_does(text: str) -> None:
    speller = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    assert token_bytes(speller.pre_tokenize_str(text)[0][0]) == text.encode()


def test_a_token_outside_the_byte_table_is_its_own_text() -> None:
    assert token_bytes("a b") == b"a b"


@pytest.mark.parametrize(
    ("token", "expected"),
    [
        ("记忆".encode(), {("记".encode(), "忆".encode())}),
        ("记忆".encode()[1:5], {("记".encode()[1:], "忆".encode()[:2])}),
        ("a记".encode(), set()),
        ("é记🙂".encode(), {("é".encode(), "记".encode()), ("记".encode(), "🙂".encode())}),
        ("x记".encode() + b"\xe5", {("记".encode(), b"\xe5")}),
    ],
)
def test_straddles(token: bytes, expected: set[tuple[bytes, bytes]]) -> None:
    assert straddles([token]) == expected


def test_pairs_and_the_last_seam() -> None:
    seams = PairSeams(char_pairs(["\u2581a", "abc"]), marks_spaces=True, symbols=None)
    assert seams.pairs == {"\u2581a", "ab", "bc"}
    assert last_seam(seams, "xabc abc") == 4
    assert last_seam(seams, "abc") == 0
    assert last_seam(seams, "ca") == 1
    assert last_seam(seams, "") == 0
    with_unknown = PairSeams(frozenset(), marks_spaces=False, symbols=frozenset("ab"))
    assert last_seam(with_unknown, "ab??") == 1
