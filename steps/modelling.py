"""What more than one step needs: features apart from the label, checks before any fit, metrics."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ml_pipelines.context import BadData

if TYPE_CHECKING:
    import numpy as np
    import polars as pl

FLOAT32_MAX = 3.4028234663852886e38  # scikit-learn's trees work in 32 bits at their edges


def split_label(frame: pl.DataFrame, label: str, features: Sequence[str]) -> tuple[pl.DataFrame, pl.Series]:
    """Return the features and the label (as integers) of a table, checked.

    Raises:
        BadData: no rows, a label that isn't 0 or 1, one class, a feature that no estimator takes.
    """
    if frame.is_empty():
        raise BadData("The table has 0 rows.")
    target = frame[label]
    if target.null_count():
        raise BadData(f"Label {label}: {target.null_count()} of {frame.height} rows have none.")
    if str(target.dtype) == "String":
        raise BadData(f"Label {label} is of type String; 0 and 1 are needed.")
    classes = sorted(target.unique().to_list())
    if classes != [0, 1]:
        shown = ", ".join(map(str, classes[:5]))
        raise BadData(f"Label {label} has the values {shown}; both 0 and 1 are needed, and nothing else.")
    for name in features:
        _check_feature(frame[name])
    return frame.select(features), target.cast(int)


def _check_feature(column: pl.Series) -> None:
    if column.null_count() == len(column):
        raise BadData(f"Feature {column.name} is empty in all {len(column)} rows. Add it to data.drop.")
    kind = column.dtype
    if not (kind.is_integer() or kind.is_float() or str(kind) in ("String", "Boolean")):
        raise BadData(
            f"Feature {column.name} is of type {kind}; only integers, floats, booleans and text are features."
        )
    if column.dtype.is_float():
        wrong = column.is_not_null() & ((column.abs() > FLOAT32_MAX) | column.is_nan())
        if bad := int(wrong.sum()):
            raise BadData(
                f"Feature {column.name}: {bad} of {len(column)} values are infinite, NaN or beyond a 32-bit float "
                f"({column.filter(wrong)[0]})."
            )


def positive_score(model: Any, features: pl.DataFrame) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Return the estimator's probability of class 1 for each row, shape (rows,).

    Raises:
        BadData: a column is text that the model learned as a number, or the other way round.
    """
    _check_types(model, features)
    scores: np.ndarray[Any, np.dtype[np.float64]] = model.predict_proba(features)[:, 1]
    return scores


def _check_types(model: Any, features: pl.DataFrame) -> None:
    """Hold the columns to what the encoder learned: numbers would all be categories that it has never seen."""
    learned = {True: "text", False: "a number"}
    encoder = getattr(model, "named_steps", {}).get("encode")  # as steps/train.py makes it; another model has its own
    for kind, _, names in encoder.transformers_ if encoder else []:
        for name in names if kind in ("category", "number") else []:
            is_text = str(features[name].dtype) == "String"
            if is_text != (kind == "category"):
                raise BadData(
                    f"Column {name} is {learned[is_text]}, and the model learned it as {learned[not is_text]}."
                )


def refit(model: Any, features: pl.DataFrame, label: pl.Series, seed: int) -> Any:
    """Return a fitted copy of a pipeline: on these rows, and with this seed where its estimator takes one."""
    from sklearn.base import clone

    again = clone(model)
    if "random_state" in again[-1].get_params():
        again[-1].set_params(random_state=seed)
    return again.fit(features, label.to_numpy())


def score_metrics(label: pl.Series, score: np.ndarray[Any, np.dtype[np.float64]], prefix: str) -> dict[str, float]:
    """Return the metrics of scores that need no threshold: AUC, average precision, log loss, Brier score."""
    from sklearn import metrics

    truth = label.to_numpy()
    return {
        f"{prefix}_auc": float(metrics.roc_auc_score(truth, score)),
        f"{prefix}_average_precision": float(metrics.average_precision_score(truth, score)),
        f"{prefix}_log_loss": float(metrics.log_loss(truth, score)),
        f"{prefix}_brier": float(metrics.brier_score_loss(truth, score)),
    }
