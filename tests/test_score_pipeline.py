"""The pipeline `score`: the champion's scores on new rows are evaluate's scores, and a bad batch is one line."""

import sys
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

import polars as pl
import pytest
from conftest import LENIENT, Result, Store, drive_in, new_store, use
from deltalake import DeltaTable

from ml_pipelines.tracking import lineage

Shell = Callable[..., Result]
SETTINGS = "experiment_name=loans,data.source.kind=file,data.label=defaulted,data.drop=[note],data.source.path="
ADDED = ["score", "prediction", "model_name", "model_version", "scored_at", "batch_id"]
SHADOW = ["shadow_score", "shadow_prediction", "shadow_version"]


def loans() -> pl.DataFrame:
    """Return 400 rows. The label depends on the income and on the kind; some cells are empty."""
    rows = range(400)
    income = [None if i % 31 == 0 else (i * 37 % 101) + 0.25 for i in rows]
    kind = [None if i % 29 == 0 else ("car", "house", "toy")[i % 3] for i in rows]
    risk = [(i * 37 % 101) + 40 * (i % 3 == 2) + i * 53 % 40 for i in rows]
    label = ["yes" if each > 85 else "no" for each in risk]
    names = {"loan id": [f"L{i}" for i in rows], "Income (k)": income, "kind": kind, "note": "n", "defaulted": label}
    return pl.DataFrame(names)


@pytest.fixture(scope="session")
def trained(migrated: Path, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Return a store with a champion that was trained on the rows of `loans`."""
    folder = tmp_path_factory.mktemp("trained")
    store = new_store(migrated, folder)
    loans().write_csv(folder / "loans.csv")
    with pytest.MonkeyPatch.context() as patch:
        use(store, patch)
        result = drive_in(store, f"--set={SETTINGS}{folder / 'loans.csv'}", "--set=data.key=loan id")
    assert result.code == 0, result.text
    store.client.set_registered_model_alias("loans", "champion", "1")  # whatever the gate said about so few rows
    return store


@pytest.fixture
def champion(trained: Store, store: Store) -> Store:
    """Give the test its own store with the champion."""
    trained.copy_to(store)
    return store


@pytest.fixture
def score(champion: Store, tmp_path: Path) -> Callable[..., Result]:
    """Return a function that scores a frame as a CSV file."""

    def run(batch: pl.DataFrame, *more: str) -> Result:
        path = tmp_path / "batch.csv"
        batch.write_csv(path)
        source = f"experiment_name=loans,score.source.kind=file,score.source.path={path}"
        return drive_in(champion, "--pipeline=score", f"--set={source}", *more)

    return run


def evaluated_rows(store: Store) -> pl.DataFrame:
    """Return the predictions that evaluate logged: key, label, score, predicted."""
    run = store.child("evaluate")
    return pl.read_parquet(store.artifact(run, "predictions.parquet"))


def scored(store: Store) -> pl.DataFrame:
    """Return the newest scored table."""
    return pl.read_delta(lineage.outputs(store.child("score"))["scored_uri"])


def agree(table: pl.DataFrame, evaluated: pl.DataFrame, key: str = "loan_id", positive: str = "yes") -> bool:
    """Return whether the scored table has exactly the scores and the predictions of evaluate."""
    both = evaluated.join(table, left_on="key", right_on=key, suffix="_new")
    same_class = (both["prediction"] == positive) == (both["predicted"] == 1)
    return both.height == evaluated.height and both["score"].equals(both["score_new"]) and bool(same_class.all())


SYNTHETIC = "--set=score.source.kind=synthetic,score.source.rows=400,score.source.features=4"


def test_the_rows_of_the_test_table_get_the_scores_of_evaluate(earlier: Store) -> None:
    result = drive_in(earlier, "--pipeline=score", SYNTHETIC)
    assert result.code == 0, result.text
    table = scored(earlier)
    assert agree(table, evaluated_rows(earlier), "id", "1")
    assert table.columns == ["id", "f0", "f1", "f2", "f3", "label", *ADDED]
    [parent] = earlier.runs("tags.`mlflow.runName` = 'scoring_run'")
    assert (parent.info.status, parent.data.tags["pipeline"]) == ("FINISHED", "score")
    rate = (table["prediction"] == "1").mean()
    metrics = {name: parent.data.metrics[name] for name in ("scored_rows", "predicted_positive_rate")}
    assert metrics == {"scored_rows": 400, "predicted_positive_rate": rate}
    test = (evaluated_rows(earlier)["predicted"] == 1).mean()
    line = f"400 rows, {rate:.1%} predicted 1 ({test:.1%} of the test table), version 1, less than a day old"
    assert line in result.out
    page = earlier.artifact(parent, "scoring.html").read_text()
    assert "Scores of the batch" in page
    assert "4 columns have no missing, unseen or outside values." in page
    assert "Up to date" in drive_in(earlier, "--pipeline=score", SYNTHETIC).text


@pytest.mark.slow
def test_a_batch_without_the_label_gets_the_same_scores(champion: Store, score: Callable[..., Result]) -> None:
    evaluated = evaluated_rows(champion)
    batch = loans().filter(pl.col("loan id").is_in(evaluated["key"].to_list())).drop("defaulted", "note")
    assert score(batch).code == 0
    table = scored(champion)
    assert table.height == evaluated.height
    assert agree(table, evaluated)
    assert table.columns == ["loan_id", "Income_k", "kind", *ADDED]
    assert table.select(ADDED[2:4]).unique().row(0) == ("loans", 1)


@pytest.mark.slow
def test_a_batch_with_the_label_in_another_order_gets_the_same_scores(
    champion: Store, score: Callable[..., Result]
) -> None:
    shuffled = loans().sample(fraction=1, shuffle=True, seed=1).select("kind", "defaulted", "loan id", "Income (k)")
    result = score(shuffled.with_columns(more=pl.lit(1)), "--set=score.features=false")
    assert result.code == 0, result.text
    table = scored(champion)
    assert agree(table, evaluated_rows(champion))
    assert table.columns == ["loan_id", "defaulted", *ADDED]
    assert set(table["defaulted"]) == {"yes", "no"}
    assert "warning: The model does not use 1 of the batch's columns: more" in result.text


@pytest.mark.slow
def test_nothing_is_decided_by_the_values_of_the_batch(champion: Store, score: Callable[..., Result]) -> None:
    batch = pl.DataFrame({"loan id": ["a", "b"], "Income (k)": ["", "NA"], "kind": ["7", "boat"]})
    result = score(batch)
    assert result.code == 0, result.text
    table = scored(champion).sort("loan_id")
    assert table.schema["Income_k"] == pl.Float64
    assert table["Income_k"].to_list() == [None, None]
    assert table["kind"].to_list() == ["7", "boat"]
    assert "Column Income (k) is missing in all 2 rows" in result.text
    assert "Column kind: 2 of 2 values are categories that the model does not know" in result.text


@pytest.mark.slow
def test_values_outside_of_the_training_range_are_counted(score: Callable[..., Result]) -> None:
    result = score(pl.DataFrame({"loan id": ["a", "b"], "Income (k)": [1e6, 50], "kind": ["car", "car"]}))
    assert result.code == 0, result.text
    assert "Column Income (k): 1 of 2 values are outside of the training range" in result.text


ROW = {"loan id": ["a", "b"], "Income (k)": ["1", "2"], "kind": ["car", "toy"]}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ({"loan id": ["a"], "Incomes (k)": ["1"]}, "lacks 2 of 3 columns that the model needs: Income (k) (is it"),
        ({"kind": ["car"], "Income (k)": ["1"]}, "lacks 1 of 3 columns that the model needs: loan id."),
        ({**ROW, "loan id": ["a", "a"]}, "The key loan id has 1 values that occur more than once in the batch (a)"),
        ({**ROW, "loan id": ["a", None]}, "1 of 2 rows have no key loan id"),
        ({**ROW, "Income (k)": ["1", "many"]}, "the batch has text: 1 of 2 values of Income (k) ('many')"),
        ({**ROW, "Income (k)": ["1", "1e39"]}, "Column Income (k): 1 of 2 values are infinite or beyond"),
        ({name: [] for name in ROW}, "The batch has 0 rows"),
    ],
)
def test_a_bad_batch_is_refused_in_one_line_and_nothing_is_written(
    batch: dict[str, list[str | None]], message: str, champion: Store, score: Callable[..., Result]
) -> None:
    result = score(pl.DataFrame(batch, schema=dict.fromkeys(batch, pl.String)))
    assert result.code == 3
    [line] = [line for line in result.text.splitlines() if message in line]
    assert "✗ 01_score" in line
    assert "Traceback" not in result.text
    assert not list(champion.tables.rglob("scored"))


@pytest.mark.slow
def test_text_in_a_number_column_can_count_as_missing(champion: Store, score: Callable[..., Result]) -> None:
    result = score(pl.DataFrame({**ROW, "Income (k)": ["1", "many"]}), "--set=score.bad_cells=missing")
    assert result.code == 0, result.text
    assert scored(champion).sort("loan_id")["Income_k"].to_list() == [1.0, None]
    assert "1 of 2 values of Income (k) ('many') were scored as missing" in result.text


@pytest.mark.slow
def test_the_model_is_a_version_an_alias_or_a_train_run(champion: Store, score: Callable[..., Result]) -> None:
    run_id = champion.child("train").info.run_id
    assert "version 1" in score(pl.DataFrame(ROW), "--set=score.model=1").out
    assert "version 1" in score(pl.DataFrame(ROW), "--set=score.model=challenger").out
    assert f"train run {run_id[:8]}" in score(pl.DataFrame(ROW), f"--set=score.model={run_id}").out
    assert "model loans has no version 7" in score(pl.DataFrame(ROW), "--set=score.model=7").text
    champion.client.delete_registered_model_alias("loans", "champion")
    result = score(pl.DataFrame(ROW))
    assert (result.code, "model loans has no champion" in result.err) == (2, True)


@pytest.mark.slow
def test_another_threshold_is_another_model(champion: Store, score: Callable[..., Result], tmp_path: Path) -> None:
    assert score(pl.DataFrame(ROW)).code == 0
    loans().write_csv(tmp_path / "loans.csv")
    again = f"--set={SETTINGS}{tmp_path / 'loans.csv'},steps.train.params.threshold=0"
    assert drive_in(champion, again, "--set=data.key=loan id").code == 0
    assert champion.child("evaluate").data.metrics["test_true_negatives"] == 0
    result = score(pl.DataFrame(ROW), "--set=score.model=challenger")
    assert result.code == 0, result.text
    assert "2 rows, 100.0% predicted yes (100.0% of the test table), version 2" in result.out


@pytest.mark.slow
def test_the_scores_of_a_shadow_model_stand_beside_those_of_the_model(
    champion: Store, score: Callable[..., Result], tmp_path: Path
) -> None:
    rows = loans().with_columns(note=pl.Series(["a", "b"] * 200))
    first = evaluated_rows(champion)
    rows.write_csv(tmp_path / "loans.csv")
    more = f"--set={SETTINGS}{tmp_path / 'loans.csv'},data.drop=[],steps.train.params.options.max_iter=3"
    assert drive_in(champion, more, "--set=data.key=loan id").code == 0
    second = evaluated_rows(champion)
    result = score(rows.drop("defaulted"), "--set=score.shadow=2,score.features=false")
    assert result.code == 0, result.text
    table = scored(champion)
    assert table.columns == ["loan_id", "score", "prediction", *SHADOW, *ADDED[2:]]
    assert agree(table, first)
    renamed = table.drop("score", "prediction").rename({"shadow_score": "score", "shadow_prediction": "prediction"})
    assert agree(renamed, second)
    assert set(table["shadow_version"]) == {2}
    same = (table["prediction"] == table["shadow_prediction"]).mean()
    assert f"version 2 predicts {same:.1%} of the rows alike" in result.out
    [parent] = champion.runs("tags.`mlflow.runName` = 'scoring_run'")
    gap = (table["shadow_score"] - table["score"]).abs()
    page = champion.artifact(parent, "scoring.html").read_text()
    assert f"differ by {gap.mean():.3f} on average and by at most {gap.max():.3f}" in page
    assert "loans, version 2, of " in page
    assert "warning: score.shadow and score.model name the same model" not in result.text
    result = score(rows, "--set=score.shadow=1")
    assert "warning: score.shadow and score.model name the same model" in result.text
    result = score(rows.drop("note"), "--set=score.shadow=2")
    assert (result.code, "lacks 1 of 4 columns that the model needs: note" in result.text) == (3, True)
    result = score(rows, "--set=score.shadow=nobody")
    assert (result.code, "score.shadow: model loans has no alias nobody." in result.err) == (2, True)


@pytest.mark.slow
def test_a_shadow_model_that_learned_a_column_otherwise_is_refused(
    champion: Store, score: Callable[..., Result], tmp_path: Path
) -> None:
    rows = loans().with_columns(kind=pl.Series(range(400)))
    rows.write_csv(tmp_path / "loans.csv")
    more = f"--set={SETTINGS}{tmp_path / 'loans.csv'}"
    assert drive_in(champion, more, "--set=data.key=loan id").code == 0
    result = score(loans(), "--set=score.shadow=2")
    assert (result.code, "differ in the column kind, so one batch can't serve both" in result.text) == (2, True)
    assert not list(champion.tables.rglob("scored"))


@pytest.mark.slow
def test_reasons_say_what_moved_the_scores_of_the_rows_above_the_threshold(
    champion: Store, score: Callable[..., Result]
) -> None:
    result = score(loans(), "--set=score.reasons=1")
    assert result.code == 0, result.text
    table = scored(champion)
    assert table.columns[-7:] == ["score", "prediction", "reasons", *ADDED[2:]]
    assert table["reasons"].is_not_null().equals(table["prediction"] == "yes")
    uri = lineage.outputs(champion.child("score"))["scored_uri"]
    [field] = [field for field in DeltaTable(uri).schema().fields if field.name == "reasons"]
    assert field.metadata["comment"].endswith("in units of the log-odds of class 1")
    assert score(loans(), "--set=score.reasons=2,score.reasons_for=all").code == 0
    table = scored(champion)  # the model has two features, so both values and the base sum to the score
    total = table["reasons"].list.eval(pl.element().struct.field("value")).list.sum()
    base = (table["score"] / (1 - table["score"])).log() - total
    assert base.max() - base.min() < 1e-9
    assert set(table["reasons"].explode().struct.field("name")) == {"Income_k", "kind"}


@pytest.mark.slow
def test_reasons_without_shap_or_without_trees_are_refused_before_anything_is_scored(
    champion: Store, score: Callable[..., Result], tmp_path: Path
) -> None:
    with patch.dict(sys.modules, {"shap": None}):
        result = score(loans(), "--set=score.reasons=3")
    message = "score.reasons: shap is not installed. Run `pip install 'ml-pipelines[explain]'`"
    assert (result.code, message in result.text) == (2, True)
    loans().write_csv(tmp_path / "loans.csv")
    linear = "estimator=sklearn.linear_model.LogisticRegression,categories=one_hot,missing=median"
    settings = ",".join(f"steps.train.params.{setting}" for setting in linear.split(","))
    more = [f"--set={SETTINGS}{tmp_path / 'loans.csv'},{settings}", "--set=steps.train.params.options={C: 1}"]
    drive_in(champion, f"--set={LENIENT}", *more, "--set=data.key=loan id", small=False)
    result = score(loans(), "--set=score.reasons=3,score.model=2")
    assert (result.code, "SHAP's TreeExplainer can't explain this LogisticRegression: " in result.text) == (2, True)
    assert not list(champion.tables.rglob("scored"))


@pytest.mark.slow
@pytest.mark.parametrize("tag", ["model_digest", "facts_digest"])
def test_a_changed_model_file_is_refused(champion: Store, score: Callable[..., Result], tag: str) -> None:
    champion.client.set_model_version_tag("loans", "1", tag, "0" * 64)
    result = score(pl.DataFrame(ROW))
    assert (result.code, "is not the file that its run logged" in result.text) == (3, True)


@pytest.mark.slow
def test_a_version_scores_without_its_train_run(champion: Store, score: Callable[..., Result]) -> None:
    tags = champion.child("train").data.tags
    for tag in ("output.model_uri", "output.model_uri.digest", "output.model_uri.facts"):
        assert tags[tag]
        champion.client.delete_tag(champion.child("train").info.run_id, tag)
    result = score(pl.DataFrame(ROW))
    assert result.code == 0, result.text


def test_a_missing_source_names_the_setting_of_this_pipeline(earlier: Store) -> None:
    result = drive_in(earlier, "--pipeline=score", "--dry-run")
    assert (result.code, "score.source: not set" in result.err) == (2, True)
    missing = "--set=score.source.kind=file,score.source.path=no.csv"
    result = drive_in(earlier, "--pipeline=score", missing)
    assert (result.code, "score.source.path: " in result.err) == (3, True)
    assert not earlier.runs("tags.pipeline = 'score'")


def test_a_step_of_the_other_pipeline_names_the_option(earlier: Store) -> None:
    result = drive_in(earlier, "--only=score", "--dry-run")
    assert (result.code, "Add --pipeline score." in result.err) == (2, True)


WAYS = {
    "driver.py": ("python", "driver.py", "--pipeline=score", "--set={}"),
    "main": ("mlflow", "run", ".", "-e", "main", "-Ppipeline=score", "-Pset={}", "--experiment-name", "loans"),
    "entry point": ("mlflow", "run", ".", "-e", "score", "-Pset={}", "--experiment-name", "loans"),
    "console script": ("python", "-m", "ml_pipelines", "score-data", "--set={}"),
    "local-pipeline": ("local-pipeline", "--set=pipeline=score,{}"),
}


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_every_way_to_run_gives_the_same_scores(
    way: tuple[str, ...], champion: Store, shell: Shell, tmp_path: Path
) -> None:
    loans().write_csv(tmp_path / "batch.csv")
    settings = f"experiment_name=loans,data.delta_prefix.local={champion.tables},score.source.kind=file"
    settings += f",score.source.path={tmp_path / 'batch.csv'}"
    result = shell(*(part.replace("{}", settings) for part in way))
    assert result.code == 0, result.text
    assert agree(scored(champion), evaluated_rows(champion))
