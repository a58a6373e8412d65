"""From numbers to the coordinates of the report's drawings. The template draws them, and holds text and colours."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from graphlib import TopologicalSorter
from typing import Any

from ml_pipelines import graph

# A chart's plot area, in the units of its viewBox of 320 x 250.
LEFT, RIGHT, TOP, BOTTOM = 48, 310, 10, 210
# The graph of the steps: a column of rows, since a phone is higher than wide.
GRAPH_WIDTH, BOX_HEIGHT, BOX_WIDTH, GAP, ROW = 340, 44, 190, 10, 72
OUTER = 1.5  # a decile without an outer edge is drawn so many times as wide as its neighbour


def across(share: float) -> float:
    """Return the x of a value, given as its share of the axis; beyond the axis is its end."""
    return round(LEFT + min(max(share, 0.0), 1.0) * (RIGHT - LEFT), 1)


def up(share: float) -> float:
    """Return the y of a value, given as its share of the axis."""
    return round(BOTTOM - min(max(share, 0.0), 1.0) * (BOTTOM - TOP), 1)


def line(xs: Sequence[float], ys: Sequence[float], end: float = 1.0) -> str:
    """Return the path through the points, on axes from 0 to `end` and from 0 to 1."""
    return "M" + "L".join(f"{across(x / end)},{up(y)}" for x, y in zip(xs, ys, strict=True))


def at(x: float, xs: Sequence[float], ys: Sequence[float]) -> float:
    """Return the y of the point whose x, of rising ones, is nearest."""
    return ys[min(range(len(xs)), key=lambda i: abs(xs[i] - x))]


def scale(lows: Sequence[float | None], highs: Sequence[float | None]) -> tuple[float, float]:
    """Return the ends of an axis that holds all of the intervals, at twentieths."""
    ends = [value for value in (*lows, *highs) if value is not None] or [0.0, 1.0]
    start, stop = math.floor(20 * min(ends)) / 20, math.ceil(20 * max(ends)) / 20
    return start, max(stop, start + 0.05)


def best(ys: Sequence[float]) -> int:
    """Return where the highest value is, the first of equals."""
    return max(range(len(ys)), key=ys.__getitem__)


@dataclass(frozen=True)
class Bar:
    """A bin of a histogram, as shares of the drawing's width and height; `reference` and `current` are heights."""

    x: float
    width: float
    reference: float
    current: float


def histogram(bins: Sequence[Mapping[str, Any]]) -> list[Bar]:
    """Return a number's bins: of deciles (`up to 1`, `1 to 4`, `above 4`) the area is the share, else the height.

    The bin of what is missing is left out.
    """
    shown = [found for found in bins if found["label"] != "(missing)"]
    edges = [re.fullmatch(r"([-+.\de]+) to ([-+.\de]+)", str(found["label"])) for found in shown]
    widths = [float(found[2]) - float(found[1]) if found else 0.0 for found in edges]
    if len(shown) > 2 and all(width > 0 for width in widths[1:-1]):
        widths = [OUTER * widths[1], *widths[1:-1], OUTER * widths[-2]]
    else:
        widths = [1.0] * len(shown)
    pairs = [(b["reference"] / w, b["current"] / w) for b, w in zip(shown, widths, strict=True)]
    highest, whole = max(map(max, pairs), default=0) or 1, sum(widths)
    return [
        Bar(sum(widths[:i]) / whole, widths[i] / whole, reference / highest, current / highest)
        for i, (reference, current) in enumerate(pairs)
    ]


def outline(bars: Sequence[Bar], table: str) -> str:
    """Return the path along the tops of one table's bars, `reference` or `current`, in a drawing of 100 x 40."""
    tops = [(bar, 40 - 40 * getattr(bar, table)) for bar in bars]
    corners = [f"{100 * x:.1f},{top:.1f}" for bar, top in tops for x in (bar.x, bar.x + bar.width)]
    return f"M0,40L{'L'.join(corners)}L100,40"


@dataclass(frozen=True)
class Box:
    """Where a step stands in the drawing of the graph, by its upper left corner."""

    key: str
    x: float
    y: float
    width: float


def boxes(needs: Mapping[str, AbstractSet[str]]) -> dict[str, Box]:
    """Return a box for each step, below all that it needs, beside those that need as much."""
    depth: dict[str, int] = {}
    for key in TopologicalSorter(needs).static_order():
        depth[key] = max((depth[need] + 1 for need in needs[key]), default=0)
    rows = [[key for key in needs if depth[key] == row] for row in range(max(depth.values(), default=-1) + 1)]
    found = {}
    for y, row in enumerate(rows):
        width = min(BOX_WIDTH, (GRAPH_WIDTH - GAP * (len(row) - 1)) / len(row))
        left = (GRAPH_WIDTH - len(row) * width - GAP * (len(row) - 1)) / 2
        for x, key in enumerate(row):
            found[key] = Box(key, round(left + x * (width + GAP), 1), 2 + y * ROW, round(width, 1))
    return found


def arrows(needs: Mapping[str, AbstractSet[str]]) -> list[str]:
    """Return the path of each need that doesn't follow from the others, from box to box."""
    placed, paths = boxes(needs), []
    for key, wanted in needs.items():
        implied = {far for near in wanted for far in graph.closure(near, needs)}
        for need in sorted(wanted - implied):
            x, y = placed[need].x + placed[need].width / 2, placed[need].y + BOX_HEIGHT
            to, end = placed[key].x + placed[key].width / 2, placed[key].y
            paths.append(f"M{x:.1f},{y}C{x:.1f},{y + 16} {to:.1f},{end - 16} {to:.1f},{end}")
    return paths
