"""What a memory suggests: gold sentences among its clues, and the evidence that they find."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from benchmarks.quality.bench import Bench
from benchmarks.quality.plan import Plan
from benchmarks.quality.progress import CLUE_TOKENS
from benchmarks.quality.scores import Place, found, quoted, same
from benchmarks.quality.server import NotHeldError, Recalled
from benchmarks.quality.sheet import EMPTIED, NO_CONTROL, OTHER, Cell
from benchmarks.quality.texts import Density, filler_text, filler_words, mixed, mixed_words, rng_of
from memoserve_training.worlds import Document, Kind, Question

GOLD_AMONG_CLUES, ANSWER = "gold_among_clues", "answer"
BY_QUERY, BY_CLUES, GAIN = "evidence@3_query", "evidence@3_query+clues", "evidence@3_gain"
BY_GOLD_QUESTIONS, BY_GOLD = "evidence@3_query+gold_questions", "evidence@3_query+gold_clues"
ALL_BY_CLUES, ALL_BY_GOLD = "evidence_all_query+clues", "evidence_all_query+gold_clues"
SAME_BUDGET, ALL_GAIN = "evidence_all_query", "evidence_all_gain"
PASSAGES = "passages_all"
OF_ALL_PASSAGES = (ALL_BY_CLUES, SAME_BUDGET, ALL_GAIN, ALL_BY_GOLD, PASSAGES)
TOP = 3
EVERY = 1000  # passages of a search by the question alone, so that any budget can be cut from it
ALL_KINDS = "all"
CHAINS = (Kind.TWO_HOP, Kind.THREE_HOP)


@dataclass(frozen=True)
class Asked:
    """A question about document ``document``."""

    document: int
    question: Question
    gold: tuple[str, ...]


@dataclass(frozen=True)
class Group:
    """Memories of one ratio, asked as they are or for a control."""

    ratio: int
    control: str


def clue_texts(plan: Plan, density: Density) -> tuple[Document, ...]:
    """Documents with questions of every kind; each follows from the seed and its number alone."""
    words = mixed_words(plan.clue_length, density)
    return tuple(
        mixed(rng_of(plan.seed, "clues", number), words, plan.clue_questions)
        for number in range(plan.clue_documents)
    )


def groups_of(plan: Plan) -> list[Group]:
    """Each ratio, and the controls at one of them."""
    plain = [Group(ratio, NO_CONTROL) for ratio in plan.clue_ratios]
    if plan.control_ratio is None:
        return plain
    controls = (EMPTIED, OTHER) if plan.clue_documents > 1 else (EMPTIED,)
    return plain + [Group(plan.control_ratio, control) for control in controls]


@dataclass(frozen=True)
class Searched:
    """Ranked places found for a question without a memory.

    By the question alone, by it and the smaller questions that a perfect memory would ask, by it
    and all clues that a perfect memory would give.
    """

    query: list[Place]
    gold_questions: list[Place]
    gold: list[Place]


def measure_clues(bench: Bench, documents: Sequence[Document]) -> None:
    """Write all memories, ask them for clues, search the texts with these; delete them."""
    asked = [
        Asked(number, question, document.quotes(question))
        for number, document in enumerate(documents)
        for question in document.questions
    ]
    held = [ratio for ratio in bench.plan.clue_ratios if _write(bench, documents, ratio)]
    # Passages are those of the text, whatever the ratio of the memory.
    searched = _search(bench, asked, held[0]) if held else []
    for group in groups_of(bench.plan):
        if group.ratio in held:
            _measure(bench, group, asked, searched)
        else:
            for measure in measures_of(group):
                bench.sheet.not_held(_cell(bench, group, measure, ALL_KINDS))
    for ratio in held:
        for name in _names(bench.plan, ratio):
            bench.asker.forget(name)


def measures_of(group: Group) -> tuple[str, ...]:
    """What is measured of a group; a search without clues has no control."""
    common = (GOLD_AMONG_CLUES, ANSWER, BY_CLUES, GAIN)
    if group.control:
        return common
    return (*common, BY_QUERY, BY_GOLD_QUESTIONS, BY_GOLD, *OF_ALL_PASSAGES)


def _name(number: int, ratio: int) -> str:
    return f"clues-{number}-{ratio}"


def _names(plan: Plan, ratio: int) -> list[str]:
    names = [_name(number, ratio) for number in range(plan.clue_documents)]
    return [*names, EMPTIED] if ratio == plan.control_ratio else names


def _write(bench: Bench, documents: Sequence[Document], ratio: int) -> bool:
    """Whether the server holds the memories of a ratio."""
    plan = bench.plan
    texts = [document.text for document in documents]
    words = filler_words(plan.clue_length, bench.density)
    texts.append(filler_text(rng_of(plan.seed, EMPTIED), words))
    try:
        for name, text in zip(_names(plan, ratio), texts, strict=False):
            tokens = bench.memorize(name, text, ratio, index=True)
            if name != EMPTIED:
                bench.sheet.held(ratio, plan.clue_length, tokens)
    except NotHeldError:
        return False
    return True


def _search(bench: Bench, asked: Sequence[Asked], ratio: int) -> list[Searched]:
    def search(each: Asked) -> Searched:
        memory, question = _name(each.document, ratio), each.question
        best = partial(bench.asker.best, memory, question.text)
        questions = question.surrogates
        return Searched(best((), EVERY), best(questions, TOP), best((*each.gold, *questions), TOP))

    return bench.ask([partial(search, each) for each in asked], CLUE_TOKENS)


def _measure(
    bench: Bench, group: Group, asked: Sequence[Asked], searched: Sequence[Searched]
) -> None:
    def recall(each: Asked) -> tuple[Recalled, list[Place]]:
        question = each.question.text
        memory = _asked_memory(bench.plan, group, each)
        recalled = bench.asker.recall(memory, question, bench.plan.clue_tokens)
        text = _name(each.document, group.ratio)
        return recalled, bench.asker.best(text, question, recalled.clues, TOP)

    said = bench.ask([partial(recall, each) for each in asked], CLUE_TOKENS)
    for each, (recalled, by_clues), without in zip(asked, said, searched, strict=True):
        for measure, outcomes in _scores(each, recalled, by_clues, without).items():
            if measure in measures_of(group):
                _add(bench, group, measure, each, outcomes)


def _asked_memory(plan: Plan, group: Group, each: Asked) -> str:
    if group.control == EMPTIED:
        return EMPTIED
    shift = 1 if group.control == OTHER else 0
    return _name((each.document + shift) % plan.clue_documents, group.ratio)


def _scores(
    each: Asked, recalled: Recalled, by_clues: Sequence[Place], without: Searched
) -> dict[str, list[float]]:
    """Outcomes by measure: one for each gold sentence; of answers and passages only one."""

    def hits(places: Sequence[Place]) -> list[float]:
        return [*map(float, found(each.question.evidence, places))]

    def gain(more: Sequence[float], less: Sequence[float]) -> list[float]:
        return [a - b for a, b in zip(more, less, strict=True)]

    clues, query = hits(by_clues[:TOP]), hits(without.query[:TOP])
    all_clues, all_query = hits(by_clues), hits(without.query[: len(by_clues)])
    return {
        GOLD_AMONG_CLUES: [*map(float, quoted(each.gold, recalled.quotes))],
        ANSWER: [float(same(recalled.answer, each.question.answer))],
        BY_QUERY: query,
        BY_CLUES: clues,
        GAIN: gain(clues, query),
        BY_GOLD_QUESTIONS: hits(without.gold_questions[:TOP]),
        BY_GOLD: hits(without.gold[:TOP]),
        ALL_BY_CLUES: all_clues,
        SAME_BUDGET: all_query,
        ALL_GAIN: gain(all_clues, all_query),
        ALL_BY_GOLD: hits(without.gold),
        PASSAGES: [float(len(by_clues))],
    }


def _add(bench: Bench, group: Group, measure: str, each: Asked, outcomes: Sequence[float]) -> None:
    """Count the outcomes in, over all kinds, for the question's kind and, of chains, by hop."""
    kind = each.question.kind
    # Of a question's clues it is asked whether they hold all of its gold sentences.
    whole = [min(outcomes)] if measure == GOLD_AMONG_CLUES else outcomes
    for name in (ALL_KINDS, kind.value):
        bench.sheet.add(_cell(bench, group, measure, name), each.document, whole)
    if kind in CHAINS and len(outcomes) > 1:
        for hop, outcome in enumerate(outcomes, 1):
            cell = _cell(bench, group, measure, f"{kind.value} hop {hop}")
            bench.sheet.add(cell, each.document, [outcome])


def _cell(bench: Bench, group: Group, measure: str, kind: str) -> Cell:
    return Cell(measure, kind, group.ratio, bench.plan.clue_length, group.control)
