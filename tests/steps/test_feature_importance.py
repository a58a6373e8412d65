"""Tests of feature_importance: how much worse the model gets when a column is shuffled."""

import dataclasses

import numpy as np
import polars as pl
from recording import RecordingContext

from ml_pipelines.problems import binary
from ml_pipelines.text import SHOWN
from steps import feature_importance, train
from steps.feature_importance import Params, figure, importance, sample

LABEL = pl.Series("label", [0, 1] * 20)
FEATURES = pl.DataFrame(
    {
        "noise": np.random.default_rng(0).normal(size=40),
        "telling": LABEL.cast(pl.Float64) + np.random.default_rng(1).normal(size=40) / 10,
        "colour": ([None, "blue", "red"] * 14)[:40],
    }
)
TABLE = FEATURES.with_columns(LABEL, id=pl.int_range(pl.len()))
PARAMS = train.Params("sklearn.linear_model.LogisticRegression", categories="one_hot", missing="median")
MODEL = train.make_model(FEATURES, PARAMS, binary, seed=1).fit(FEATURES, LABEL)


def test_the_most_important_column_comes_first_with_its_spread() -> None:
    importances = importance(MODEL, FEATURES, LABEL, binary, repeats=5, seed=1)
    assert importances.columns == ["feature", "importance", "std"]
    assert sorted(importances["feature"]) == sorted(FEATURES.columns)
    assert importances["feature"][0] == "telling"
    assert importances["importance"].is_sorted(descending=True)
    assert importances["std"][0] > 0


def test_an_importance_is_a_loss_in_auc_even_if_all_rows_get_one_class() -> None:
    params = dataclasses.replace(PARAMS, options={"class_weight": {0: 1e6, 1: 1.0}})
    model = train.make_model(FEATURES, params, binary, seed=1).fit(FEATURES, LABEL)
    assert not model.predict(FEATURES).any()
    assert importance(model, FEATURES, LABEL, binary, repeats=2, seed=1)["importance"][0] > 0.1


def test_the_seed_decides_the_importances() -> None:
    first, again, other = (importance(MODEL, FEATURES, LABEL, binary, repeats=2, seed=seed) for seed in (1, 1, 2))
    assert first.equals(again)
    assert not first.equals(other)


def test_shuffling_does_not_change_the_features() -> None:
    before = FEATURES.clone()
    importance(MODEL, FEATURES, LABEL, binary, repeats=1, seed=1)
    assert FEATURES.equals(before)


def test_a_sample_is_the_same_for_the_same_seed() -> None:
    first, again, other = (sample(TABLE, "label", 10, seed) for seed in (1, 1, 2))
    assert first.height == 10
    assert first.equals(again)
    assert not first.equals(other)


def test_a_sample_of_at_least_all_rows_is_the_table() -> None:
    assert sample(TABLE, "label", 40, seed=1).equals(TABLE)


def test_a_sample_keeps_the_shares_of_the_classes() -> None:
    assert sample(TABLE, "label", 10, seed=1)["label"].sum() == 5


def test_a_sample_has_both_classes_however_rare_one_is() -> None:
    rare = pl.DataFrame({"x": range(1000), "label": [1, *[0] * 999]})
    for seed in range(5):
        assert sample(rare, "label", 10, seed)["label"].sum() == 1


def test_the_figure_shows_a_bar_with_spread_for_each_column() -> None:
    plot = figure(importance(MODEL, FEATURES, LABEL, binary, repeats=2, seed=1), binary)
    axes = plot.axes[0]
    assert [tick.get_text() for tick in axes.get_yticklabels()][-1] == "telling"
    assert len(axes.patches) == 3
    assert len(axes.containers) == 2  # the bars, and their spread


def test_run_logs_the_table_the_figure_and_the_metrics() -> None:
    step = RecordingContext("feature_importance", Params(rows=30, repeats=2), {"table": TABLE}, {"train": MODEL})
    outputs = feature_importance.run(step, train_uri="table", train_run_id="train")
    assert outputs == {"feature_importance_run_id": step.run_id, "feature_importance_done": True}
    assert step.tables["feature_importance.json"]["feature"][0] == "telling"
    assert list(step.figures) == ["feature_importance.png"]
    assert sorted(step.metrics) == ["importance.colour", "importance.noise", "importance.telling"]
    assert str(step.summary_text).startswith("telling ")
    assert step.reads == ["table"]


def test_long_names_are_cut_in_the_figure_and_keep_their_bars() -> None:
    names = ["x" * 200 + str(i) for i in range(3)]
    table = pl.DataFrame({"feature": names, "importance": [0.3, 0.2, 0.1], "std": [0.0] * 3})
    axes = figure(table, binary).axes[0]
    assert {len(tick.get_text()) for tick in axes.get_yticklabels()} == {SHOWN}
    assert len({patch.get_y() for patch in axes.patches}) == 3
