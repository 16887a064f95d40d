"""Pretrain the beacon parameters of a checkpoint on plain text, its base frozen.

``python -m memoserve_training.pretrain --model DIR --texts FILE --run DIR``

Every token behind the first window is predicted through memory (arXiv 2401.03462, section 3.3):
what a row needs of earlier windows it finds in their beacons only.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from memoserve.models.loader import LoadedModel
from memoserve_training.batch import TreeIds, forward_batch
from memoserve_training.branches import attend_to
from memoserve_training.commands import add_common, finish, run_main, start
from memoserve_training.data_files import read_texts
from memoserve_training.tuning import Part, Shuffled, draw_ratios, rng_of

# Rows whose logits exist at one time: of a large vocabulary they would fill the memory otherwise.
HEAD_ROWS = 1024


@dataclass(frozen=True)
class PretrainSettings:
    """``documents`` pieces of ``length`` raw tokens a batch; ``detach_after`` as TreeAttend's."""

    length: int
    documents: int = 1
    detach_after: int | None = None
    seed: int = 1


def cut(documents: Iterable[Sequence[int]], length: int, window: int) -> list[Tensor]:
    """Pieces of ``length`` tokens, each of one document; a rest counts in whole windows.

    A rest of less than two windows is dropped: nothing of it is read through memory. Raises
    ValueError for a length below two windows.
    """
    if length < 2 * window:
        raise ValueError(f"length {length} is less than two windows of {window}")
    pieces: list[Tensor] = []
    for ids in documents:
        whole = torch.tensor(ids, dtype=torch.int32)
        for piece in whole.split(length):
            kept = len(piece) if len(piece) == length else len(piece) // window * window
            if kept >= 2 * window:
                pieces.append(piece[:kept])
    return pieces


def batches_of(pieces: Sequence[Tensor], documents: int) -> list[Tensor]:
    """Batches ``[at most documents, length]`` of pieces of one length."""
    by_length: dict[int, list[Tensor]] = {}
    for piece in pieces:
        by_length.setdefault(len(piece), []).append(piece)
    return [
        torch.stack(same[first : first + documents])
        for _, same in sorted(by_length.items())
        for first in range(0, len(same), documents)
    ]


class PretrainObjective:
    """Next-token loss of trunks, behind their first window."""

    figures: tuple[str, ...] = ()

    def __init__(
        self, loaded: LoadedModel, batches: Sequence[Tensor], settings: PretrainSettings
    ) -> None:
        self._loaded, self._batches, self._settings = loaded, batches, settings
        self._order = Shuffled(len(batches), settings.seed)

    def part(self, number: int) -> Part:
        """See Objective."""
        loaded, settings = self._loaded, self._settings
        device = loaded.model.lm_head.weight.device
        trunk = self._batches[self._order.at(number)].to(device, torch.int64)
        schedule = draw_ratios(rng_of(settings.seed, number), loaded, trunk.shape[1])
        ids = TreeIds.of_trunks(trunk)
        plan, attend = attend_to(loaded, ids, schedule, settings.detach_after)
        hidden = loaded.model.model(forward_batch(plan, ids, attend))
        hidden = hidden.unflatten(0, trunk.shape)
        # The first row that reads memory is the first of the second window.
        first = loaded.config.beacon.window
        loss = head_loss(
            loaded.model.lm_head, hidden[:, first:-1].flatten(0, 1), trunk[:, first + 1 :].flatten()
        )
        return Part(loss, trunk.numel())


def head_loss(head: nn.Linear, hidden: Tensor, targets: Tensor) -> Tensor:
    """Mean cross entropy of ``hidden [N, hidden]``, the logits made again in the backward pass."""
    parts = [
        checkpoint(_summed, head, rows, wanted, use_reentrant=False)
        for rows, wanted in zip(hidden.split(HEAD_ROWS), targets.split(HEAD_ROWS), strict=True)
    ]
    return torch.stack(parts).sum() / len(targets)


def _summed(head: nn.Linear, hidden: Tensor, targets: Tensor) -> Tensor:
    return nn.functional.cross_entropy(head(hidden).float(), targets, reduction="sum")


def main() -> int:
    """Pretrain; 0 when all steps are done, 3 when the slice ended before them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--texts", type=Path, required=True, help="text, or JSONL of {text}")
    parser.add_argument("--length", type=int, help="raw tokens a document (four windows)")
    parser.add_argument("--documents", type=int, default=1, help="documents a batch")
    parser.add_argument("--detach-after", type=int, help="windows that gradients reach back into")
    add_common(parser, rate=5e-5)
    arguments = parser.parse_args()
    begun = start(arguments)
    window = begun.loaded.config.beacon.window
    settings = PretrainSettings(
        length=arguments.length or 4 * window,
        documents=arguments.documents,
        detach_after=arguments.detach_after,
        seed=arguments.seed,
    )
    tokenizer = Tokenizer.from_file(str(begun.run.model / "tokenizer.json"))
    ids = (tokenizer.encode(text).ids for text in read_texts(arguments.texts))
    batches = batches_of(cut(ids, settings.length, window), settings.documents)
    objective = PretrainObjective(begun.loaded, batches, settings)
    return finish(begun, objective, {**vars(settings), "batches": len(batches)})


if __name__ == "__main__":
    raise SystemExit(run_main(main))
