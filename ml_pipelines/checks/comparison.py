"""Which rows of a test table a registered version can't have trained on. Two models are compared only on such rows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ml_pipelines.config.schema import ProblemKind
from ml_pipelines.errors import BadData
from ml_pipelines.modelling.split import Split
from ml_pipelines.problems.problem import Problem, problem_of
from ml_pipelines.text import shown

if TYPE_CHECKING:
    import numpy as np
    import polars as pl

    Array = np.ndarray[Any, np.dtype[Any]]


BINARY = ProblemKind.binary.value  # the kind of versions that earlier releases registered


def find_unseen_rows(ours: Mapping[str, str], theirs: Mapping[str, str], test: pl.DataFrame, label: Array) -> Array:
    """Return for each row of the test table whether a version can't have trained on it.

    Args:
        ours: the identity of the tables: the split and the label (see models/identity.py).
        theirs: the identity of the version.
        test: the test table.
        label: the label of each row.

    Raises:
        BadData: the models can't be compared. The message says why.
    """
    import numpy as np

    problem = problem_of(ours.get("problem", BINARY))
    _check_label(ours, theirs, problem)
    if "split_kind" in ours and _of_split(ours) == _of_split(theirs):
        return np.ones(len(label), bool)
    here, there = Split.from_tags(ours), Split.from_tags(theirs)
    if there is None:
        raise BadData("nobody recorded which rows it trained on.")
    if here is None:
        raise BadData("nobody recorded how these tables were split. Log split.json, as steps/prepare_data.py does.")
    changes = ", ".join(f"{name} {before} -> {now}" for name, before, now in _changes(there, here))
    if not there.key:
        raise BadData(
            f"its training rows are unknown, because it was trained without data.key on another split ({changes}). "
            "Set the split back."
        )
    if there.key not in test.columns:
        raise BadData(f"its split is by column {shown(there.key)}, which the test table does not have ({changes}).")
    rows = there.is_test(test[there.key])
    if few := problem.scarcity(label[rows]):
        raise BadData(
            f"its split was another one ({changes}), and it can have trained on all but {few}. Set the split back."
        )
    return rows


def _check_label(ours: Mapping[str, str], theirs: Mapping[str, str], problem: Problem) -> None:
    """Raise BadData if the label doesn't mean the same for both models, or if nobody recorded what it means."""
    kinds = [identity.get("problem", BINARY) for identity in (theirs, ours)]
    if kinds[0] != kinds[1]:
        raise BadData(
            f"its kind of problem is {shown(kinds[0])}, but here it is {shown(kinds[1])}. Set data.problem and "
            "data.label back, or give this model another name (registry.model)."
        )
    here, there = ([identity.get(name, "") for name in problem.IDENTITY] for identity in (ours, theirs))
    if not (all(there) and all(here)):
        noun, verb = ("classes", "mean") if problem.HAS_CLASSES else ("label", "is")
        whose = f"the {noun} of these tables" if all(there) else f"its {noun}"
        raise BadData(f"nobody recorded what {whose} {verb}.")
    if here != there:
        raise BadData(f"{problem.label_change(there, here)}, or give this model another name (registry.model).")


def _of_split(identity: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in identity.items() if name.startswith("split_")}


def _changes(before: Split, now: Split) -> list[tuple[str, object, object]]:
    """Return the settings in which two splits differ: name, value before, value now."""
    names = {"key": "data.key", "seed": "data.split_seed", "fraction": "data.test_fraction", "columns": "the columns"}
    values = [(text, getattr(before, name) or "none", getattr(now, name) or "none") for name, text in names.items()]
    return [(text, shown(str(old)), shown(str(new))) for text, old, new in values if old != new]
