"""The label of a source: a number, or two classes, of which the model predicts one (class 1)."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from ml_pipelines.config.schema import ProblemKind
from ml_pipelines.data.cells import plain_number
from ml_pipelines.data.columns import Profile, spelling_advice
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
    problem = ProblemKind.binary
    record = "class_1"  # the entry of columns.json that has the text of `str`

    @property
    def mapping(self) -> dict[str, int]:
        """Value of the label -> class."""
        return {self.negative: 0, self.positive: 1}

    def __str__(self) -> str:
        """Return which value of the label the model predicts, and the setting that decides it."""
        reason = f": {self.reason}" if self.reason else ""
        return f"{shown(self.label)} = {shown(self.positive)} (data.positive{reason})"

    @property
    def summary(self) -> str:
        """What the line of prepare_data says about the label."""
        return f"class 1 is {self}"


@dataclass(frozen=True)
class Number:
    """A label that is a number. `reason` says which fact showed that; it is empty if only data.problem did."""

    label: str
    reason: str = ""
    problem = ProblemKind.regression
    record = "target"

    @property
    def mapping(self) -> dict[str, int]:
        """Empty: a number has no classes."""
        return {}

    def __str__(self) -> str:
        """Return the label, and the setting that decides that it is a number."""
        reason = f": {self.reason}" if self.reason else ""
        return f"{shown(self.label)} (data.problem{reason})"

    @property
    def summary(self) -> str:
        """What the line of prepare_data says about the label."""
        return f"predicts the number {self}"


def choose_label(
    profile: Profile,
    counts: Mapping[str, int],
    problem: ProblemKind,
    positive: str | None,
    examples: Callable[[str], Sequence[str]],
) -> Classes | Number:
    """Return what a label is: as `problem` says, or by its values.

    A label with more than CLASSES_SHOWN values is a number if most of its cells are numbers.

    Args:
        profile: the statistics of the label's column.
        counts: value of the label -> number of rows; it may lack values beyond the first CLASSES_SHOWN + 1.
        problem: data.problem.
        positive: data.positive.
        examples: returns some cells with a problem; the problems are those of `cells.bad_cells`.

    Raises:
        BadData: the label is neither a number nor two classes, or not what `problem` says.
    """
    is_number = profile.kind != "boolean" and 2 * profile.numbers > profile.present
    many = is_number and len(counts) > CLASSES_SHOWN and positive is None
    if problem is ProblemKind.binary or (problem is ProblemKind.auto and not many):
        return choose_classes(profile.source, counts, positive)
    name = shown(profile.source)
    if positive is not None:
        raise BadData(f"data.positive: a number has no classes. Remove data.positive={shown(positive)}.")
    _check_number(profile, examples)
    if len(counts) == 1:
        raise BadData(f"Label {name} has the value {shown(next(iter(counts)))} in all rows, so it can't be predicted.")
    return Number(profile.source, f"{name} has more than {CLASSES_SHOWN} values" if many else "")


def _check_number(profile: Profile, examples: Callable[[str], Sequence[str]]) -> None:
    """Raise BadData if a label that must be a number has text, infinite values, or values beyond a 32-bit float."""
    kinds = (("text", profile.present - profile.numbers, "not numbers"), ("infinite", profile.infinite, "infinite"))
    for cells, count, what in (*kinds, ("beyond", profile.beyond, "beyond the range of a 32-bit float, 3.4e38")):
        if count:
            texts = examples(cells)
            advice = "Correct them, or name them in data.null_values." if cells == "text" else "Correct them."
            advice = f"{spelling_advice(texts)}." if cells == "text" and profile.marked else advice
            raise BadData(
                f"Label {shown(profile.source)}: {count} of {profile.present} values are {what} "
                f"({', '.join(map(quoted, texts))}), but the label is a number (data.problem). {advice}"
            )


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
            f"Label {label} has more than {CLASSES_SHOWN} values ({examples}, ...), so it looks like a continuous "
            "number or free text. Set data.label to a column with two classes, or data.problem=regression for a number."
        )
    if len(values) > 2:
        number = ", or set data.problem=regression to predict the number" if _are_numbers(values) else ""
        raise BadData(
            f"Label {label} has {len(values)} classes ({listed(values, CLASSES_SHOWN)}), but this pipeline needs "
            f"two. Merge classes, or set data.label to another column{number}."
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
    if _are_numbers(values):
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


def _are_numbers(values: Sequence[str]) -> bool:
    return all(_as_number(value) is not None for value in values)


def _percent(share: float) -> str:
    return f"{100 * share:.3g}%"


def _as_number(value: str) -> float | None:
    try:
        return float(value)
    except ValueError:
        return None
