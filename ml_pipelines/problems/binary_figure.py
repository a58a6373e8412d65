"""Draws the curves of two classes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

GUIDES: Mapping[str, str] = {"roc": "chance", "calibration": "as predicted"}  # chart -> what its diagonal means


def figure(charts: Mapping[str, Mapping[str, list[float]]], threshold: float) -> Figure:
    """Return one figure with the four curves: four figures would take four times as long to draw."""
    from matplotlib.figure import Figure

    sheet = Figure(figsize=(10, 9))  # not pyplot, which keeps global state; no layout engine, which draws twice
    sheet.subplots_adjust(left=0.06, right=0.98, bottom=0.06, top=0.96, hspace=0.25, wspace=0.15)
    for place, (name, points) in enumerate(charts.items(), start=1):
        title, (x, *lines) = f"Test table: {name.replace('_', ' ')}", (axis for axis in points if axis != "rows")
        axes = sheet.add_subplot(2, 2, place, title=title, xlabel=x.replace("_", " "), ylim=(-0.02, 1.02))
        for line in lines:
            axes.plot(points[x], points[line], "-o" if name == "calibration" else "-", label=line.replace("_", " "))
        if name in GUIDES:
            axes.axline((0, 0), slope=1, color="grey", linestyle=":", label=GUIDES[name])
        if name == "threshold":
            axes.axvline(threshold, color="grey", linestyle=":", label=f"class 1 from {threshold:g} on")
        axes.legend()
    return sheet
