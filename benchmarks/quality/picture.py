"""The curve of needle recall over length, as an SVG for light and dark pages."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from math import log2
from pathlib import Path

from benchmarks.quality.sheet import EMPTIED, MEASURED, OTHER, Row, read_csv

WIDTH, HEIGHT = 720, 420
LEFT, RIGHT, TOP, BOTTOM = 60, 560, 44, 360
K = 1024
# Told apart by people who see few colours as well: Okabe and Ito's, and a shape for each.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
STYLE = """
text { font: 13px system-ui, sans-serif; fill: #24292f }
.title { font-size: 15px; font-weight: 600 }
.grid { stroke: #8c959f; stroke-opacity: 0.35 }
.control { stroke: #6e7781; stroke-dasharray: 5 4 }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3 }
  .control { stroke: #9198a1 }
}
"""


def draw(rows: Sequence[Row]) -> str:
    """The picture; an interval is a bar at its point, a control the dashed mean of its ratios."""
    needles = [row for row in rows if row.measure == "needle" and row.state == MEASURED]
    lengths = sorted({row.length for row in needles})
    ratios = sorted({row.ratio for row in needles})
    parts = [*_frame(lengths)]
    for number, ratio in enumerate(ratios):
        points = [row for row in needles if row.ratio == ratio and not row.control]
        parts += _curve(number, ratio, points, lengths, len(ratios))
    parts += _controls(needles, lengths, len(ratios))
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img">'
    title = "<title>Exact needle recall by length and ratio</title>"
    return "\n".join([head, title, f"<style>{STYLE}</style>", *parts, "</svg>"]) + "\n"


def _x(length: float, lengths: Sequence[int]) -> float:
    low, high = log2(lengths[0]), log2(lengths[-1])
    share = (log2(length) - low) / (high - low) if high > low else 0.5
    return LEFT + 16 + share * (RIGHT - LEFT - 32)


def _y(share: float) -> float:
    return BOTTOM - share * (BOTTOM - TOP)


def _line(x1: float, y1: float, x2: float, y2: float, style: str) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" {style}/>'


def _text(x: float, y: float, text: str, style: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" {style}>{text}</text>'


def _polyline(points: Iterable[tuple[float, float]], style: str) -> str:
    joined = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return f'<polyline points="{joined}" fill="none" {style}/>'


def _frame(lengths: Sequence[int]) -> Iterable[str]:
    yield _text(LEFT, 24, "Exact needle recall, 95 % intervals", 'class="title"')
    for percent in range(0, 101, 20):
        y = _y(percent / 100)
        yield _line(LEFT, y, RIGHT, y, 'class="grid"')
        yield _text(LEFT - 8, y + 4, f"{percent} %", 'text-anchor="end"')
    for length in lengths:
        x = _x(length, lengths)
        yield _line(x, BOTTOM, x, BOTTOM + 5, 'class="grid"')
        label = f"{length / K:g}K" if length >= K // 4 else str(length)
        yield _text(x, BOTTOM + 20, label, 'text-anchor="middle"')
    yield _text((LEFT + RIGHT) / 2, BOTTOM + 42, "tokens of text", 'text-anchor="middle"')


def _curve(
    number: int, ratio: int, rows: Sequence[Row], lengths: Sequence[int], ratios: int
) -> Iterable[str]:
    colour = COLOURS[number % len(COLOURS)]
    pen = f'stroke="{colour}" stroke-width="2"'
    # Side by side, or intervals of one length would hide each other.
    shift = 4.0 * (number - (ratios - 1) / 2)
    points = []
    for row in sorted(rows, key=lambda row: row.length):
        if row.share is None:
            continue
        x, y = _x(row.length, lengths) + shift, _y(row.share)
        points.append((x, y))
        if row.low is not None and row.high is not None:
            yield _line(x, _y(row.low), x, _y(row.high), pen)
        yield f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{colour}"/>'
    yield _polyline(points, pen)
    y = TOP + 12 + 22 * number
    yield _line(RIGHT + 14, y, RIGHT + 38, y, pen)
    name = "no compression" if ratio == 0 else f"ratio {ratio}"
    yield _text(RIGHT + 44, y + 4, name)


def _controls(rows: Sequence[Row], lengths: Sequence[int], above: int) -> Iterable[str]:
    for number, control in enumerate((EMPTIED, OTHER)):
        points = []
        for length in lengths:
            shares = [
                row.share
                for row in rows
                if (row.control, row.length) == (control, length) and row.share is not None
            ]
            if shares:
                points.append((_x(length, lengths), _y(sum(shares) / len(shares))))
        if not points:
            continue
        dash = 'class="control" stroke-width="2"'
        yield _polyline(points, dash if number == 0 else f'{dash} style="stroke-dasharray: 1 4"')
        y = TOP + 12 + 22 * (above + number)
        yield _line(RIGHT + 14, y, RIGHT + 38, y, dash)
        yield _text(RIGHT + 44, y + 4, f"memory {control}" if number == 0 else control)


if __name__ == "__main__":
    Path(sys.argv[2]).write_text(draw(read_csv(Path(sys.argv[1]))), encoding="utf-8")
