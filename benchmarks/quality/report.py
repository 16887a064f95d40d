"""Figures as tables for people."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.quality.clues import ALL_KINDS, CHAINS, PASSAGES
from benchmarks.quality.needle import NEEDLE
from benchmarks.quality.sheet import MEASURED, Row
from memoserve.cli.tables import table
from memoserve_training.worlds import Kind


def shown(row: Row | None) -> str:
    """A share in per cent with its interval; of passages their number."""
    if row is None:
        return ""
    if row.state != MEASURED or row.share is None:
        return row.state
    if row.measure == PASSAGES:
        return f"{row.share:.1f}"
    text = f"{100 * row.share:.1f}"
    if row.low is not None and row.high is not None:
        text += f" ({100 * row.low:.0f} to {100 * row.high:.0f})"
    return text


def report(rows: Sequence[Row]) -> str:
    """Needles by ratio and length, then what clues bring, by kind of question."""
    needles = [row for row in rows if row.measure == NEEDLE]
    others = [row for row in rows if not row.measure.startswith(NEEDLE)]
    groups = dict.fromkeys((row.control, row.ratio, row.length) for row in others)
    parts = [_needles(needles)]
    for control, ratio, length in groups:
        title = f"{length} tokens, ratio {ratio}{', memory ' if control else ''}{control}"
        group = [row for row in others if (row.control, row.ratio) == (control, ratio)]
        parts.append(f"{title}\n{_clues(group)}")
    return "\n\n".join(part for part in parts if part)


def _needles(rows: Sequence[Row]) -> str:
    lengths = list(dict.fromkeys(row.length for row in rows))
    lines = list(dict.fromkeys((row.control, row.ratio) for row in rows))
    at = {(row.control, row.ratio, row.length): row for row in rows}
    body = [
        [f"ratio {ratio}", control, *(shown(at.get((control, ratio, n))) for n in lengths)]
        for control, ratio in sorted(lines)
    ]
    return table(["needle, %", "memory", *map(str, lengths)], body)


def _clues(rows: Sequence[Row]) -> str:
    measures = list(dict.fromkeys(row.measure for row in rows))
    known = {row.kind for row in rows}
    at = {(row.measure, row.kind): row for row in rows}
    body = [
        [kind, *(shown(at.get((measure, kind))) for measure in measures)]
        for kind in _kinds()
        if kind in known
    ]
    return table(["%", *measures], body)


def _kinds() -> list[str]:
    """Kinds of questions in the order of a table, the hops of a chain below it."""
    names = [ALL_KINDS]
    for kind in Kind:
        names.append(kind.value)
        if kind in CHAINS:
            names += [f"{kind.value} hop {hop}" for hop in (1, 2, 3)]
    return names
