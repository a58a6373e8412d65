"""What the gate's checks may ask for, by name: each fact is read or computed when a check first asks for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from ml_pipelines.context import BadData, PipelineError, StepContext, Version
from steps import checks, delong
from steps import drift as drifting
from steps.checks import Rival
from steps.delong import Interval
from steps.modelling import positive_score, refit, split_label

if TYPE_CHECKING:
    import polars as pl

    from steps.checks import Array


DRIFT_ROWS = 50_000  # of a table: more would move no index by a hundredth


@dataclass(frozen=True)
class Judged:
    """What the gate was given to judge."""

    train_uri: str
    test_uri: str
    train_run_id: str
    evaluate_run_id: str
    feature_importance_run_id: str
    test_auc: float


class Facts:
    """The model, its tables and its champion, as far as somebody asks."""

    def __init__(self, step: StepContext[Any], judged: Judged, level: float, slices: Sequence[str], least: int) -> None:
        self._step, self._judged = step, judged
        self._level, self._slices, self._least = level, slices, least
        self._areas: dict[str, float] = {}

    # -- of the model

    @cached_property
    def has_signature(self) -> bool:
        """Whether the logged model says what it takes."""
        return self._step.has_signature(self._judged.train_run_id)

    @cached_property
    def auc(self) -> Interval:
        """The AUC on the test table."""
        return delong.interval(self.label, self.score, self._level)

    @property
    def test_auc(self) -> float:
        """The same, as evaluate handed it on."""
        return self._judged.test_auc

    @cached_property
    def train_auc(self) -> float:
        """The AUC on the training table, as train logged it."""
        return self._step.load_metrics(self._judged.train_run_id)["train_auc"]

    @cached_property
    def importances(self) -> Mapping[str, float]:
        """Column -> loss of AUC when it is shuffled, as feature_importance logged it."""
        table = self._step.load_table(self._judged.feature_importance_run_id, "feature_importance.json")
        return dict(table.select("feature", "importance").iter_rows())

    # -- of the test table: evaluate's predictions, and the columns in the same order

    @cached_property
    def _predictions(self) -> pl.DataFrame:
        return self._step.load_table(self._judged.evaluate_run_id, "predictions.parquet")

    @cached_property
    def label(self) -> Array:
        """The label of each row of the test table."""
        return self._predictions["label"].to_numpy()

    @cached_property
    def score(self) -> Array:
        """The model's probability of class 1 of each row."""
        return self._predictions["score"].to_numpy()

    @cached_property
    def _names(self) -> list[str]:
        return self._step.feature_columns(self._judged.test_uri)

    @cached_property
    def _test(self) -> pl.DataFrame:
        """The test table, its rows in the order of evaluate's predictions: it reads the same columns."""
        step, uri = self._step, self._judged.test_uri
        key = [step.key] if step.key in step.table_columns(uri) else []
        table = step.read(uri, [*key, *self._names, step.label])
        if not table[step.label].cast(int).equals(self._predictions["label"]):
            raise BadData(f"The predictions of run {self._judged.evaluate_run_id} are not those of table {uri}.")
        return table

    @cached_property
    def _train(self) -> pl.DataFrame:
        return self._step.read(self._judged.train_uri, [*self._names, self._step.label])

    @cached_property
    def single_aucs(self) -> Mapping[str, float]:
        """Column -> the AUC that it has alone."""
        label = self._predictions["label"]
        return {name: checks.single_auc(self._test[name], label) for name in self._names}

    @cached_property
    def slices(self) -> list[dict[str, Any]]:
        """The declared slices with rows enough, each with its AUC."""
        if unknown := set(self._slices) - set(self._names):
            raise BadData(f"steps.model_qa.params.slices: the test table has no feature {', '.join(sorted(unknown))}.")
        asked = (self._test[name] for name in self._slices)
        return [
            row
            for column in asked
            for row in checks.slices_of(column, self.label, self.score, self._level, self._least)
        ]

    @cached_property
    def train_test(self) -> list[dict[str, Any]]:
        """How far each column has moved from train to test."""
        return drifting.measure(_thinned(self._train), _thinned(self._test), self._names)

    # -- of the champion

    @cached_property
    def _holder(self) -> Version | None:
        return self._step.champion()

    @cached_property
    def champion(self) -> Rival | None:
        """The champion, judged on the same rows."""
        found = self._holder
        if found is None:
            return None
        try:
            score = self._score_of(found.run_id)
        except PipelineError as error:
            return Rival(found.name, found.version, found.run_id, None, None, str(error))
        area = delong.interval(self.label, score, self._level)
        self._areas[found.run_id] = area.value
        difference = delong.compare(self.label, self.score, score)
        return Rival(found.name, found.version, found.run_id, area, difference)

    @cached_property
    def since_champion(self) -> list[dict[str, Any]] | None:
        """How far each column has moved since the champion's training table; None where that can't be said."""
        theirs = self._holder.tags.get("train_uri") if self._holder else None
        if theirs in (None, self._judged.train_uri):
            return None
        try:
            reference = self._step.read(str(theirs), self._names)
        except BadData:  # it is gone, or has other columns
            return None
        return drifting.measure(_thinned(reference), _thinned(self._train), self._names)

    def area_of(self, train_run_id: str) -> float:
        """Return the AUC on this test table of the model that a train run handed on."""
        if train_run_id not in self._areas:
            self._areas[train_run_id] = delong.area(self.label, self._score_of(train_run_id))
        return self._areas[train_run_id]

    def _score_of(self, train_run_id: str) -> Array:
        model = self._step.load_model(train_run_id)
        names = list(model.feature_names_in_)
        if lost := [name for name in names if name not in self._names]:
            raise BadData(f"it takes columns that are not there ({', '.join(lost[:5])}).")
        return positive_score(model, self._test.select(names))

    # -- for the checks that are off by default

    def refit(self, seed: int, rows: int) -> float:
        """Return the test AUC of the model fitted again, with another seed, on a sample of the training table."""
        model = self._step.load_model(self._judged.train_run_id)
        sample = self._train.sample(min(rows, self._train.height), seed=seed)
        again = refit(model, *split_label(sample, self._step.label, self._names), seed)
        return delong.area(self.label, positive_score(again, self._test.select(self._names)))

    @cached_property
    def _model(self) -> Any:
        return self._step.load_model(self._judged.train_run_id)

    def predict(self, rows: int) -> object:
        """Let the model predict so many rows."""
        return positive_score(self._model, self._test.select(self._names).head(rows))


def _thinned(table: pl.DataFrame) -> pl.DataFrame:
    """Return about DRIFT_ROWS of the rows, every n-th."""
    return table.gather_every(max(1, table.height // DRIFT_ROWS))
