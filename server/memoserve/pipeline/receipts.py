"""What a Memorize was answered, kept with its request id, so that a repeat hears the same."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from memoserve.errors import DataLoss
from memoserve.memory.names import MemoryName
from memoserve.pipeline.values import Committed, Language, MemoryStats, MemoryView, Tier


def to_receipt(committed: Committed) -> dict[str, Any]:
    """The answer as JSON values; the memory's name is known where it is kept."""
    view = asdict(committed.memory)
    del view["name"]
    view |= {"language": committed.memory.language.value, "tier": committed.memory.tier.value}
    return {"memory": view, "seconds": committed.seconds, "tokens_added": committed.tokens_added}


def from_receipt(name: MemoryName, receipt: Mapping[str, Any]) -> Committed:
    """The first answer, marked as told again. Raises DataLoss for what is no receipt of ours."""
    try:
        view: dict[str, Any] = dict(receipt["memory"])
        typed: dict[str, Any] = {
            "ratios": tuple(view.pop("ratios")),
            "language": Language(view.pop("language")),
            "labels": dict(view.pop("labels")),
            "tier": Tier(view.pop("tier")),
            "stats": MemoryStats(**view.pop("stats")),
        }
        memory = MemoryView(name=name, **view, **typed)
        return Committed(memory, receipt["seconds"], receipt["tokens_added"], replayed=True)
    except (KeyError, TypeError, ValueError) as error:
        raise DataLoss(
            f"memory {name}: the answer to an earlier request cannot be read", memory=name
        ) from error
