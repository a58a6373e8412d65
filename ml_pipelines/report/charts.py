"""Computes coordinates for the report's charts. The template draws the charts, and has their texts and colours."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from graphlib import TopologicalSorter
from typing import Any

from ml_pipelines.config import graph

# The plot area of a chart, in units of its viewBox (320 x 250).
LEFT, RIGHT, TOP, BOTTOM = 48, 310, 10, 210
# Sizes in the graph of the steps, in units of its viewBox. The graph goes from top to bottom, so that it is narrow
# enough for a phone. ROW is the distance between the tops of two rows of boxes. GAP is the distance between two boxes
# in a row.
GRAPH_WIDTH, BOX_HEIGHT, BOX_WIDTH, GAP, ROW = 340, 44, 190, 10, 72
# The first and the last decile have no outer end, so a chart draws both this many times as wide as their neighbours.
OUTER = 1.5


def x_of(share: float) -> float:
    """Return the x coordinate of a share of the axis. A share outside 0 to 1 goes to the nearer end."""
    return round(LEFT + min(max(share, 0.0), 1.0) * (RIGHT - LEFT), 1)


def y_of(share: float) -> float:
    """Return the y coordinate of a share of the axis. A share outside 0 to 1 goes to the nearer end."""
    return round(BOTTOM - min(max(share, 0.0), 1.0) * (BOTTOM - TOP), 1)


def line_path(xs: Sequence[float], ys: Sequence[float], end: float = 1.0) -> str:
    """Return the SVG path through the points. The x axis goes from 0 to `end`, the y axis from 0 to 1."""
    return "M" + "L".join(f"{x_of(x / end)},{y_of(y)}" for x, y in zip(xs, ys, strict=True))


def nearest_y(x: float, xs: Sequence[float], ys: Sequence[float]) -> float:
    """Return the y of the point whose x is nearest to `x`."""
    return ys[min(range(len(xs)), key=lambda i: abs(xs[i] - x))]


def axis_range(lows: Sequence[float | None], highs: Sequence[float | None]) -> tuple[float, float]:
    """Return the ends of an axis that contains all intervals from `lows` to `highs`.

    They are rounded to multiples of 0.05 between 0 and 1, and elsewhere to half of the range's power of 10.
    """
    ends = [value for value in (*lows, *highs) if value is not None] or [0.0, 1.0]
    low, high = min(ends), max(ends)
    per_unit = 20.0
    if high > 1 or high < 0.05:
        per_unit = 2 * 10.0 ** -math.floor(math.log10(high - low or abs(high) or 1))
    start, stop = math.floor(per_unit * low) / per_unit, math.ceil(per_unit * high) / per_unit
    return start, max(stop, start + 1 / per_unit)


def ends(values: Sequence[float]) -> tuple[float, float]:
    """Return the smallest and the largest value as the ends of an axis. Equal values get room on both sides."""
    low, high = min(values), max(values)
    room = (abs(low) or 1.0) / 2 if low == high else 0.0
    return low - room, high + room


def share(value: float, low: float, high: float) -> float:
    """Return where a value lies on an axis, as a share of its length."""
    return (value - low) / (high - low)


def index_of_highest(ys: Sequence[float]) -> int:
    """Return the index of the highest value, the first one if several are equal."""
    return max(range(len(ys)), key=ys.__getitem__)


@dataclass(frozen=True)
class Bar:
    """A bin of a histogram, in shares of the width and height of the drawing.

    `reference` is the height of the train bar, and `current` is the height of the test bar.
    """

    x: float
    width: float
    reference: float
    current: float


def histogram(bins: Sequence[Mapping[str, Any]]) -> list[Bar]:
    """Return the bars of a numeric column, without the bin of missing values.

    Deciles (`up to 1`, `1 to 4`, `above 4`) have bars whose area is the share of rows. If each bin is one value, the
    height of its bar is the share of rows.
    """
    shown = [row for row in bins if row["label"] != "(missing)"]
    edges = [re.fullmatch(r"([-+.\de]+) to ([-+.\de]+)", str(row["label"])) for row in shown]
    widths = [float(edge[2]) - float(edge[1]) if edge else 0.0 for edge in edges]
    if len(shown) > 2 and all(width > 0 for width in widths[1:-1]):
        widths = [OUTER * widths[1], *widths[1:-1], OUTER * widths[-2]]
    else:
        widths = [1.0] * len(shown)
    pairs = [(b["reference"] / w, b["current"] / w) for b, w in zip(shown, widths, strict=True)]
    highest, total = max(map(max, pairs), default=0) or 1, sum(widths)
    return [
        Bar(sum(widths[:i]) / total, widths[i] / total, reference / highest, current / highest)
        for i, (reference, current) in enumerate(pairs)
    ]


def outline(bars: Sequence[Bar], table: str) -> str:
    """Return the SVG path along the tops of the `reference` or `current` bars, in a drawing of 100 x 40."""
    tops = [(bar, 40 - 40 * getattr(bar, table)) for bar in bars]
    corners = [f"{100 * x:.1f},{top:.1f}" for bar, top in tops for x in (bar.x, bar.x + bar.width)]
    return f"M0,40L{'L'.join(corners)}L100,40"


@dataclass(frozen=True)
class Box:
    """The box of a step in the graph; x and y are its upper left corner."""

    name: str
    x: float
    y: float
    width: float


def boxes(needs: Mapping[str, AbstractSet[str]]) -> dict[str, Box]:
    """Return a dict: step -> box. A step is below all steps that it needs; steps of the same depth are side by side."""
    depth: dict[str, int] = {}
    for step in TopologicalSorter(needs).static_order():
        depth[step] = max((depth[need] + 1 for need in needs[step]), default=0)
    rows = [[step for step in needs if depth[step] == row] for row in range(max(depth.values(), default=-1) + 1)]
    boxes = {}
    for y, row in enumerate(rows):
        width = min(BOX_WIDTH, (GRAPH_WIDTH - GAP * (len(row) - 1)) / len(row))
        left = (GRAPH_WIDTH - len(row) * width - GAP * (len(row) - 1)) / 2
        for x, step in enumerate(row):
            boxes[step] = Box(step, round(left + x * (width + GAP), 1), 2 + y * ROW, round(width, 1))
    return boxes


def arrows(needs: Mapping[str, AbstractSet[str]]) -> list[str]:
    """Return the SVG path of each arrow, from a step to a step that needs it.

    If C needs A and B, and B needs A, the graph has no arrow from A to C.
    """
    box_of, paths = boxes(needs), []
    for step, needed in needs.items():
        implied = {far for near in needed for far in graph.closure(near, needs)}
        for need in sorted(needed - implied):
            x, y = box_of[need].x + box_of[need].width / 2, box_of[need].y + BOX_HEIGHT
            to, end = box_of[step].x + box_of[step].width / 2, box_of[step].y
            paths.append(f"M{x:.1f},{y}C{x:.1f},{y + 16} {to:.1f},{end - 16} {to:.1f},{end}")
    return paths
