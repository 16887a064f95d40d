"""Teach a memory model which clues lead somewhere: preference by the end result.

``python -m memoserve_training.preference --model DIR --rows FILE --run DIR``

The third stage of MemoRAG's training (arXiv 2409.05591, section 3). Its code is not public, what
follows is our reading: several clue sets are drawn from the memory, each is scored by the evidence
that it retrieves, and the best is preferred to the worst (DPO, arXiv 2305.18290).
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.func import functional_call

from memoserve.memory.window import RatioSchedule
from memoserve.models.loader import LoadedModel
from memoserve_training.base import open_dialogue
from memoserve_training.batch import forward_batch
from memoserve_training.branches import attend_to, branch_batch
from memoserve_training.chat import Asked, Task
from memoserve_training.commands import add_common, finish, run_main, start
from memoserve_training.data_files import (
    PreferenceRow,
    read_preference_rows,
    world_preference_rows,
)
from memoserve_training.dialogue import Dialogue
from memoserve_training.reward import EndResult, clues_of
from memoserve_training.sampling import Draws, sample
from memoserve_training.tuning import Part, Shuffled, draw_ratios, rng_of
from memoserve_training.worlds import WorldSettings


@dataclass(frozen=True)
class PreferenceSettings:
    """How clue sets are drawn and compared.

    ``beta`` weighs the distance from the frozen copy; ``sft_weight`` the likelihood of the best
    set by itself, which DPO alone lets fall. ``normalised``: likelihoods are means over tokens,
    so that a length is no advantage (as in arXiv 2405.14734), not sums as in the paper of DPO.
    """

    draws: Draws = field(default_factory=Draws)
    task: Task = Task.SPAN
    beta: float = 0.1
    sft_weight: float = 0.1
    normalised: bool = False
    seed: int = 1

    def __post_init__(self) -> None:
        if self.draws.samples < 2:
            raise ValueError("a preference takes at least two samples")
        if not self.beta > 0 or self.sft_weight < 0:
            raise ValueError(f"beta {self.beta} and sft_weight {self.sft_weight} make no loss")

    def plain(self) -> dict[str, object]:
        """As JSON holds it."""
        return {**asdict(self), "task": self.task.value}


@dataclass(frozen=True)
class Pair:
    """Ids of a context and of two clue sets behind the same question, ``best`` and ``worst``."""

    trunk: tuple[int, ...]
    best: Asked
    worst: Asked
    schedule: RatioSchedule


def dpo_loss(policy: Tensor, reference: Tensor, beta: float) -> Tensor:
    """``-log sigmoid(beta (gain of the best - gain of the worst))``, arXiv 2305.18290, eq. 7.

    ``policy`` and ``reference`` are ``[best, worst]`` log-likelihoods.
    """
    gain = policy - reference
    return -nn.functional.logsigmoid(beta * (gain[0] - gain[1]))


class PreferenceObjective:
    """DPO between clue sets that the model itself writes.

    ``reference`` are the values that the trained parameters began with: the frozen copy is the
    same model with those in their place, so all that is frozen is held once.
    """

    figures: tuple[str, ...] = ("reward", "spread", "preference", "ahead")

    def __init__(
        self,
        loaded: LoadedModel,
        dialogue: Dialogue,
        rows: Sequence[PreferenceRow],
        reward: EndResult,
        reference: Mapping[str, Tensor],
        settings: PreferenceSettings,
    ) -> None:
        self._loaded, self._dialogue, self._rows = loaded, dialogue, rows
        self._reward, self._reference, self._settings = reward, dict(reference), settings
        self._order = Shuffled(len(rows), settings.seed)
        self._ends = loaded.eos_ids | {dialogue.end}

    def part(self, number: int) -> Part:
        """See Objective; no loss where every clue set is worth the same.

        Figures: ``reward``, the mean of the samples, ``spread``, best less worst, and from
        ``loss_of``.
        """
        row = self._rows[self._order.at(number)]
        pair, rewards, tokens = self._drawn(row, number)
        spread = max(rewards) - min(rewards)
        figures = {"reward": sum(rewards) / len(rewards), "spread": spread}
        if pair is None:
            return Part(None, tokens, figures)
        part = self.loss_of(pair)
        return Part(part.loss, tokens + part.tokens, {**figures, **part.figures})

    def _drawn(self, row: PreferenceRow, number: int) -> tuple[Pair | None, list[float], int]:
        settings, dialogue = self._settings, self._dialogue
        rng = rng_of(settings.seed, number)
        context = dialogue.context(row.context)
        trunk = context.ids
        prompt = dialogue.prompt(context, settings.task, row.question).ids
        longest = len(trunk) + len(prompt) + settings.draws.most
        schedule = draw_ratios(rng, self._loaded, longest)
        written = sample(
            self._loaded, schedule, trunk, prompt, settings.draws, self._ends, rng.getrandbits(62)
        )
        rewards = [self._reward.of(row, clues_of(dialogue.text.decode(ids))) for ids in written]
        tokens = len(trunk) + sum(map(len, written))
        if max(rewards) == min(rewards):
            return None, rewards, tokens
        best, worst = (
            Asked((*prompt, *written[rewards.index(end)]), len(prompt))
            for end in (max(rewards), min(rewards))
        )
        return Pair(trunk, best, worst, schedule), rewards, tokens

    def loss_of(self, pair: Pair) -> Part:
        """DPO and the likelihood of the best. ``ahead``: whether the best gained more.

        ``preference`` is the DPO loss alone, log 2 where nothing was learned.
        """
        policy, lengths = self._likelihoods(pair, None)
        with torch.no_grad():
            reference, _ = self._likelihoods(pair, self._reference)
        mean_best = policy[0] / lengths[0]
        if self._settings.normalised:
            policy, reference = policy / lengths, reference / lengths
        preference = dpo_loss(policy, reference, self._settings.beta)
        loss = preference - self._settings.sft_weight * mean_best
        gain = (policy - reference).detach()
        figures = {"preference": preference.item(), "ahead": float(gain[0] > gain[1])}
        tokens = len(pair.trunk) + len(pair.best.ids) + len(pair.worst.ids)
        return Part(loss, tokens, figures)

    def _likelihoods(self, pair: Pair, weights: dict[str, Tensor] | None) -> tuple[Tensor, Tensor]:
        """Sums of log-likelihoods ``[best, worst]`` of what was written, and its lengths."""
        model = self._loaded.model
        device = model.lm_head.weight.device
        asked = (pair.best, pair.worst)
        batch = branch_batch(pair.trunk, asked, ("best", "worst"), device)
        plan, attend = attend_to(self._loaded, batch.ids, pair.schedule)
        rows = forward_batch(plan, batch.ids, attend)
        # Not through functional_call where gradients are wanted: recomputed layers would read the
        # weights once it has put them back.
        logits = model(rows) if weights is None else functional_call(model, weights, (rows,))
        targets = batch.targets[0]
        losses = nn.functional.cross_entropy(
            logits.float(), targets.flatten(), ignore_index=-1, reduction="none"
        )
        return -losses.view(targets.shape).sum(dim=-1), (targets >= 0).sum(dim=-1)


def main() -> int:
    """Train; 0 when all steps are done, 3 when the slice ended before them."""
    parser = argparse.ArgumentParser(description=__doc__)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--rows", type=Path, help="JSONL of {context, question, evidence, answer}")
    source.add_argument("--worlds", type=int, help="generate so many documents instead")
    parser.add_argument("--words", type=int, default=600, help="words a generated document")
    parser.add_argument("--prompts", type=Path, help="memoserve_prompts.json to train with")
    parser.add_argument("--task", choices=[task.value for task in Task], default=Task.SPAN.value)
    parser.add_argument("--samples", type=int, default=4, help="clue sets a question")
    parser.add_argument("--most", type=int, default=128, help="most tokens of a clue set")
    parser.add_argument("--temperature", type=float, default=1.0)
    parser.add_argument("--beta", type=float, default=0.1)
    parser.add_argument("--sft-weight", type=float, default=0.1)
    parser.add_argument("--normalised", action="store_true", help="likelihoods a token, not summed")
    parser.add_argument("--top-k", type=int, default=3, help="passages that evidence must be in")
    add_common(parser, rate=1e-6, trains=True)
    arguments = parser.parse_args()
    begun = start(arguments)
    settings = PreferenceSettings(
        draws=Draws(arguments.samples, arguments.most, arguments.temperature),
        task=Task(arguments.task),
        beta=arguments.beta,
        sft_weight=arguments.sft_weight,
        normalised=arguments.normalised,
        seed=arguments.seed,
    )
    if arguments.rows is None:
        world = WorldSettings(words=arguments.words)
        rows = list(world_preference_rows(arguments.seed, arguments.worlds, world))
    else:
        rows = list(read_preference_rows(arguments.rows))
    reference = begun.masters.copies()
    dialogue, reward = open_dialogue(begun.run), EndResult(top_k=arguments.top_k)
    objective = PreferenceObjective(begun.loaded, dialogue, rows, reward, reference, settings)
    return finish(begun, objective, {**settings.plain(), "rows": len(rows)})


if __name__ == "__main__":
    raise SystemExit(run_main(main))
