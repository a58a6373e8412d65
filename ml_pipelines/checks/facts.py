"""Facts: the values that quality checks take as parameters. Each fact is computed when a check first needs it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from ml_pipelines.authoring.context import StepContext
from ml_pipelines.checks import drift, slices
from ml_pipelines.checks.champion_facts import ChampionFacts
from ml_pipelines.checks.table_facts import GateInputs
from ml_pipelines.errors import BadData, PipelineError
from ml_pipelines.modelling.features import key_codes, refit, score_table, split_label
from ml_pipelines.problems.calibration import Calibration, calibration
from ml_pipelines.problems.intervals import Interval
from ml_pipelines.text import listed

if TYPE_CHECKING:
    import polars as pl

    from ml_pipelines.data.origin import Origin


DRIFT_ROWS = 50_000  # drift is measured on about this many rows: with more rows, PSI changes by less than 0.01


class Facts(ChampionFacts):
    """Facts about the model, its tables and the champion."""

    def __init__(
        self, step: StepContext[Any], inputs: GateInputs, level: float, slices: Sequence[str], slice_rows: int
    ) -> None:
        super().__init__(step, inputs, level)
        self._slices, self._slice_rows = slices, slice_rows

    # -- facts about the model

    @cached_property
    def has_signature(self) -> bool:
        """Whether the logged model has a signature."""
        return self._step.has_signature(self._inputs.train_run_id)

    @cached_property
    def intervals(self) -> dict[str, Interval]:
        """Metric -> its value on the test table, with its interval."""
        predicted = self._predictions["predicted"].to_numpy()
        return self.problem.intervals(self.label, self.score, predicted, self._level, self._keys)

    @property
    def headline(self) -> Interval:
        """The headline metric on the test table."""
        return self.intervals[self.problem.HEADLINE]

    @property
    def test_headline(self) -> float:
        """The headline metric on the test table, as the step evaluate returned it."""
        return self._inputs.test_headline

    @cached_property
    def baseline_gain(self) -> Interval:
        """The baseline's loss minus the model's. The baseline scores each row with the training table's mean label."""
        return self.problem.loss_gain(self.label, self.score, self._baseline, self._level, self._keys)

    def calibrated(self, bins: int) -> Calibration:
        """Return how well the scores of the test table agree with its labels."""
        return calibration(self.label, self.score, bins, self._level, self._keys)

    @cached_property
    def train_headline(self) -> float:
        """The headline metric on the training table, as the step train logged it."""
        return self._step.load_metrics(self._inputs.train_run_id)[f"train_{self.problem.HEADLINE}"]

    @cached_property
    def importances(self) -> Mapping[str, float]:
        """Column -> loss in the headline metric if the column is shuffled, as the step feature_importance logged it."""
        table = self._step.load_table(self._inputs.feature_importance_run_id, "feature_importance.json")
        return dict(table.select("feature", "importance").iter_rows())

    # -- facts about the columns and slices of the tables

    @cached_property
    def _origin(self) -> Origin:
        return self._step.origin(self._inputs.train_uri)

    def removal(self, column: str) -> str:
        """Return the advice for removing a feature: `set data.drop=[bwt]`."""
        return self._origin.removal(column)

    @cached_property
    def singles(self) -> Mapping[str, float]:
        """Column -> how well this column alone predicts the label."""
        label = self._predictions["label"]
        return {name: self.problem.single_column(self._test[name], label) for name in self._names}

    @cached_property
    def slices(self) -> list[slices.Slice]:
        """The slices of the declared columns."""
        if not self._slices:
            return []
        ours = {source: name for name, source in self._origin.sources.items()}
        names = [name if name in self._names else ours.get(name, name) for name in self._slices]
        if unknown := set(names) - set(self._names):
            raise BadData(
                f"steps.model_qa.params.slices: the test table has no feature {listed(sorted(unknown))}. "
                f"Its features are {listed(self._names)}."
            )
        version = f"version {self.champion.version}" if self.champion else ""
        predicted = self._predictions["predicted"].to_numpy()
        table = slices.Predictions(
            self.label, self.score, predicted, self._keys, self.champion_score, version, self.kind, self.unit
        )
        columns = [self._test[name] for name in dict.fromkeys(names)]
        return slices.measure(columns, table, self._level, self._slice_rows)

    @cached_property
    def train_test(self) -> list[dict[str, Any]]:
        """The drift of each column from the training table to the test table."""
        key = self._step.key_column
        return drift.measure(_sample(self._train, key), _sample(self._test, key), self._names)

    @cached_property
    def since_champion(self) -> drift.Comparison:
        """The drift of the common columns from the champion's training table to the training table of this model."""
        step, version = self._step, self._champion_version
        if version is None:
            return drift.Comparison(problem="the model has no champion yet")
        uri = version.tags.get("train_uri")
        if uri is None:
            return drift.Comparison(problem=f"nobody recorded the training table of version {version.version}")
        if uri == self._inputs.train_uri:
            return drift.Comparison(problem=f"version {version.version} has the same training table")
        try:
            theirs = [name for name in step.table_columns(uri) if name not in (step.label, step.key_column)]
            common = [name for name in self._names if name in set(theirs)]
            reference = self._with_key(uri, common)
        except PipelineError as error:
            problem = f"the training table of version {version.version} can't be read: {error}"
            return drift.Comparison(problem=problem.rstrip("."))
        only_before, only_now = ([n for n in names if n not in set(common)] for names in (theirs, self._names))
        if not (common and reference.height):
            lack = "no rows" if common else "no column in common with this one"
            problem = f"the training table of version {version.version} has {lack}"
            return drift.Comparison((), (0, 0), only_before, only_now, problem)
        old, new = (_sample(table, step.key_column) for table in (reference, self._train))
        return drift.Comparison(drift.measure(old, new, common), (old.height, new.height), only_before, only_now)

    # -- for checks that are off by default

    def refit(self, seed: int, rows: int) -> float:
        """Fit the model again on a bootstrap sample of about `rows` training rows; return its headline metric on test.

        The seed decides the sample, and the estimator gets it too. Rows with the same key are drawn together.
        """
        model = self._step.load_model(self._inputs.train_run_id)
        sample = _resampled(self._train, self._step.key_column, rows, seed)
        refitted = refit(model, *split_label(sample, self._step.label, self._names, self.problem), seed)
        return self.problem.headline(self.label, score_table(refitted, self._test.select(self._names), self.problem))

    @cached_property
    def _model(self) -> Any:
        return self._step.load_model(self._inputs.train_run_id)

    def predict(self, rows: int) -> object:
        """Return the model's scores of the first `rows` rows of the test table."""
        return score_table(self._model, self._test.select(self._names).head(rows), self.problem)


def _sample(table: pl.DataFrame, key: str | None) -> pl.DataFrame:
    """Return every n-th row of a table, with n such that about DRIFT_ROWS rows remain.

    If keys repeat, return one row of each key, at random: a test takes all rows to be independent.
    """
    import numpy as np

    table = table.gather_every(max(1, table.height // DRIFT_ROWS))
    if key not in table.columns:
        return table
    order = np.random.default_rng(0).permutation(table.height)
    kept = np.unique(key_codes(table[key])[order], return_index=True)[1]
    return table if len(kept) == table.height else table[np.sort(order[kept])]


def _resampled(table: pl.DataFrame, key: str | None, rows: int, seed: int) -> pl.DataFrame:
    """Return a table of keys that are drawn with replacement, each with all its rows: about `rows` rows in all."""
    import numpy as np
    import polars as pl

    codes = key_codes(table[key]) if key in table.columns else np.arange(table.height)
    keys = int(codes.max()) + 1
    count = max(1, round(keys * min(1.0, rows / table.height)))
    drawn = pl.DataFrame({"drawn": np.random.default_rng(seed).integers(keys, size=count)})
    return drawn.join(table.with_columns(drawn=pl.Series(codes.astype(np.int64))), on="drawn").drop("drawn")
