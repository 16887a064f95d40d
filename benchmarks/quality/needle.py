"""Exact recall of codes from memories of growing length, at each ratio."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from benchmarks.quality.bench import Bench
from benchmarks.quality.plan import Plan
from benchmarks.quality.progress import NEEDLE_TOKENS
from benchmarks.quality.scores import says_code
from benchmarks.quality.server import Asker, NotHeldError
from benchmarks.quality.sheet import EMPTIED, NO_CONTROL, OTHER, Cell
from benchmarks.quality.texts import (
    Density,
    code_words,
    codes,
    filler_text,
    filler_words,
    rng_of,
)
from memoserve_training.worlds import Document, Question

NEEDLE, DRAFT = "needle", "needle_draft"
KIND = "code"


@dataclass(frozen=True)
class Texts:
    """Documents of one length, and filler as long as one of them."""

    length: int
    documents: tuple[Document, ...]
    filler: str


@dataclass(frozen=True)
class Ask:
    """A question about document ``document``, put to memory ``name`` for a cell."""

    cell: Cell
    name: str
    document: int
    question: Question

    def right(self, asker: Asker) -> bool:
        """Whether the memory says the code: through Recall for drafts, else through Generate."""
        ask = asker.draft if self.cell.measure == DRAFT else asker.code
        return says_code(ask(self.name, self.question.text), self.question.answer)


def needle_texts(plan: Plan, length: int, density: Density) -> Texts:
    """The texts of a length; each follows from the seed, the length and its number alone."""
    words = code_words(length, plan.needles, density)
    documents = tuple(
        codes(rng_of(plan.seed, "needle", length, number), words, plan.needles)
        for number in range(plan.documents_at(length))
    )
    rng = rng_of(plan.seed, "filler", length)
    return Texts(length, documents, filler_text(rng, filler_words(length, density)))


def needle_cells(plan: Plan, length: int, ratio: int) -> list[Cell]:
    """The cells of a length and ratio."""
    controls = []
    if length <= plan.control_tokens:
        controls = [EMPTIED, OTHER] if plan.documents_at(length) > 1 else [EMPTIED]
    plain = [Cell(measure, KIND, ratio, length) for measure in (NEEDLE, DRAFT)]
    return plain + [Cell(NEEDLE, KIND, ratio, length, control) for control in controls]


def measure_needles(bench: Bench, length: int) -> None:
    """Measure all cells of a length; those that the server does not hold are noted as such."""
    held = [ratio for ratio in bench.plan.ratios if bench.asker.holds(length, ratio)]
    # A text that no memory holds is not drawn: it may be long.
    texts = needle_texts(bench.plan, length, bench.density) if held else None
    for ratio in bench.plan.ratios:
        bench.bar.at(f"needles, {length} tokens, ratio {ratio}")
        cells = needle_cells(bench.plan, length, ratio)
        try:
            if texts is None or ratio not in held:
                raise NotHeldError(f"{length} tokens at ratio {ratio}")
            _measure(bench, texts, ratio, cells)
        except NotHeldError:
            for cell in cells:
                bench.sheet.not_held(cell)


def _measure(bench: Bench, texts: Texts, ratio: int, cells: Sequence[Cell]) -> None:
    """Write the memories of a length and ratio, ask them, delete them. Raises NotHeldError."""
    names = _write(bench, texts, ratio, any(cell.control == EMPTIED for cell in cells))
    asks = [ask for cell in cells for ask in _asks(cell, texts.documents)]
    jobs = [partial(ask.right, bench.asker) for ask in asks]
    right = bench.ask(jobs, NEEDLE_TOKENS)
    for ask, outcome in zip(asks, right, strict=True):
        bench.sheet.add(ask.cell, ask.document, [outcome])
    for name in names:
        bench.asker.forget(name)


def _name(number: int) -> str:
    return f"needle-{number}"


def _write(bench: Bench, texts: Texts, ratio: int, emptied: bool) -> list[str]:
    """Names of the memories written. Raises NotHeldError."""
    names = []
    for number, document in enumerate(texts.documents):
        names.append(_name(number))
        tokens = bench.memorize(names[-1], document.text, ratio)
        bench.sheet.held(ratio, texts.length, tokens)
    if emptied:
        names.append(EMPTIED)
        bench.memorize(EMPTIED, texts.filler, ratio)
    return names


def _asks(cell: Cell, documents: tuple[Document, ...]) -> Iterator[Ask]:
    for number, document in enumerate(documents):
        memory = {
            NO_CONTROL: _name(number),
            OTHER: _name((number + 1) % len(documents)),
            EMPTIED: EMPTIED,
        }[cell.control]
        for question in document.questions:
            yield Ask(cell, memory, number, question)
