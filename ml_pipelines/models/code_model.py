"""The registered model as MLflow loads it, for `mlflow models serve`, `mlflow.pyfunc.load_model` and Spark functions.

`log_model` copies this file into each model ("model from code"), next to `cells.py`, the skops file and the facts about
the model. A serving environment lacks this package, so the file imports no module of ml_pipelines. The pipeline's own
steps never run it: whoever can write to the store can change it. They load the skops file by its digest.
"""

from __future__ import annotations

import importlib.util
import json
import sys
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mlflow
import pandas as pd  # MLflow evaluates the types of `predict`
from mlflow.exceptions import MlflowException
from mlflow.pyfunc import PythonModel

if TYPE_CHECKING:
    import polars as pl
    import pyarrow as pa

EXAMPLES = 3  # a message shows at most this many values


class ScoredRows(PythonModel):  # type: ignore[misc]
    """A model that returns `score` and, if its label has classes, `prediction` for each row."""

    def load_context(self, context: Any) -> None:
        """Load the facts about the model, and the estimator from its skops file, trusting the types the facts list."""
        import skops.io

        folder = Path(__file__).parent
        self.facts = json.loads((folder / "model.json").read_text(encoding="utf-8"))
        self.estimator = skops.io.load(folder / "model.skops", trusted=self.facts["trusted_types"])
        self.cells = _load_module(folder / "cells.py")
        self.classes = sorted(self.facts["label"], key=self.facts["label"].get)

    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """Return `score`, the probability of class 1, and `prediction`, a value of the label, for each row.

        If the label is a number, `score` is the predicted number, and there is no `prediction`.

        Args:
            context: not used; MLflow passes it.
            model_input: the features, as the training table has them; numbers may be of any type.
            params: `threshold` replaces the model's threshold.

        Raises:
            MlflowException: a column holds text where the model learned numbers, or the reverse, or a number is
                infinite or beyond a 32-bit float, or the threshold is not from 0 to 1.
        """
        if not self.classes:
            numbers = self.estimator.predict(self._features(model_input)).astype(float).ravel()
            return pd.DataFrame({"score": numbers}, index=model_input.index)
        threshold = (params or {}).get("threshold", self.facts["threshold"])
        if not 0 <= threshold <= 1:
            raise MlflowException.invalid_parameter_value(f"threshold: {threshold} is not from 0 to 1.")
        score = self.estimator.predict_proba(self._features(model_input))[:, 1].astype(float)
        prediction = [self.classes[int(positive)] for positive in score >= threshold]
        return pd.DataFrame({"score": score, "prediction": prediction}, index=model_input.index)

    def _features(self, rows: pd.DataFrame) -> pl.DataFrame:
        import polars as pl

        spelling = self.cells.Spelling(tuple(self.facts.get("null_values", ())))
        columns = {name: self._column(name, kind, rows[name], spelling) for name, kind in self.facts["columns"].items()}
        return pl.DataFrame({name: pl.Series(values) for name, values in columns.items()})

    def _column(self, name: str, kind: str, values: pd.Series, spelling: Any) -> pa.Array:
        """Return a column as Arrow text, float64 or float32, with null for each cell that means "missing"."""
        import pyarrow as pa
        import pyarrow.compute as pc

        try:
            cells = self.cells.clean(pa.array(values, from_pandas=True), spelling)
        except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
            problem = f"Column {name!r} mixes kinds of values, such as text and numbers. Send one kind."
            raise MlflowException.invalid_parameter_value(problem) from error
        if kind == "string":
            if cells.null_count < len(cells) and not self.cells.is_text(cells.type):
                raise _wrong(
                    name,
                    cells.drop_null(),
                    "the model learned text, but the rows have numbers, which may have lost zeros",
                    'Send JSON with text, such as "007".',
                )
            return cells.cast(pa.string())
        numbers = self.cells.numbers(cells, spelling)
        text = pc.and_(pc.is_null(numbers), pc.is_valid(cells))
        if pc.any(text).as_py():
            raise _wrong(name, cells.filter(text), "the model learned numbers, but the rows have text", "Correct them.")
        beyond = pc.greater(pc.abs(numbers), self.cells.FLOAT32_MAX)
        if pc.any(beyond).as_py():
            problem = "values are infinite or beyond the range of a 32-bit float"
            raise _wrong(name, numbers.filter(beyond), problem, "Correct them.")
        return numbers.cast(pa.float32() if kind == "float" else pa.float64())


def _wrong(name: str, values: pa.Array, problem: str, advice: str) -> MlflowException:
    """Return the error for a column's values: which column, what is wrong, how often, some examples, what to do."""
    examples = ", ".join(repr(value)[:80] for value in values[:EXAMPLES].to_pylist())
    return MlflowException.invalid_parameter_value(f"Column {name!r}: {problem} ({len(values)}: {examples}). {advice}")


def _load_module(path: Path) -> Any:
    """Import a file under a unique module name: two models in one process may have different versions of it."""
    name = f"{path.stem}_{uuid.uuid4().hex}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise MlflowException.invalid_parameter_value(f"{path} can't be imported.")
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


mlflow.models.set_model(ScoredRows())
