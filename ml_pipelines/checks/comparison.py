"""Which rows of a test table a registered version can't have trained on. Two models are compared only on such rows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ml_pipelines.errors import BadData
from ml_pipelines.modelling.split import Split
from ml_pipelines.problems.intervals import FEWEST_EVENTS
from ml_pipelines.text import shown

if TYPE_CHECKING:
    import numpy as np
    import polars as pl

    Array = np.ndarray[Any, np.dtype[Any]]


def find_unseen_rows(ours: Mapping[str, str], theirs: Mapping[str, str], test: pl.DataFrame, label: Array) -> Array:
    """Return for each row of the test table whether a version can't have trained on it.

    Args:
        ours: the identity of the tables: the split and the label (see models/identity.py).
        theirs: the identity of the version.
        test: the test table.
        label: the class of each row.

    Raises:
        BadData: the models can't be compared. The message says why.
    """
    import numpy as np

    _check_label(ours, theirs)
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
    for class_ in (0, 1):
        if (count := int((label[rows] == class_).sum())) < FEWEST_EVENTS:
            raise BadData(
                f"its split was another one ({changes}), and it can have trained on all but {count} of the test rows "
                f"of class {class_}; at least {FEWEST_EVENTS} are needed. Set the split back."
            )
    return rows


def _check_label(ours: Mapping[str, str], theirs: Mapping[str, str]) -> None:
    """Raise BadData if class 1 doesn't mean the same for both models, or if nobody recorded what it means."""
    here, there = ([identity.get(f"label_{part}") for part in ("name", 0, 1)] for identity in (ours, theirs))
    if None in there or None in here:
        raise BadData(
            "nobody recorded what its classes mean."
            if None in there
            else "nobody recorded what the classes of these tables mean."
        )
    if here != there:
        texts = [f"{shown(name)} = {shown(one)} (0: {shown(zero)})" for name, zero, one in (there, here)]
        raise BadData(
            f"its class 1 is {texts[0]}, but here it is {texts[1]}. Set data.positive and data.label back, or give "
            "this model another name (registry.model)."
        )


def _of_split(identity: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in identity.items() if name.startswith("split_")}


def _changes(before: Split, now: Split) -> list[tuple[str, object, object]]:
    """Return the settings in which two splits differ: name, value before, value now."""
    names = {"key": "data.key", "seed": "data.split_seed", "fraction": "data.test_fraction", "columns": "the columns"}
    values = [(text, getattr(before, name) or "none", getattr(now, name) or "none") for name, text in names.items()]
    return [(text, shown(str(old)), shown(str(new))) for text, old, new in values if old != new]
