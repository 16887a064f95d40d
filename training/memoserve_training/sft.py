"""Teach a memory model to write clues: loss on what is to be written, and on nothing else.

``python -m memoserve_training.sft --model DIR --rows FILE --run DIR``

The second stage of MemoRAG's training (arXiv 2409.05591, section 3): from the memory of a context
to the passages, simpler questions, draft answer or key points that are asked for.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from memoserve.models.loader import LoadedModel
from memoserve_training.base import open_dialogue
from memoserve_training.branches import attend_to, branch_batch
from memoserve_training.commands import add_common, finish, run_main, start
from memoserve_training.data_files import ClueRow, read_clue_rows, world_clue_rows
from memoserve_training.dialogue import Dialogue
from memoserve_training.loss import written_loss
from memoserve_training.tuning import Part, Shuffled, draw_ratios, rng_of
from memoserve_training.worlds import WorldSettings


@dataclass(frozen=True)
class SftSettings:
    """At most ``branches`` rows of one context a batch; ``detach_after`` as TreeAttend's."""

    branches: int = 8
    detach_after: int | None = None
    seed: int = 1

    def __post_init__(self) -> None:
        if self.branches < 1:
            raise ValueError(f"branches must be positive, not {self.branches}")


def by_context(rows: Iterable[ClueRow], branches: int) -> list[tuple[ClueRow, ...]]:
    """Rows of one context together, at most ``branches`` of them, in their order."""
    grouped: dict[str, list[ClueRow]] = {}
    for row in rows:
        grouped.setdefault(row.context, []).append(row)
    return [
        tuple(same[first : first + branches])
        for same in grouped.values()
        for first in range(0, len(same), branches)
    ]


class SftObjective:
    """Cross entropy of written clues; a batch is one context with several rows."""

    figures: tuple[str, ...] = ("right",)

    def __init__(
        self,
        loaded: LoadedModel,
        dialogue: Dialogue,
        groups: Sequence[tuple[ClueRow, ...]],
        settings: SftSettings,
    ) -> None:
        self._loaded, self._dialogue = loaded, dialogue
        self._groups, self._settings = groups, settings
        self._order = Shuffled(len(groups), settings.seed)

    def part(self, number: int) -> Part:
        """See Objective. ``right`` is the share of rows all of whose tokens were the likeliest."""
        rows = self._groups[self._order.at(number)]
        dialogue, context = self._dialogue, self._dialogue.context(rows[0].context)
        asked = [dialogue.ask(context, row.task, row.question, row.written) for row in rows]
        trunk = context.ids
        device = self._loaded.model.lm_head.weight.device
        batch = branch_batch(trunk, asked, [row.task.value for row in rows], device)
        rng = rng_of(self._settings.seed, number)
        schedule = draw_ratios(rng, self._loaded, len(trunk) + max(len(one.ids) for one in asked))
        plan, attend = attend_to(self._loaded, batch.ids, schedule, self._settings.detach_after)
        outcome = written_loss(self._loaded.model, plan, batch, attend)
        right = outcome.right.float().mean().item()
        return Part(outcome.loss, batch.tokens, {"right": right})


def main() -> int:
    """Train; 0 when all steps are done, 3 when the slice ended before them."""
    parser = argparse.ArgumentParser(description=__doc__)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--rows", type=Path, help="JSONL of {context, task, question, written}")
    source.add_argument("--worlds", type=int, help="generate so many documents instead")
    parser.add_argument("--words", type=int, default=600, help="words a generated document")
    parser.add_argument("--branches", type=int, default=8, help="most rows of a context a batch")
    parser.add_argument("--detach-after", type=int, help="windows that gradients reach back into")
    parser.add_argument("--prompts", type=Path, help="memoserve_prompts.json to train with")
    parser.add_argument("--line-start", default="", help="begins each line that is written")
    add_common(parser, rate=1e-5, trains=True)
    arguments = parser.parse_args()
    begun = start(arguments)
    settings = SftSettings(arguments.branches, arguments.detach_after, arguments.seed)
    if arguments.rows is None:
        world = WorldSettings(words=arguments.words)
        rows = world_clue_rows(arguments.seed, arguments.worlds, world)
    else:
        rows = read_clue_rows(arguments.rows)
    groups = by_context(rows, settings.branches)
    dialogue = open_dialogue(begun.run, arguments.line_start)
    objective = SftObjective(begun.loaded, dialogue, groups, settings)
    return finish(
        begun,
        objective,
        {**vars(settings), "batches": len(groups), "line_start": dialogue.line_start},
    )


if __name__ == "__main__":
    raise SystemExit(run_main(main))
