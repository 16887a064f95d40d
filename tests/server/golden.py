"""Golden cases: reading them from a directory, running them, comparing what comes out."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from memoserve.engine.build import policy_of, rules_of
from memoserve.engine.sequence import Logits, MemoryHandle
from memoserve.memory import window as win
from memoserve.memory.memory import HostState
from memoserve.memory.ratio import settle
from memoserve.memory.window import RatioSchedule, WindowRules
from memoserve.models.loader import LoadedModel
from tests.server.fixtures import Driver, Outcome, make_driver, make_model

DEFAULT_DIRECTORY = Path(__file__).parents[1] / "data" / "golden"


def golden_directory() -> Path:
    """MEMOSERVE_GOLDEN_DIR, or the cases kept here."""
    return Path(os.environ.get("MEMOSERVE_GOLDEN_DIR") or DEFAULT_DIRECTORY)


def golden_paths() -> list[Path]:
    """The json file of every case, by name."""
    return sorted(golden_directory().glob("*.json"))


@dataclass(frozen=True)
class Case:
    """One golden case; ``path`` is its json file, the tensors lie beside it."""

    path: Path

    @cached_property
    def facts(self) -> dict[str, Any]:
        facts: dict[str, Any] = json.loads(self.path.read_text(encoding="utf-8"))
        return facts

    @cached_property
    def tensors(self) -> dict[str, Tensor]:
        return load_file(self.path.with_suffix(".safetensors"))

    @property
    def config(self) -> dict[str, Any]:
        config: dict[str, Any] = self.facts["config"]
        return config

    @property
    def quirk(self) -> str | None:
        return self.facts["quirk"] or None

    @property
    def weights(self) -> dict[str, Tensor]:
        return {k: t for k, t in self.tensors.items() if not k.startswith("golden.")}

    @cached_property
    def model(self) -> LoadedModel:
        return make_model(self.config, self.weights)

    @cached_property
    def rules(self) -> WindowRules:
        return rules_of(self.model.config.beacon)

    @property
    def calls(self) -> list[list[int]]:
        calls: list[list[int]] = self.facts["memorize_calls"]
        return calls

    @property
    def context(self) -> list[int]:
        return [token for call in self.calls for token in call]

    @property
    def queries(self) -> list[dict[str, Any]]:
        queries: list[dict[str, Any]] = self.facts["queries"]
        return queries

    @cached_property
    def schedule(self) -> RatioSchedule:
        return settle(self.rules, policy_of(self.model), expected_tokens=len(self.context))

    def golden(self, key: str) -> Tensor:
        return self.tensors[f"golden.{key}"]

    def driver(self, page_size: int = 16, chunk: int = 0, sequences: int = 3) -> Driver:
        """An engine on the case's weights with room for ``sequences`` full caches at once."""
        query = max((len(q["ids"]) + len(q["generated"]) for q in self.queries), default=0)
        rows = 2 * (len(self.context) + query) + 4 * self.rules.window
        pages = sequences * (-(-rows // page_size) + 2)
        return make_driver(
            self.model,
            page_size=page_size,
            num_pages=pages,
            chunk_tokens=chunk,
            # One step has room for a chunk of each, whatever the window of the case.
            step_tokens=sequences * max(self.rules.window, chunk),
        )

    # -- comparisons ----------------------------------------------------------------------------

    def assert_close(self, actual: Tensor, wanted: Tensor, what: str) -> None:
        """Within the case's tolerance; the worst element is named."""
        torch.testing.assert_close(
            actual.reshape(wanted.shape),
            wanted,
            **self.facts["tolerance"],
            msg=lambda text: f"{self.path.stem}, {what}: {text}",
        )

    def assert_logits(self, outcome: Outcome, key: str) -> None:
        self.assert_logits_of(outcome.logits, key)

    def assert_logits_of(self, logits: Tensor, key: str) -> None:
        self.assert_close(logits, self.golden(f"{key}.logits"), f"{key} logits")

    def assert_memory(self, driver: Driver, handle: MemoryHandle, key: str) -> None:
        """Sink, beacons and open window, un-rotated, against ``golden.{key}.*``."""
        host = driver.engine.read(handle)
        for layer in range(self.model.config.num_layers):
            for kind, part in enumerate(("key", "value")):
                names = [f"{key}.{layer}.{rows}_{part}" for rows in ("sink", "beacon", "raw")]
                found = [self.tensors.get(f"golden.{name}") for name in names]
                wanted = torch.cat([t[0] for t in found if t is not None] or [torch.empty(0)], 1)
                rows = unrotated(self.model, host)[:, layer, kind].transpose(0, 1)
                self.assert_close(rows, wanted, f"{key} layer {layer} {part}")

    def assert_counters(self, handle: MemoryHandle, after: dict[str, Any]) -> None:
        """Sizes, cursor, counter and open rows as the case tells them."""
        state, schedule = handle.state, handle.schedule
        assert state.memory_rows == after["sink"] + after["beacon"]
        assert state.windows_closed * self.rules.window == after["window_start"]
        assert win.tokens_fed(self.rules, state) == after["fed"]
        assert (state.open_tokens == 0) == after["last_window_full"]
        rows = win.open_rows(self.rules, schedule, state)
        assert rows == after["raw"] == len(after["window_rows"])
        flags = win.beacon_flags(self.rules, schedule, state, torch.arange(rows).numpy())
        assert "".join("b" if flag else "r" for flag in flags) == after["window_rows"]
        assert win.counter(self.rules, schedule, state) == after["remainder"]
        if after["locked_ratio"] is not None:
            assert schedule.ratios == (after["locked_ratio"],)
        if after["open_window_ratio"] is not None and rows:
            assert schedule.at(state.windows_closed) == after["open_window_ratio"]

    def assert_memorized(self, driver: Driver, outcome: Outcome) -> MemoryHandle:
        self.assert_memory(driver, outcome.memory, "memory")
        self.assert_counters(outcome.memory, self.facts["after_memorize"])
        return outcome.memory

    def assert_answered(self, driver: Driver, outcome: Outcome, number: int) -> None:
        query = self.queries[number]
        assert outcome.tokens == query["generated"]
        self.assert_memory(driver, outcome.memory, f"query{number}.end_memory")
        self.assert_counters(outcome.memory, query["after"])

    def ask(
        self, driver: Driver, base: MemoryHandle, number: int, logits: Logits = Logits.ALL
    ) -> Outcome:
        query = self.queries[number]
        return driver.generate(query["ids"], base, len(query["generated"]), logits)


def unrotated(model: LoadedModel, host: HostState) -> Tensor:
    """All rows of a state ``[rows, layers, 2, kv_heads, head_dim]`` with their keys turned back."""
    rows = torch.cat([host.memory_rows, host.window_rows]).double()
    # Memory row j stands at position j, and the open window follows on.
    angles = torch.arange(len(rows), dtype=torch.float64)[:, None] * model.rope.inv_freq
    cos, sin = angles.cos()[:, None, None], angles.sin()[:, None, None]
    first, second = rows[:, :, 0].chunk(2, dim=-1)
    rows[:, :, 0] = torch.cat([first * cos + second * sin, second * cos - first * sin], dim=-1)
    rows[:, :, 0] /= model.rope.factor
    return rows.to(host.memory_rows.dtype)
