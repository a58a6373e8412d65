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

CELLS = 4_000_000  # encoded rows x columns that are explained at once, to bound the memory


def make_explainer(model: Any) -> Any:
    """Return SHAP's explainer of the pipeline's estimator. SHAP raises its own errors for other kinds of estimators."""
    import shap

    return shap.TreeExplainer(model[-1])


def reasons(model: Any, features: pl.DataFrame, count: int) -> pa.ListArray:
    """Return for each row the `count` columns that moved its score most, the strongest first.

    Args:
        model: a pipeline of `encode` and an estimator of trees.
        features: the rows, with the columns that the model takes.
        count: how many columns to return; fewer if the model takes fewer.

    Returns:
        A list for each row of structs with the `name` of the column and the `value` that it added to the score, on the
        scale of the estimator's trees. All values of a row and the explainer's `expected_value` sum to the row's score.
    """
    import numpy as np
    import pyarrow as pa

    values = shap_values(model, features)
    order = np.argsort(-np.abs(values), axis=1, kind="stable")[:, :count]
    names = pa.array(list(model.feature_names_in_), pa.string()).take(pa.array(order.ravel()))
    chosen = pa.array(np.take_along_axis(values, order, axis=1).ravel(), pa.float64())
    structs = pa.StructArray.from_arrays([names, chosen], ["name", "value"])
    offsets = np.arange(len(values) + 1, dtype=np.int32) * order.shape[1]
    return pa.ListArray.from_arrays(pa.array(offsets), structs)


def shap_values(model: Any, features: pl.DataFrame) -> Array:
    """Return the SHAP values for class 1, shape (rows, columns that the model takes).

    The values of the columns that the encoder made of a column are summed.
    """
    import numpy as np

    origins = origins_of(model)
    parts = np.zeros((features.height, len(model.feature_names_in_)))
    explainer, step = make_explainer(model), max(1, CELLS // len(origins))
    for start in range(0, features.height, step):
        values = np.asarray(explainer.shap_values(model[:-1].transform(features.slice(start, step))))
        values = values[..., 1] if values.ndim == 3 else values  # forests have values for each class
        for position, origin in enumerate(origins):
            parts[start : start + step, origin] += values[:, position]
    return parts


def origins_of(model: Any) -> list[int]:
    """Return for each encoded column the position of the column that it was made of, in the model's features."""
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
