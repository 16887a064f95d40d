from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise

import pytest

from memoserve_training.worlds import Split, WorldSettings, make_document
from memoserve_training.worlds.filler import filler_for, filler_sentence
from memoserve_training.worlds.filler_words import CHAT, HELD_OUT, TRAIN, WORDS
from memoserve_training.worlds.relations import NAMED_ORDER, Relation, Sort, Wordings
from memoserve_training.worlds.tables import RELATIONS, chains
from memoserve_training.worlds.world import NOUNS
from tests.training.worlds.reader import NAME

EACH = pytest.mark.parametrize("relation", RELATIONS.values(), ids=RELATIONS)


def wordings_of(relation: Relation) -> Iterator[Wordings]:
    yield from (relation.says, relation.asks, relation.point)
    for wordings in (relation.phrase, relation.gather, relation.gathered):
        if wordings is not None:
            yield wordings


def plain(texts: tuple[str, ...]) -> set[str]:
    """The words of each text, without its slots: two texts that differ in names alone are one."""
    return {" ".join(re.findall(r"[a-z]+", re.sub(r"\{\w\}", "", text).lower())) for text in texts}


@EACH
def test_six_ways_to_say_and_ask_in_training_and_three_others_held_out(relation: Relation) -> None:
    for wordings in filter(None, (relation.says, relation.asks, relation.gather)):
        assert len(set(wordings.train)) >= 6
        assert len(set(wordings.held_out)) >= 3
    for wordings in wordings_of(relation):
        assert not plain(wordings.train) & plain(wordings.held_out)


@EACH
def test_sentences_have_six_to_fourteen_words_and_their_slots(relation: Relation) -> None:
    shown = {Sort.THING: "the Kuzmora lamp"}
    for say in (*relation.says.train, *relation.says.held_out):
        assert say.count("{s}") == say.count("{v}") == 1
        assert say.endswith(".")
        assert say.startswith("{s}: ") == (relation.talk is not None)
        for sort in relation.subjects:
            text = say.format(s=shown.get(sort, "Kuzmora"), v=shown.get(relation.value, "x"))
            assert 6 <= len(text.split()) <= 14, text
    for ask in (*relation.asks.train, *relation.asks.held_out):
        assert ask.endswith("?")
        assert (ask.count("{s}"), ask.count("{v}")) == (1, 0)
    for phrase in (relation.phrase.train + relation.phrase.held_out) if relation.phrase else ():
        assert (phrase.count("{s}"), phrase.count("{v}")) == (1, 0)


def test_most_sentences_have_the_subject_before_the_value_and_some_do_not() -> None:
    says = [say for relation in RELATIONS.values() for say in relation.says.train]
    first = [say for say in says if say.index("{s}") < say.index("{v}")]
    assert 0.7 < len(first) / len(says) < 0.97


def test_no_wording_serves_two_relations() -> None:
    for split in Split:
        for part in ("says", "asks"):
            ways = [way for r in RELATIONS.values() for way in getattr(r, part).of(split)]
            assert not [way for way, count in Counter(ways).items() if count > 1]


def test_a_phrase_leads_to_a_value_that_has_a_name() -> None:
    for relation in RELATIONS.values():
        assert relation.phrase is None or relation.value in NAMED_ORDER
        assert bool(relation.words) == (relation.value is Sort.WORD)
        assert (relation.gather is None) == (relation.gathered is None)


def test_filler_patterns_are_of_one_split_and_have_their_words() -> None:
    for one, other in ((TRAIN, HELD_OUT), (CHAT["train"], CHAT["held_out"])):
        assert not set(one) & set(other)
    slots = {slot for pattern in TRAIN + HELD_OUT for slot in re.findall(r"\{(\w+)\}", pattern)}
    assert slots == set(WORDS)


@pytest.mark.parametrize("pattern", TRAIN + HELD_OUT)
def test_a_filler_sentence_has_six_to_fourteen_words(pattern: str) -> None:
    for end in (min, max):
        slots = {
            slot: end(words, key=lambda word: len(word.split())) for slot, words in WORDS.items()
        }
        assert 6 <= len(pattern.format(**slots).split()) <= 14, pattern.format(**slots)


def test_filler_is_drawn_from_the_patterns_of_its_split() -> None:
    ways = {
        pattern: re.compile(
            re.sub(r"\{(\w+)\}", lambda slot: f"(?:{'|'.join(WORDS[slot[1]])})", pattern), re.I
        )
        for pattern in TRAIN + HELD_OUT
    }
    for split, own in ((Split.TRAIN, TRAIN), (Split.HELD_OUT, HELD_OUT)):
        rng = random.Random(1)
        found = [filler_sentence(rng, split) for _ in range(300)]
        used = {way for text in found for way in ways if ways[way].fullmatch(text)}
        assert used == set(own)


def test_a_chain_goes_from_names_to_names_and_takes_no_relation_twice() -> None:
    assert {len(chains(None, hops)) > 10 for hops in (1, 2, 3)} == {True}
    for hops in (2, 3):
        for chain in chains(None, hops):
            assert len(set(chain)) == hops
            for one, after in pairwise(chain):
                assert one.value in after.subjects


@pytest.mark.parametrize("split", Split, ids=lambda split: split.value)
def test_filler_is_long_and_varied_and_names_nobody(split: Split) -> None:
    rng = random.Random(0)
    found = [filler_sentence(rng, split) for _ in range(3000)]
    assert len(set(found)) > 2900
    assert not [sentence for sentence in found if re.search(NAME, sentence)]
    assert all(re.fullmatch(r"[A-Z][^.]*\.", sentence) for sentence in found)
    assert sum(len(text.split()) for text in filler_for(rng, split, 100)) in range(100, 115)


def vocabulary(split: Split) -> set[str]:
    """Every word the split can write but for names and digits, in small letters."""
    texts = [*(TRAIN if split is Split.TRAIN else HELD_OUT), *CHAT[split.value], *NOUNS]
    texts += [text for words in WORDS.values() for text in words]
    for relation in RELATIONS.values():
        texts += relation.words
        for wordings in wordings_of(relation):
            texts += wordings.of(split)
    return {
        word
        for text in texts
        for word in re.findall(r"[a-z]+", re.sub(r"\{\w+\}", "", text).lower())
    }


def test_a_small_vocabulary_which_held_out_wordings_share() -> None:
    train = vocabulary(Split.TRAIN)
    assert len(train) <= 900
    assert vocabulary(Split.HELD_OUT) <= train
    document = make_document(random.Random(5), WorldSettings(words=5000, questions=200))
    told = re.sub(NAME, "", document.text + " ".join(q.text for q in document.questions))
    assert {*re.findall(r"[a-z]+", told.lower())} <= train
