"""Facts about the champion, and the comparison of any two versions on the test table."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

from ml_pipelines.authoring.context import StepContext, Version
from ml_pipelines.checks.comparison import find_unseen_rows
from ml_pipelines.checks.promotion import Champion
from ml_pipelines.checks.table_facts import GateInputs, TableFacts, sample_of
from ml_pipelines.config.schema import Crown
from ml_pipelines.errors import BadData, PipelineError
from ml_pipelines.modelling.features import score_table
from ml_pipelines.text import listed

if TYPE_CHECKING:
    from ml_pipelines.checks.quality_checks import Array


class ChampionFacts(TableFacts):
    """What the gate knows about the champion and other registered versions."""

    def __init__(self, step: StepContext[Any], inputs: GateInputs, level: float) -> None:
        super().__init__(step, inputs, level)
        self._scores: dict[str, Array] = {}  # train run -> the scores of its model
        self._headlines: dict[str, float] = {}  # train run -> headline metric of its model on the compared rows
        self._compared: Array | None = None  # the rows on which the champion was compared, if it was

    @property
    def crown(self) -> Crown:
        """What a model must show to replace the champion (conf: registry.crown)."""
        return self._step.crown

    @cached_property
    def _champion_version(self) -> Version | None:
        return self._step.champion()

    @cached_property
    def champion(self) -> Champion | None:
        """The champion, compared with this model; None if no version is champion."""
        version = self._champion_version
        if version is None:
            return None
        champion = self.compare(None, version)
        if champion.headline and champion.difference:
            self._compared, self._headlines[version.run_id] = self._unseen_by(version), champion.headline.value
        return champion

    @property
    def champion_score(self) -> Array | None:
        """The champion's score for each row of the test table, NaN for rows that the comparison leaves out.

        None if the champion is not compared.
        """
        import numpy as np

        champion = self.champion
        if champion is None or self._compared is None:
            return None
        return np.where(self._compared, self._score_of(champion.run_id), np.nan)

    def compare(self, challenger: Version | None, champion: Version) -> Champion:
        """Compare a version with a champion, on the test rows that neither can have trained on.

        If `challenger` is None, compare the model of this pipeline run.
        """
        run_id = challenger.run_id if challenger else self._inputs.train_run_id
        of_version = champion.name, champion.version, champion.run_id
        if champion.run_id == run_id:
            return Champion(*of_version, problem="it is this model.", is_this=True)
        try:
            rows = self._unseen_by(champion)
            if challenger:
                rows = rows & self._unseen_by(challenger)
        except PipelineError as error:
            return Champion(*of_version, problem=str(error))
        try:
            ours, theirs = (self._score_of(run)[rows] for run in (run_id, champion.run_id))
        except PipelineError as error:
            other = "If this is another data set, set registry.model to another name."
            return Champion(*of_version, problem=f"it can't score this table: {error} {other}")
        label, keys = self.label[rows], None if self._keys is None else self._keys[rows]
        headline = self.problem.headline_interval(label, theirs, self._level, keys)
        difference = self.problem.compare(label, ours, theirs, self._level, keys)
        if math.isfinite(difference.value) and math.isnan(difference.p_value):
            rows_of = "rows of a class" if self.problem.HAS_CLASSES else "rows"
            return Champion(*of_version, headline, problem=f"all test {rows_of} have the same key.")
        return Champion(
            *of_version,
            headline,
            difference,
            loss_gain=self.problem.loss_gain(label, ours, theirs, self._level, keys),
            baseline_loss=self.problem.loss(label, self._baseline[rows]),
            sample=sample_of(self.problem, label, keys),
            rows=None if rows.all() else int(rows.sum()),
            kind=self.kind,
            unit=self.problem.unit(label, self._baseline[rows]),
        )

    def headline_of(self, version: Version) -> float | None:
        """Return a version's headline metric on the rows that the champion has not seen.

        The result is None if the version can't be compared.
        """
        champion, run_id = self.champion, version.run_id
        if run_id not in self._headlines:
            if champion and run_id == champion.run_id and not champion.is_this:  # `compare` gave none for it
                return None
            try:
                self._headlines[run_id] = self._measured(version)
            except PipelineError:
                return None
        return self._headlines[run_id]

    def _measured(self, version: Version) -> float:
        rows = slice(None) if self._compared is None else self._compared
        if not self._unseen_by(version)[rows].all():
            raise BadData("it can have trained on rows on which the champion is judged.")
        return self.problem.headline(self.label[rows], self._score_of(version.run_id)[rows])

    def _unseen_by(self, version: Version) -> Array:
        """Return for each row of the test table whether a version can't have trained on it."""
        import numpy as np

        if version.run_id == self._inputs.train_run_id:
            return np.ones(len(self.label), bool)
        return find_unseen_rows(self._identity, version.tags, self._test, self.label)

    @cached_property
    def _identity(self) -> Mapping[str, str]:
        """How the tables were split, and what their label means."""
        return self._step.identity(self._inputs.train_uri)

    def _score_of(self, train_run_id: str) -> Array:
        if train_run_id == self._inputs.train_run_id:
            return self.score
        if train_run_id not in self._scores:
            self._scores[train_run_id] = self._scored_by(train_run_id)
        return self._scores[train_run_id]

    def _scored_by(self, train_run_id: str) -> Array:
        model = self._step.load_model(train_run_id)
        names = list(model.feature_names_in_)
        if lost := [name for name in names if name not in self._names]:
            raise BadData(f"it takes columns that the test table does not have ({listed(lost, most=5)}).")
        return score_table(model, self._test.select(names), self.problem)
