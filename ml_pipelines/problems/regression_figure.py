"""Draws the predictions of a regression."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def figure(charts: Mapping[str, Mapping[str, list[float]]], threshold: float) -> Figure:
    """Return one figure: the labels against the predictions, and the residuals against the predictions."""
    from matplotlib.figure import Figure

    sheet = Figure(figsize=(10, 4.5))  # not pyplot, which keeps global state; no layout engine, which draws twice
    sheet.subplots_adjust(left=0.09, right=0.98, bottom=0.12, top=0.92, wspace=0.25)
    observed, residuals, tenths = charts["observed"], charts["residuals"], charts["tenths"]
    axes = sheet.add_subplot(1, 2, 1, title="Test table: observed", xlabel="predicted", ylabel="observed")
    axes.plot(observed["predicted"], observed["observed"], ".", alpha=0.4, label="rows")
    axes.plot(tenths["predicted"], tenths["observed"], "-o", label="mean of each tenth")
    axes.axline((tenths["predicted"][0],) * 2, slope=1, color="grey", linestyle=":", label="as predicted")
    axes.legend()
    axes = sheet.add_subplot(1, 2, 2, title="Test table: residuals", xlabel="predicted", ylabel="observed - predicted")
    axes.plot(residuals["predicted"], residuals["residual"], ".", alpha=0.4)
    axes.axhline(0, color="grey", linestyle=":")
    return sheet
