"""The label of a source: its two classes, and which of them the model predicts (class 1)."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass

from ml_pipelines.data.cells import plain_number
from ml_pipelines.errors import BadData
from ml_pipelines.text import listed, quoted, shown

CLASSES_SHOWN = 20
# Pairs of text with a meaning that everybody knows: class 0, class 1.
KNOWN_PAIRS = (("no", "yes"), ("false", "true"), ("negative", "positive"))
RARER = 0.4  # the rarer value is class 1 if it has at most this share of the rows; otherwise a person must choose


@dataclass(frozen=True)
class Classes:
    """The two values of a label. `reason` says why `positive` is class 1; it is empty if data.positive names it."""

    label: str
    negative: str
    positive: str
    reason: str = ""

    @property
    def mapping(self) -> dict[str, int]:
        """Value of the label -> class."""
        return {self.negative: 0, self.positive: 1}

    def __str__(self) -> str:
        """Return which value of the label the model predicts, and the setting that decides it."""
        reason = f": {self.reason}" if self.reason else ""
        return f"{shown(self.label)} = {shown(self.positive)} (data.positive{reason})"


def choose_classes(label: str, counts: Mapping[str, int], positive: str | None) -> Classes:
    """Return the two classes of a label.

    Args:
        label: the label's name in the source.
        counts: value of the label -> number of rows.
        positive: the value to predict (data.positive). None: the larger of two numbers, the second value of a known
            pair, else the rarer value.

    Raises:
        BadData: the label doesn't have two classes, `positive` is not one of them, or `positive` is None and neither
            value is clearly the rarer one.
    """
    name, label = label, shown(label)
    values = sorted(counts, key=lambda v: (_as_number(v) is None, _as_number(v) or 0, v.casefold(), v))
    if len(values) == 1:
        raise BadData(
            f"Label {label} has only one class, {shown(values[0])}, but a classifier needs two. "
            "Add rows of the other class."
        )
    if len(values) > CLASSES_SHOWN:
        examples = ", ".join(map(shown, values[:3]))
        raise BadData(
            f"Label {label} has more than {CLASSES_SHOWN} values ({examples}, ...), so it looks like a "
            "continuous number or free text. Set data.label to a column with two classes."
        )
    if len(values) > 2:
        raise BadData(
            f"Label {label} has {len(values)} classes ({listed(values, CLASSES_SHOWN)}), but this pipeline needs "
            "two. Merge classes, or set data.label to another column."
        )
    if positive is None:
        return _default(name, values, counts)
    if positive in ("True", "False") and positive not in values:
        positive = json.dumps(positive == "True")  # "True" of YAML becomes "true", as in the data
    if (positive := plain_number(unicodedata.normalize("NFC", positive))) not in values:
        raise BadData(
            f"data.positive: label {label} has no value {quoted(positive)}. "
            f"Set data.positive to {shown(values[0])} or {shown(values[1])}."
        )
    return Classes(name, values[positive == values[0]], positive)


def _default(label: str, values: list[str], counts: Mapping[str, int]) -> Classes:
    """Return the classes if data.positive is null. `values` are the two values of the label, sorted."""
    if all(_as_number(value) is not None for value in values):
        return Classes(label, values[0], values[1], "the larger number")
    if (values[0].casefold(), values[1].casefold()) in KNOWN_PAIRS:
        return Classes(label, values[0], values[1], f"of {shown(values[0])} and {shown(values[1])}")
    common, rarer = sorted(values, key=lambda value: -counts[value])
    share = counts[rarer] / (counts[rarer] + counts[common])
    if share > RARER:
        raise BadData(
            f"data.positive: label {shown(label)} has {shown(common)} ({_percent(1 - share)} of the rows) and "
            f"{shown(rarer)} ({_percent(share)}), so neither is clearly rarer. "
            f"Set data.positive to {shown(rarer)} or {shown(common)}."
        )
    return Classes(label, common, rarer, f"the rarer value, {_percent(share)} of the rows")


def _percent(share: float) -> str:
    return f"{100 * share:.3g}%"


def _as_number(value: str) -> float | None:
    try:
        return float(value)
    except ValueError:
        return None
