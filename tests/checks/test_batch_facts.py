"""The facts about a scored batch: its scores beside those of the test table, its columns, the age of the model."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from ml_pipelines.authoring.context import NewRows, ScoringModel, Version
from ml_pipelines.checks import batch_facts
from ml_pipelines.data.features import Recipe
from ml_pipelines.modelling.score_bins import ScoreBins
from ml_pipelines.modelling.scored_rows import Tally

NOW = datetime(2026, 11, 30, 12, tzinfo=UTC)
RECIPE = Recipe({"x": "X (k)", "y": "y"}, {"x": "double", "y": "double"}, "label", ("no", "yes"), None, (), (), {})
TEST = ScoreBins([0.5], [50, 50], [60, 40])
TALLY = Tally({0: 30, 1: 10}, {"yes": 10, "no": 30}, {}, {})
COUNTS = {
    "x": {"wrong": 0, "missing": 4, "unseen": 0, "outside": 10},
    "y": {"wrong": 0, "missing": 0, "unseen": 0, "outside": 0},
}


def model(version: int = 1, days: float = 0.5, test: ScoreBins | None = TEST) -> ScoringModel:
    created = int((NOW - timedelta(days=days)).timestamp() * 1000)
    return ScoringModel(Version("loans", version, "a" * 32, created, {}), None, "", "", [], RECIPE, 0.5, test)


def facts(model: ScoringModel, shadow: ScoringModel | None = None, tally: Tally = TALLY) -> dict[str, Any]:
    batch: Any = NewRows(None, 40, "b1")  # type: ignore[arg-type]
    return batch_facts.batch_facts(model, shadow, batch, RECIPE, COUNTS, tally, NOW)


def test_the_scores_stand_beside_those_of_the_test_table() -> None:
    result = facts(model())
    assert result["predicted"] == [
        {"value": "no", "share": 0.75, "test": 0.6},
        {"value": "yes", "share": 0.25, "test": 0.4},
    ]
    assert result["scores"]["bins"] == [
        {"label": "up to 0.5", "reference": 0.5, "current": 0.75},
        {"label": "above 0.5", "reference": 0.5, "current": 0.25},
    ]
    # 2 * 0.25 * ln(3) / 2 by hand, less what chance gives: 1 / 100 + 1 / 40
    assert result["scores"]["psi"] == pytest.approx(0.274653 - 0.035, abs=1e-6)
    assert batch_facts.metrics(result)["score_psi"] == result["scores"]["psi"]


def test_only_suspicious_columns_are_listed_by_their_names_in_the_source() -> None:
    result = facts(model())
    assert result["columns"] == [{"column": "X (k)", "missing": 0.1, "unseen": 0.0, "outside": 0.25}]
    assert result["usual_columns"] == 1


def test_without_the_scores_of_the_test_table_the_batch_stands_alone() -> None:
    result = facts(model(test=None), tally=Tally({0: 30, 9: 10}, {"yes": 40}, {}, {}))
    assert (result["test_rows"], result["scores"]["psi"]) == (0, None)
    assert [row["current"] for row in result["scores"]["bins"]] == [0.75, *[0] * 8, 0.25]
    assert {row["reference"] for row in result["scores"]["bins"]} == {None}
    assert result["predicted"][1] == {"value": "yes", "share": 1, "test": None}
    assert "score_psi" not in batch_facts.metrics(result)
    assert batch_facts.summary(result) == "40 rows, 100.0% predicted yes, version 1, less than a day old"


@pytest.mark.parametrize(("days", "words"), [(0.9, "less than a day"), (1.9, "1 day"), (1234, "1,234 days")])
def test_the_line_says_how_old_the_model_is(days: float, words: str) -> None:
    line = batch_facts.summary(facts(model(days=days)))
    assert line == f"40 rows, 25.0% predicted yes (40.0% of the test table), version 1, {words} old"


def test_the_shadow_model_is_compared_on_the_same_rows() -> None:
    pairs = {("no", "no"): 28, ("no", "yes"): 2, ("yes", "yes"): 10}
    tally = Tally(TALLY.bins, TALLY.predicted, {0: 20, 1: 20}, pairs, 0.125, 0.25, 0.5)
    result = facts(model(), model(2, days=3), tally)
    assert batch_facts.metrics(result)["shadow_agreement"] == 38 / 40
    assert result["shadow"]["scores"]["bins"][0] == {"label": "up to 0.5", "reference": 0.75, "current": 0.5}
    assert (result["shadow"]["model"]["version"], result["shadow"]["model"]["days"]) == (2, 3)
    assert batch_facts.summary(result).endswith(", version 2 predicts 95.0% of the rows alike")
