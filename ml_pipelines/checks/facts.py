"""Facts: the values that quality checks take as parameters. Each fact is computed when a check first needs it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from ml_pipelines.authoring.context import StepContext, Version
from ml_pipelines.checks import drift, measures
from ml_pipelines.checks.comparison import find_unseen_rows
from ml_pipelines.checks.quality_checks import Champion, Sample
from ml_pipelines.errors import BadData, PipelineError
from ml_pipelines.modelling.features import positive_score, refit, split_label
from ml_pipelines.modelling.keys import key_codes
from ml_pipelines.problems import binary, binary_intervals, roc_auc
from ml_pipelines.problems.calibration import Calibration, calibration
from ml_pipelines.problems.intervals import FEWEST_EVENTS, Interval, count_events
from ml_pipelines.text import listed

if TYPE_CHECKING:
    import polars as pl

    from ml_pipelines.checks.quality_checks import Array
    from ml_pipelines.data.origin import Origin


DRIFT_ROWS = 50_000  # drift is measured on about this many rows: with more rows, PSI changes by less than 0.01


@dataclass(frozen=True)
class GateInputs:
    """The inputs of the quality gate: the tables, the runs of earlier steps, and the AUC from the step evaluate."""

    train_uri: str
    test_uri: str
    train_run_id: str
    evaluate_run_id: str
    feature_importance_run_id: str
    test_auc: float


class Facts:
    """Facts about the model, its tables and the champion."""

    def __init__(
        self, step: StepContext[Any], inputs: GateInputs, level: float, slices: Sequence[str], slice_rows: int
    ) -> None:
        self._step, self._inputs = step, inputs
        self._level, self._slices, self._slice_rows = level, slices, slice_rows
        self._areas: dict[str, float] = {}  # train run -> AUC of its model on the compared rows
        self._compared: Array | None = None  # the rows on which the champion is judged, once it is; None: all

    # -- facts about the model

    @cached_property
    def has_signature(self) -> bool:
        """Whether the logged model has a signature."""
        return self._step.has_signature(self._inputs.train_run_id)

    @cached_property
    def intervals(self) -> dict[str, Interval]:
        """Metric -> its value on the test table, with its interval."""
        predicted = self._predictions["predicted"].to_numpy()
        return binary_intervals.intervals(self.label, self.score, predicted, self._level, self._keys)

    @property
    def auc(self) -> Interval:
        """The AUC on the test table."""
        return self.intervals["auc"]

    @property
    def test_auc(self) -> float:
        """The AUC on the test table, as the step evaluate returned it."""
        return self._inputs.test_auc

    @cached_property
    def baseline_gain(self) -> Interval:
        """By how much the log loss is below that of the baseline, which gives each row the training table's rate."""
        import numpy as np

        baseline = np.full(len(self.label), self._train[self._step.label].mean())
        return binary.loss_gain(self.label, self.score, baseline, self._level, self._keys)

    @cached_property
    def train_auc(self) -> float:
        """The AUC on the training table, as the step train logged it."""
        return self._step.load_metrics(self._inputs.train_run_id)["train_auc"]

    @cached_property
    def importances(self) -> Mapping[str, float]:
        """Column -> loss in AUC if the column is shuffled, as the step feature_importance logged it."""
        table = self._step.load_table(self._inputs.feature_importance_run_id, "feature_importance.json")
        return dict(table.select("feature", "importance").iter_rows())

    # -- facts about the test table: evaluate's predictions, and the columns

    @cached_property
    def _predictions(self) -> pl.DataFrame:
        return self._step.load_table(self._inputs.evaluate_run_id, "predictions.parquet")

    @cached_property
    def label(self) -> Array:
        """The label of each row of the test table."""
        return self._predictions["label"].to_numpy()

    @cached_property
    def score(self) -> Array:
        """The model's probability of class 1 for each row of the test table."""
        return self._predictions["score"].to_numpy()

    @cached_property
    def _keys(self) -> Array | None:
        """The key of each row of the test table as a number; None if no key occurs twice, or the rows have no key."""
        if "key" not in self._predictions.columns:
            return None
        codes = key_codes(self._predictions["key"])
        return codes if codes.max() + 1 < len(codes) else None

    def calibrated(self, bins: int) -> Calibration:
        """Return how well the scores of the test table agree with its labels."""
        return calibration(self.label, self.score, bins, self._level, self._keys)

    @cached_property
    def sample(self) -> Sample:
        """The number of rows of the test table, or of its keys if keys repeat."""
        count = len(self.label) if self._keys is None else int(self._keys.max()) + 1
        events = count_events(self.label, self._keys)
        least = math.ceil(count * FEWEST_EVENTS / events) if events else None
        return Sample(count, "test rows" if self._keys is None else "keys in the test table", least)

    @cached_property
    def _names(self) -> list[str]:
        return self._step.feature_columns(self._inputs.test_uri)

    @cached_property
    def _test(self) -> pl.DataFrame:
        """The test table. Its rows have the order of evaluate's predictions, because evaluate read the same columns."""
        step, uri = self._step, self._inputs.test_uri
        table = self._with_key(uri, [*self._names, step.label])
        if not table[step.label].cast(int).equals(self._predictions["label"]):
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
    def _origin(self) -> Origin:
        return self._step.origin(self._inputs.train_uri)

    def removal(self, column: str) -> str:
        """Return the advice that takes a feature away: `set data.drop=[bwt]`."""
        return self._origin.removal(column)

    @cached_property
    def single_aucs(self) -> Mapping[str, float]:
        """Column -> the AUC of this column alone."""
        label = self._predictions["label"]
        return {name: measures.single_auc(self._test[name], label) for name in self._names}

    @cached_property
    def slices(self) -> list[dict[str, Any]]:
        """The declared slices that have enough rows, each with its AUC."""
        ours = {source: name for name, source in self._origin.sources.items()} if self._slices else {}
        names = [name if name in self._names else ours.get(name, name) for name in self._slices]
        if unknown := set(names) - set(self._names):
            raise BadData(
                f"steps.model_qa.params.slices: the test table has no feature {listed(sorted(unknown))}. "
                f"Its features are {listed(self._names)}."
            )
        return [
            row
            for column in (self._test[name] for name in dict.fromkeys(names))
            for row in measures.slices_of(column, self.label, self.score, self._level, self._slice_rows, self._keys)
        ]

    @cached_property
    def train_test(self) -> list[dict[str, Any]]:
        """The drift of each column from the training table to the test table."""
        key = self._step.key_column
        return drift.measure(_sample(self._train, key), _sample(self._test, key), self._names)

    # -- facts about the champion

    @cached_property
    def _champion_version(self) -> Version | None:
        return self._step.champion()

    @cached_property
    def champion(self) -> Champion | None:
        """The champion, scored on the test table; None if no version is champion."""
        version = self._champion_version
        if version is None:
            return None
        of_version = version.name, version.version, version.run_id
        try:
            rows = self._unseen_by(version)
        except PipelineError as error:
            return Champion(*of_version, None, None, str(error))
        try:
            score = self._score_of(version.run_id)[rows]
        except PipelineError as error:
            other = "If this is another data set, set registry.model to another name."
            return Champion(*of_version, None, None, f"it can't score this table: {error} {other}")
        label, keys = self.label[rows], None if self._keys is None else self._keys[rows]
        auc = roc_auc.interval(label, score, self._level, keys)
        difference = roc_auc.compare(label, self.score[rows], score, self._level, keys)
        if math.isfinite(difference.value) and math.isnan(difference.p_value):
            return Champion(*of_version, auc, None, "all test rows of a class have the same key.")
        self._compared, self._areas[version.run_id] = rows, auc.value
        return Champion(*of_version, auc, difference, rows=None if rows.all() else int(rows.sum()))

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

    def area_of(self, version: Version) -> float | None:
        """Return a version's AUC on the rows that the champion has not seen, or None if it can't be compared."""
        champion, run_id = self.champion, version.run_id
        if run_id not in self._areas:
            if champion and run_id == champion.run_id:  # scored, but not comparable
                return None
            try:
                self._areas[run_id] = self._measured(version)
            except PipelineError:
                return None
        return self._areas[run_id]

    def _measured(self, version: Version) -> float:
        rows = slice(None) if self._compared is None else self._compared
        if version.run_id == self._inputs.train_run_id:
            return roc_auc.area(self.label[rows], self.score[rows])
        if not self._unseen_by(version)[rows].all():
            raise BadData("it can have trained on rows on which the champion is judged.")
        return roc_auc.area(self.label[rows], self._score_of(version.run_id)[rows])

    def _unseen_by(self, version: Version) -> Array:
        """Return for each row of the test table whether a version can't have trained on it."""
        return find_unseen_rows(self._identity, version.tags, self._test, self.label)

    @cached_property
    def _identity(self) -> Mapping[str, str]:
        """How the tables were split, and what their classes mean."""
        return self._step.identity(self._inputs.train_uri)

    def _score_of(self, train_run_id: str) -> Array:
        model = self._step.load_model(train_run_id)
        names = list(model.feature_names_in_)
        if lost := [name for name in names if name not in self._names]:
            raise BadData(f"it takes columns that the test table does not have ({listed(lost, most=5)}).")
        return positive_score(model, self._test.select(names))

    # -- for checks that are off by default

    def refit(self, seed: int, rows: int) -> float:
        """Fit the model again, with `seed`, on a sample of the training table, and return its test AUC."""
        model = self._step.load_model(self._inputs.train_run_id)
        sample = self._train.sample(min(rows, self._train.height), seed=seed)
        refitted = refit(model, *split_label(sample, self._step.label, self._names), seed)
        return roc_auc.area(self.label, positive_score(refitted, self._test.select(self._names)))

    @cached_property
    def _model(self) -> Any:
        return self._step.load_model(self._inputs.train_run_id)

    def predict(self, rows: int) -> object:
        """Return the model's scores of the first `rows` rows of the test table."""
        return positive_score(self._model, self._test.select(self._names).head(rows))


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
