"""What the commands of further training have in common: arguments, opening, the run itself."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from memoserve.errors import MemoserveError
from memoserve.models.loader import DTYPES, LoadedModel, usable_device
from memoserve_training.base import Beacons, open_base, prepare, same_settings
from memoserve_training.checkpoint import RunDirectory
from memoserve_training.masters import Masters, Trains, choose, recompute_layers
from memoserve_training.tuning import Objective, Pace, Tuner


@dataclass(frozen=True)
class Begun:
    """A run that is laid out: its model with the chosen parameters let loose."""

    run: RunDirectory
    loaded: LoadedModel
    masters: Masters
    pace: Pace
    trains: Trains
    weight_decay: float
    seconds: float | None


def add_common(parser: argparse.ArgumentParser, rate: float, trains: bool = False) -> None:
    """Arguments of every command; ``trains`` adds the choice of parameters."""
    parser.add_argument("--model", type=Path, required=True, help="directory to begin from")
    parser.add_argument("--run", type=Path, required=True, help="directory of this run")
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument(
        "--rate", type=float, default=rate, help="highest learning rate (%(default)s)"
    )
    parser.add_argument("--warmup", type=int, default=50, help="steps until it is reached")
    parser.add_argument("--accumulate", type=int, default=1, help="batches a step")
    parser.add_argument("--save-steps", type=int, default=200)
    parser.add_argument("--weight-decay", type=float, default=0.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--minutes", type=float, help="end this slice after so long")
    parser.add_argument("--device", default="cpu", help="cpu or cuda[:N]")
    parser.add_argument("--dtype", choices=sorted(DTYPES), help="float32 on cpu, bfloat16 on cuda")
    parser.add_argument("--threads", type=int, default=1, help="of the CPU")
    parser.add_argument("--recompute", action="store_true", help="trade time for memory")
    parser.add_argument("--window", type=int, help="beacon_window to set")
    parser.add_argument("--ratios", type=_numbers, help="beacon_ratio to set, as 2,4,8")
    parser.add_argument("--projections", type=_names, help="beacon_param to set, as q,k,v")
    if trains:
        parser.add_argument("--trains", choices=[t.value for t in Trains], default="beacons")


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(","))


def _names(text: str) -> tuple[str, ...]:
    return tuple(text.split(","))


def start(arguments: argparse.Namespace) -> Begun:
    """Lay the run out and load the model; raises what ``prepare`` and ``open_base`` raise."""
    torch.set_num_threads(arguments.threads)
    device = usable_device(arguments.device)
    if device.type != "cpu":
        # The kernels that serve have no gradients; plain PyTorch has.
        os.environ["MEMOSERVE_BACKEND"] = "reference"
    dtype = arguments.dtype or ("float32" if device.type == "cpu" else "bfloat16")
    run = RunDirectory(arguments.run)
    beacons = Beacons(arguments.window, arguments.ratios, arguments.projections)
    prepare(run, arguments.model, dtype, beacons, getattr(arguments, "prompts", None))
    loaded = open_base(run, dtype, device)
    trains = Trains(getattr(arguments, "trains", "beacons"))
    masters = Masters(choose(loaded.model, trains), arguments.weight_decay)
    if arguments.recompute:
        recompute_layers(loaded.model)
    pace = Pace(
        steps=arguments.steps,
        rate=arguments.rate,
        accumulate=arguments.accumulate,
        warmup=arguments.warmup,
        save_steps=arguments.save_steps,
    )
    seconds = None if arguments.minutes is None else arguments.minutes * 60
    return Begun(run, loaded, masters, pace, trains, arguments.weight_decay, seconds)


def finish(begun: Begun, objective: Objective, settings: Mapping[str, object]) -> int:
    """Train and export; 0 when all steps are done, 3 when the slice ended before them.

    Raises ValueError where the run was begun with other settings.
    """
    pace = {n: v for n, v in asdict(begun.pace).items() if n not in ("save_steps", "log_steps")}
    chosen = {"trains": begun.trains.value, "weight_decay": begun.weight_decay}
    base = {"base": begun.loaded.fingerprint, **chosen}
    same_settings(begun.run, {**base, **pace, **settings})
    tuner = Tuner(begun.loaded, begun.masters, objective, begun.pace, begun.run)
    return 0 if tuner.train(begun.seconds) else 3


def run_main(main: Callable[[], int]) -> int:
    """What ``main`` ends with; 2 and one line on stderr for what a user can put right."""
    try:
        return main()
    except (ValueError, OSError, MemoserveError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
