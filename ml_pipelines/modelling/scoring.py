"""Counts and scores the rows of a batch, in Spark's Python workers.

Spark sends this module to the workers by value, because a remote worker can lack this package. So it imports no other
module of ml_pipelines.
"""

from __future__ import annotations

import hashlib
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import polars as pl
    import pyarrow as pa

GATHERED = 65_536  # rows that are scored at once; engines pass far fewer, and each call of a model has a fixed cost
FLOAT32_MAX = 3.4028234663852886e38  # as in data/cells.py
COUNTS = ("wrong", "missing", "unseen", "outside")
MOST_LOADED = 2  # models in the memory of a process: the model and its shadow
LOADED = "_ml_pipelines_models"  # the entry of sys.modules that holds the models which a process has loaded


def count_oddities(
    batches: Iterable[pa.RecordBatch],
    categories: Mapping[str, Sequence[str]],
    ranges: Mapping[str, tuple[float, float]],
) -> Iterator[pa.RecordBatch]:
    """Yield one batch with a row for each column of the input, which counts the column's suspicious values.

    The row has the column's `position` and these counts:

    - `wrong`: values that no model takes: infinite, NaN, or beyond a 32-bit float.
    - `missing`: nulls.
    - `unseen`: categories that are not in `categories`.
    - `outside`: numbers outside of the column's range.

    Args:
        batches: rows with the features.
        categories: text column -> the categories that the model knows.
        ranges: number column -> the smallest and the largest value in training.
    """
    import polars as pl
    import pyarrow as pa

    totals: dict[int, Counter[str]] = {}
    for batch in batches:
        frame = pl.DataFrame(pl.from_arrow(batch))
        for position, column in enumerate(frame):
            total = totals.setdefault(position, Counter())
            total["missing"] += column.null_count()
            if column.dtype.is_float():
                total["wrong"] += int((column.is_nan() | (column.abs() > FLOAT32_MAX)).sum())
            if column.name in categories:
                total["unseen"] += int((~column.is_in(list(categories[column.name]))).sum())
            if column.name in ranges:
                low, high = ranges[column.name]
                total["outside"] += int(((column < low) | (column > high)).sum())
    columns = [pa.array(list(totals), pa.int64())]
    columns += [pa.array([total[name] for total in totals.values()], pa.int64()) for name in COUNTS]
    yield pa.RecordBatch.from_arrays(columns, ["position", *COUNTS])


class Model(NamedTuple):
    """A model that the workers load and call.

    Args:
        file: the path of the model's skops file, or only its name if Spark has sent it to the workers.
        digest: the SHA-256 of this file.
        trusted: the types that the file may contain.
        features: the columns that the model takes.
        threshold: rows with a score of at least this value are predicted as class 1.
        classes: the names of class 0 and class 1; empty if the score is a predicted number.
    """

    file: str
    digest: str
    trusted: Sequence[str]
    features: Sequence[str]
    threshold: float
    classes: Sequence[str]


class Reasons(NamedTuple):
    """How the column `reasons` is made, which explains scores.

    Args:
        explain: takes an estimator, the features of rows and their scores, and returns a list for each row.
        for_all: whether all rows are explained, or only those that are predicted as class 1.
    """

    explain: Callable[[Any, pl.DataFrame, Any], pa.ListArray]
    for_all: bool


def predict(
    batches: Iterable[pa.RecordBatch],
    models: Mapping[str, Model],
    kept: Sequence[str],
    reasons: Reasons | None = None,
) -> Iterator[pa.RecordBatch]:
    """Yield the columns `kept` of each batch, with a `score` of each model.

    A classifier also gives a column `prediction`. With `reasons`, there is a column of this name.

    Args:
        batches: rows with the columns `kept` and the features of all models.
        models: the prefix of a model's columns -> the model; empty for the main model, `shadow_` for its shadow.
        kept: the columns to keep.
        reasons: how the column `reasons` is made; it explains the scores of the main model.

    Raises:
        ValueError: a model's file is not the one whose digest was recorded.
    """
    import numpy as np
    import polars as pl
    import pyarrow as pa

    for table in gathered(batches):
        frame = pl.DataFrame(pl.from_arrow(table))
        scored = table.select(list(kept))
        for prefix, model in models.items():
            estimator, rows = load_once(model), frame.select(model.features)
            score = estimator.predict_proba(rows)[:, 1] if model.classes else estimator.predict(rows)
            score = np.asarray(score, float).ravel()
            scored = scored.append_column(f"{prefix}score", pa.array(score, pa.float64()))
            chosen = np.ones(len(score), bool)  # a predicted number has no class 1, so all rows are explained
            if model.classes:
                names, is_positive = pa.array(list(model.classes), pa.string()), score >= model.threshold
                prediction = names.take(pa.array(is_positive.astype("int32")))
                scored = scored.append_column(f"{prefix}prediction", prediction)
                chosen = is_positive | bool(reasons and reasons.for_all)
            if reasons and not prefix:
                lists = reasons.explain(estimator, rows.filter(chosen), score[chosen])
                places = pa.array(np.cumsum(chosen) - 1, pa.int64(), mask=~chosen)
                scored = scored.append_column("reasons", lists.take(places))
        yield from scored.combine_chunks().to_batches()


def gathered(batches: Iterable[pa.RecordBatch], rows: int = GATHERED) -> Iterator[pa.Table]:
    """Yield tables of at least `rows` rows, and a last one with the rest."""
    import pyarrow as pa

    waiting: list[pa.RecordBatch] = []
    for batch in batches:
        waiting.append(batch)
        if sum(map(len, waiting)) >= rows:
            yield pa.Table.from_batches(waiting)
            waiting = []
    if any(map(len, waiting)):
        yield pa.Table.from_batches(waiting)


def load_once(model: Model) -> Any:
    """Return the estimator. A process loads it only once, although each task gets a copy of this module."""
    import skops.io

    kept: Any = sys.modules.setdefault(LOADED, ModuleType(LOADED))
    lock: threading.Lock = kept.__dict__.setdefault("lock", threading.Lock())
    models: dict[str, Any] = kept.__dict__.setdefault("models", {})
    with lock:
        if model.digest not in models:
            content = _path_here(model.file).read_bytes()
            if hashlib.sha256(content).hexdigest() != model.digest:
                raise ValueError(f"the model's file {model.file} was changed: its SHA-256 differs")
            if len(models) >= MOST_LOADED:
                models.clear()
            models[model.digest] = skops.io.loads(content, trusted=list(model.trusted))
        return models[model.digest]


def _path_here(file: str) -> Path:
    """Return the path of a model's file in this worker process."""
    if "/" in file:
        return Path(file)
    from pyspark import SparkFiles

    return Path(SparkFiles.get(file))


def known_categories(model: Any) -> dict[str, list[str]]:
    """Return text column -> the categories that a model knows. Rare categories of training are not among them."""
    encoder = getattr(model, "named_steps", {}).get("encode")
    for kind, pipeline, names in encoder.transformers_ if encoder else []:
        if kind == "category":
            return dict(zip(names, (list(known) for known in pipeline[1].categories_), strict=True))
    return {}


def send_by_value() -> None:
    """Make Spark send this module to its workers by value."""
    from pyspark import cloudpickle

    cloudpickle.register_pickle_by_value(sys.modules[__name__])  # type: ignore[no-untyped-call]
