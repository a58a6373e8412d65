"""Where the columns of our tables come from. Messages use this to name columns and classes as the source does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ml_pipelines.config.overrides import drop_setting
from ml_pipelines.config.schema import Data, ProblemKind
from ml_pipelines.text import quoted, shown


@dataclass(frozen=True)
class Origin:
    """The names that the source has for columns and classes.

    Args:
        sources: column of our tables -> its name in the source. Columns from `add_features` are not in it. It is empty
            if the names are unknown.
        label: the label's name in the source.
        classes: the label's values that our tables hold as 0 and 1; empty if the label is a number.
        dropped: the columns in `data.drop`.
        problem: what the model predicts, a kind of `problems/`.
    """

    sources: Mapping[str, str] = field(default_factory=dict)
    label: str = "label"
    classes: tuple[str, ...] = ("0", "1")
    dropped: Sequence[str] = ()
    problem: str = ProblemKind.binary.value

    def source(self, column: str) -> str:
        """Return the name that a column has in the source. If the source lacks it, return its name in our tables."""
        return self.sources.get(column, column)

    def name(self, column: str) -> str:
        """Return the name that messages show for a column: its name in the source, if the source has the column."""
        return shown(self.source(column))

    def also(self, column: str) -> str:
        """Return a column's name in our tables, and also its name in the source if the two differ."""
        source = self.source(column)
        return shown(column) + (f" ({quoted(source)} in the source)" if source != column else "")

    def removal(self, column: str) -> str:
        """Return the advice that takes a feature away: `set data.drop=[bwt]`."""
        if self.sources and column not in self.sources:
            return f"take {shown(column)} out of add_features in steps/prepare_data.py"
        return f"set {drop_setting(self.source(column), self.dropped)}"

    def rows_of(self, class_: int) -> str:
        """Return the condition that rows of a class fulfil: `defaulted = yes`."""
        return f"{shown(self.label)} = {shown(self.classes[class_])}"


def origin_of(decisions: Any, data: Data) -> Origin:
    """Return the origin of the columns from the content of columns.json, or one without names if the content is odd."""
    if not isinstance(decisions, dict):  # a step of your own wrote the table
        if data.problem is ProblemKind.regression:
            return Origin(label=data.label, classes=(), dropped=data.drop, problem=data.problem.value)
        return Origin(label=data.label, dropped=data.drop)
    parts = {name: decisions.get(name) for name in ("renamed", "features", "label")}
    renamed, features, label = (part if isinstance(part, dict) else {} for part in parts.values())
    sources = {name: name for name in features} | {new: old for old, new in renamed.items()}
    values = {number: value for value, number in label.items()}
    problem = str(decisions.get("problem", ProblemKind.binary.value))  # earlier releases knew no other kind
    classes = (str(values.get(0, 0)), str(values.get(1, 1))) if values or problem == ProblemKind.binary.value else ()
    return Origin(sources, data.label, classes, data.drop, problem)
