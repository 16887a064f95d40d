from __future__ import annotations

import random
from itertools import pairwise
from zlib import crc32

import pytest

from memoserve_training.vocabulary import train_tokenizer
from memoserve_training.worlds import Split, WorldSettings, make_document, names_of
from memoserve_training.worlds.names import FIRST, SECOND, NameBag, NoRoom


@pytest.mark.parametrize("side", [FIRST, SECOND], ids=["first", "second"])
def test_eighty_blocks_none_the_beginning_of_another(side: tuple[str, ...]) -> None:
    assert len(set(side)) == 80
    assert not [(a, b) for a, b in pairwise(sorted(side)) if b.startswith(a)]


def test_each_name_belongs_to_one_split_by_its_checksum() -> None:
    train, held_out = set(names_of(Split.TRAIN)), set(names_of(Split.HELD_OUT))
    assert train | held_out == {first + second for first in FIRST for second in SECOND}
    assert not train & held_out
    assert {name for name in train if crc32(name.encode()) % 5 == 0} == set()
    assert 1000 < len(held_out) < 1500


@pytest.mark.parametrize("split", Split, ids=lambda split: split.value)
def test_every_block_of_a_held_out_name_is_seen_in_training(split: Split) -> None:
    assert {name[:3] for name in names_of(split)} == set(FIRST)
    assert {name[3:] for name in names_of(split)} == set(SECOND)


@pytest.mark.parametrize("split", Split, ids=lambda split: split.value)
def test_the_first_names_have_different_first_blocks(split: Split) -> None:
    assert len({name[:3] for name in names_of(split, 80)}) == 80
    assert len({name[3:] for name in names_of(split, 32)}) > 20
    assert len(set(names_of(split, 500))) == 500
    assert names_of(split, 500)[:80] == names_of(split, 80)


def test_a_tokenizer_trained_on_the_text_reads_any_name_as_its_two_blocks() -> None:
    rng, settings = random.Random(0), WorldSettings(words=300)
    documents = (make_document(rng, settings) for _ in range(300))
    tokenizer = train_tokenizer((document.text for document in documents), 2048)
    for name in (*names_of(Split.HELD_OUT), *names_of(Split.TRAIN)):
        assert tokenizer.encode(f" {name}").tokens == [f"Ġ{name[:3]}", name[3:]]


def test_more_names_than_there_are_is_an_error() -> None:
    with pytest.raises(ValueError, match="names is 9000"):
        names_of(Split.TRAIN, 9000)


def test_a_bag_gives_each_name_once_then_has_no_room() -> None:
    bag = NameBag(random.Random(0), Split.TRAIN, 50)
    assert {bag.draw() for _ in range(50)} == set(names_of(Split.TRAIN, 50))
    with pytest.raises(NoRoom):
        bag.draw_near("Kuzmora")


def test_a_near_name_shares_a_block_as_long_as_there_is_one() -> None:
    bag = NameBag(random.Random(0), Split.TRAIN)
    near = [bag.draw_near("Kuzmora") for _ in range(60)]
    assert all(name[:3] == "Kuz" or name[3:] == "mora" for name in near)
    assert len(set(near)) == 60
    assert {name[:3] == "Kuz" for name in near} == {True, False}
    few = NameBag(random.Random(0), Split.TRAIN, 3)
    assert few.draw_near(names_of(Split.TRAIN, 3)[0]) in names_of(Split.TRAIN, 3)
