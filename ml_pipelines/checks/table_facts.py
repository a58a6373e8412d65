"""The tables of the quality gate, as its facts use them: labels, scores, keys and columns."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from ml_pipelines.authoring.context import StepContext
from ml_pipelines.checks.verdicts import Sample
from ml_pipelines.errors import BadData
from ml_pipelines.modelling.features import key_codes
from ml_pipelines.problems.problem import Problem, problem_of

if TYPE_CHECKING:
    import polars as pl

    from ml_pipelines.checks.quality_checks import Array


@dataclass(frozen=True)
class GateInputs:
    """The inputs of the quality gate: the tables, the runs of earlier steps, and evaluate's headline metric."""

    train_uri: str
    test_uri: str
    train_run_id: str
    evaluate_run_id: str
    feature_importance_run_id: str
    test_headline: float


class TableFacts:
    """The training table, and the test table with evaluate's predictions."""

    def __init__(self, step: StepContext[Any], inputs: GateInputs, level: float) -> None:
        self._step, self._inputs, self._level = step, inputs, level
        self.kind = step.origin(inputs.train_uri).problem
        self.problem = problem_of(self.kind)

    @cached_property
    def _predictions(self) -> pl.DataFrame:
        return self._step.load_table(self._inputs.evaluate_run_id, "predictions.parquet")

    @cached_property
    def label(self) -> Array:
        """The label of each row of the test table."""
        return self._predictions["label"].to_numpy()

    @cached_property
    def score(self) -> Array:
        """The model's score of each row of the test table."""
        return self._predictions["score"].to_numpy()

    @cached_property
    def _keys(self) -> Array | None:
        """The key of each row of the test table as a number; None if no key occurs twice, or the rows have no key."""
        if "key" not in self._predictions.columns:
            return None
        codes = key_codes(self._predictions["key"])
        return codes if codes.max() + 1 < len(codes) else None

    @cached_property
    def sample(self) -> Sample:
        """The number of rows of the test table, or of its keys if keys repeat."""
        return sample_of(self.problem, self.label, self._keys)

    @cached_property
    def rows_digest(self) -> str:
        """A digest of the test rows: their keys and labels, whatever their features are."""
        names = [name for name in ("key", "label") if name in self._predictions.columns]
        rows = zip(*(self._predictions[name].to_list() for name in names), strict=True)
        return hashlib.sha256("\n".join(map(repr, rows)).encode(errors="surrogatepass")).hexdigest()

    @cached_property
    def _names(self) -> list[str]:
        return self._step.feature_columns(self._inputs.test_uri)

    @cached_property
    def _test(self) -> pl.DataFrame:
        """The test table. Its rows have the order of evaluate's predictions, because evaluate read the same columns."""
        step, uri = self._step, self._inputs.test_uri
        table = self._with_key(uri, [*self._names, step.label])
        if not self.problem.check_label(table[step.label]).equals(self._predictions["label"]):
            raise BadData(
                f"The predictions of run {self._inputs.evaluate_run_id} don't belong to the rows of table {uri}."
            )
        return table

    @cached_property
    def _train(self) -> pl.DataFrame:
        return self._with_key(self._inputs.train_uri, [*self._names, self._step.label])

    def _with_key(self, uri: str, names: Sequence[str]) -> pl.DataFrame:
        """Return these columns of a table, and its key if it has one."""
        key = [self._step.key_column] if self._step.key_column in self._step.table_columns(uri) else []
        return self._step.read(uri, [*key, *names])

    @cached_property
    def _baseline(self) -> Array:
        """The score that the baseline gives each row of the test table: the mean label of the training table."""
        import numpy as np

        return np.full(len(self.label), self._train[self._step.label].mean())

    @cached_property
    def unit(self) -> float:
        """The unit of margins on the test table: see `Problem.unit`."""
        return self.problem.unit(self.label, self._baseline)


def sample_of(problem: Problem, label: Array, keys: Array | None) -> Sample:
    """Return how many rows these are (or keys, if keys repeat), and about how many an interval needs."""
    import numpy as np

    count = len(label) if keys is None else len(np.unique(keys))
    evidence = problem.evidence(label, keys)
    least = math.ceil(count * problem.FEWEST / evidence) if evidence else None
    return Sample(count, "test rows" if keys is None else "keys in the test table", least, problem.EVIDENCE)
