"""Render the report as HTML: the template report.html.j2 and its filters."""

from __future__ import annotations

import math
from pathlib import Path

from ml_pipelines.problems import intervals
from ml_pipelines.problems.problem import problem_of
from ml_pipelines.report import charts
from ml_pipelines.report.contents import Report
from ml_pipelines.text import escaped

NAME, SCORING_NAME = "report.html", "scoring.html"  # the report of a pipeline run that trains, that scores


def render(report: Report) -> str:
    """Return the page as HTML. HTML and control characters in the report's texts are escaped."""
    from jinja2 import Environment, FileSystemLoader

    loader = FileSystemLoader(Path(__file__).parent)
    environment = Environment(
        loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True, finalize=_without_control_characters
    )
    problem = problem_of(report.problem)
    environment.globals |= {"charts": charts, "wilson": wilson, "problem": problem, "parts": problem.TEMPLATES}
    environment.filters |= {"number": format_number, "percent": percent, "probability": probability, "wilson": wilson}
    return environment.get_template(f"{NAME}.j2").render(report=report).strip()


def _without_control_characters(value: object) -> object:
    # The template's own HTML is of a subclass of str, and must not be escaped again.
    return escaped(value, keep="\n\t") if type(value) is str else value


def format_number(value: object, digits: int = 3) -> str:
    """Return a number as text: `1,234` if it is whole, else with `digits` decimals. A missing number becomes a dash.

    A number that would have no digit but 0 gets `digits` significant digits: `0.00012`.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return str(value) if value and isinstance(value, str | bool) else "-"
    if float(value).is_integer() and (isinstance(value, int) or abs(value) >= 10):
        return f"{int(value):,}"
    return f"{value:.{digits}g}" if 0 < abs(value) < 0.5 * 0.1**digits else f"{value:,.{digits}f}"


def percent(share: object) -> str:
    """Return a share as text, for example `12.5%`."""
    return f"{share:.1%}".replace(".0%", "%") if isinstance(share, int | float) and math.isfinite(share) else "-"


def probability(value: object) -> str:
    """Return a p-value as text, for example `p = 0.041`."""
    return "p < 0.001" if isinstance(value, float) and value < 0.001 else f"p = {format_number(value)}"


def wilson(hits: float, rows: float) -> tuple[float, float]:
    """Return the 95 % interval of the share hits / rows."""
    return intervals.wilson(hits / rows, rows, 0.95)
