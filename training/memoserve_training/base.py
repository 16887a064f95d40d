"""The checkpoint that further training begins from, and the directory that a run makes of it.

base/    config.json with the beacon fields, links to the weights that are trained from
model/   config.json, tokenizer, prompts; the trained weights once they are exported
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch

from memoserve.models.config import parse_config
from memoserve.models.loader import DTYPES, LoadedModel, load_model
from memoserve.models.tokenizer import TextTokenizer
from memoserve_kernels.ops import backend_name
from memoserve_training.chat import PROMPTS, Task
from memoserve_training.checkpoint import RunDirectory
from memoserve_training.dialogue import Dialogue
from memoserve_training.shape import BEACON_FIELDS
from memoserve_training.vocabulary import write_json

PROMPTS_FILE: Final = "memoserve_prompts.json"
INDEX: Final = "model.safetensors.index.json"


@dataclass(frozen=True)
class Beacons:
    """Beacon fields to set; None leaves the checkpoint's, or ``BEACON_FIELDS`` where it has none.

    ``window`` raw tokens; ``ratios`` one of which each window draws; ``projections`` of q, k, v, o.
    """

    window: int | None = None
    ratios: tuple[int, ...] | None = None
    projections: tuple[str, ...] | None = None

    def applied(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """A config.json with them. Raises InvalidArgument where the outcome is none."""
        plain = config.get("beacon_window") is None
        changed = {**config, **(BEACON_FIELDS if plain else {})}
        if self.window is not None:
            changed |= {"beacon_window": self.window, "beacon_stride": self.window}
        if self.ratios is not None:
            changed["beacon_ratio"] = list(self.ratios)
        if self.projections is not None:
            changed["beacon_param"] = list(self.projections)
        parse_config(changed)
        return changed


def prepare(
    run: RunDirectory, source: Path, dtype: str, beacons: Beacons, prompts: Path | None = None
) -> None:
    """Lay out ``base/`` and ``model/`` where that has not been done.

    ``prompts`` replaces the words of the checkpoint. Raises InvalidArgument for a config.json
    that is none of ours, FileNotFoundError where there is none.
    """
    if (run.model / "config.json").is_file():
        return
    config = beacons.applied(json.loads((source / "config.json").read_text(encoding="utf-8")))
    base = run.path / "base"
    for folder in (base, run.model):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    write_json(base / "config.json", config)
    for path in source.iterdir():
        if path.suffix == ".safetensors" or path.name == INDEX:
            (base / path.name).symlink_to(path.resolve())
        elif path.name != "config.json" and _travels(path):
            shutil.copyfile(path, run.model / path.name)
    if prompts is not None:
        shutil.copyfile(prompts, run.model / PROMPTS_FILE)
    # Written last: it tells that all the rest is there.
    config.pop("dtype", None)
    write_json(run.model / "config.json", {**config, "torch_dtype": dtype})


def _travels(path: Path) -> bool:
    suffixes = (".json", ".jinja", ".model", ".txt", ".md")
    return path.is_file() and (
        path.suffix in suffixes or path.name.startswith(("LICENSE", "NOTICE"))
    )


def open_base(run: RunDirectory, dtype: str, device: torch.device) -> LoadedModel:
    """The model to train from, frozen.

    Raises ValueError where the operations of ``device`` have no gradients.
    """
    backend = backend_name(device, DTYPES[dtype])
    if backend not in ("reference", "cpu"):
        raise ValueError(
            f"the kernels of {backend!r} have no gradients: set MEMOSERVE_BACKEND=reference"
        )
    return load_model(str(run.path / "base"), dtype=dtype, device=device)


def open_dialogue(run: RunDirectory, line_start: str = "") -> Dialogue:
    """Tokenizer, chat template and prompts of ``model/``.

    A checkpoint that brings no prompts gets short ones, written there so that it is served with
    the words it was trained with. Raises ValueError naming a prompt that is missing: the server
    would put one of its own there, which training does not know.
    """
    path = run.model / PROMPTS_FILE
    if not path.is_file():
        write_json(path, PROMPTS)
    prompts = json.loads(path.read_text(encoding="utf-8")).get("en", {})
    clues = prompts.get("clues", {})
    missing = [name for name in ("context", "acknowledgement") if name not in prompts]
    missing += [f"clues.{task.value}" for task in Task if task.value not in clues]
    if missing:
        raise ValueError(f"{path.name}: en.{missing[0]} is missing, training needs it")
    return Dialogue(TextTokenizer.from_directory(run.model), prompts, line_start)


def same_settings(run: RunDirectory, settings: Mapping[str, object]) -> None:
    """Write a run's settings down, or hold them against those it began with.

    Raises ValueError naming those that differ: a run that goes on with others is neither.
    """
    path = run.path / "settings.json"
    plain = json.loads(json.dumps(settings))
    if not path.is_file():
        write_json(path, plain)
        return
    before = json.loads(path.read_text(encoding="utf-8"))
    names = sorted(n for n in before.keys() | plain.keys() if before.get(n) != plain.get(n))
    if names:
        was = ", ".join(f"{name} was {before.get(name)!r}" for name in names)
        raise ValueError(f"{run.path} was begun with other settings: {was}")
