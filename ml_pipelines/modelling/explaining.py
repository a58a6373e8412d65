"""Explains scores in Spark's Python workers: which columns moved the score of a row most, by SHAP's TreeExplainer.

Spark sends this module to the workers by value, because a remote worker can lack this package. So it imports no other
module of ml_pipelines.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import polars as pl
    import pyarrow as pa

    Array = np.ndarray[Any, np.dtype[Any]]

# SHAP's word for the scale of an estimator's trees -> ours
CLASS_SCALES: dict[str | None, str] = {"log_odds": "log-odds of class 1", "probability": "probability of class 1"}
SCALES = {**CLASS_SCALES, "raw_value": "predicted number", None: "predicted number"}  # None: of CatBoost
TOLERANCE = 1e-3  # how far a row's sum may be from its score: a probability, or a share of the range of the numbers
CELLS = 4_000_000  # encoded rows x columns that are explained at once, to bound the memory


def make_explainer(model: Any) -> Any:
    """Return SHAP's explainer of the pipeline's estimator. SHAP raises errors of any type if it can't explain it.

    Raises:
        ValueError: SHAP would explain the estimator wrongly.
    """
    import shap

    if getattr(model[-1], "is_categorical_", None) is not None:  # SHAP reads the splits of scikit-learn as numbers
        raise ValueError("SHAP does not know scikit-learn's native categories")
    explainer = shap.TreeExplainer(model[-1])
    if explainer.model.tree_output not in (CLASS_SCALES if hasattr(model[-1], "predict_proba") else SCALES):
        raise ValueError(f"the scale {explainer.model.tree_output} of its trees is unknown")
    return explainer


def reasons(model: Any, features: pl.DataFrame, score: Array, count: int) -> pa.ListArray:
    """Return for each row the `count` columns that moved its score most, the strongest first.

    Args:
        model: a pipeline of `encode` and an estimator of trees.
        features: the rows, with the columns that the model takes.
        score: the model's score of each row, shape (rows,).
        count: how many columns to return; fewer if the model takes fewer.

    Returns:
        A list for each row of structs with the `name` of the column and the `value` that it added to the score, on the
        scale of the estimator's trees. On this scale, the values of all columns plus a base value, which is the
        same for all rows, sum to the row's score.

    Raises:
        ValueError: the values do not sum to the scores.
    """
    import numpy as np
    import pyarrow as pa

    explainer = make_explainer(model)
    values = shap_values(explainer, model, features)
    _check_sums(values.sum(axis=1), score, explainer.model.tree_output)
    order = np.argsort(-np.abs(values), axis=1, kind="stable")[:, :count]
    names = pa.array(list(model.feature_names_in_), pa.string()).take(pa.array(order.ravel()))
    chosen = pa.array(np.take_along_axis(values, order, axis=1).ravel(), pa.float64())
    structs = pa.StructArray.from_arrays([names, chosen], ["name", "value"])
    offsets = np.arange(len(values) + 1, dtype=np.int32) * order.shape[1]
    return pa.ListArray.from_arrays(pa.array(offsets), structs)


def _check_sums(sums: Array, score: Array, scale: str) -> None:
    """Raise ValueError unless the sums differ from the scores, on this scale, by one constant for all rows."""
    import numpy as np

    with np.errstate(divide="ignore", over="ignore"):
        wanted = np.log(score / (1 - score)) if scale == "log_odds" else score
        known = np.isfinite(wanted)
        sums = sums + (np.median((wanted - sums)[known]) if known.any() else 0)
        found = 1 / (1 + np.exp(-sums)) if scale == "log_odds" else sums
    size = 1.0 if scale in CLASS_SCALES else np.maximum(np.abs(score), np.ptp(score))
    if (np.abs(found - score) > TOLERANCE * size)[known].any():
        raise ValueError("score.reasons: the values of SHAP do not sum to the scores, so they are not reported")


def shap_values(explainer: Any, model: Any, features: pl.DataFrame) -> Array:
    """Return the SHAP values for class 1, or for the number, shape (rows, columns that the model takes).

    If the encoder made several columns of one (one-hot), their values are summed.
    """
    import numpy as np

    origins = origins_of(model)
    parts = np.zeros((features.height, len(model.feature_names_in_)))
    step = max(1, CELLS // len(origins))
    for start in range(0, features.height, step):
        values = np.asarray(explainer.shap_values(model[:-1].transform(features.slice(start, step))))
        values = values[..., 1] if values.ndim == 3 else values  # forests have values for each class
        for position, origin in enumerate(origins):
            parts[start : start + step, origin] += values[:, position]
    return parts


def origins_of(model: Any) -> list[int]:
    """Return for each encoded column the position, among the model's features, of the column it was made from."""
    names, encoder = list(model.feature_names_in_), model[0]
    origins = []
    for kind, part, columns in encoder.transformers_:
        place = encoder.output_indices_[kind]
        is_one_hot = place.stop - place.start > len(columns)  # then its last step is the OneHotEncoder
        widths = [len(values) for values in part[-1].categories_] if is_one_hot else [1] * len(columns)
        origins += [names.index(column) for column, width in zip(columns, widths, strict=True) for _ in range(width)]
    return origins


def send_by_value() -> None:
    """Make Spark send this module to its workers by value."""
    from pyspark import cloudpickle

    cloudpickle.register_pickle_by_value(sys.modules[__name__])  # type: ignore[no-untyped-call]
