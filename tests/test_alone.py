"""One step by itself, as MLproject's entry points start it: `driver.py --step=train --train-uri=...`."""

from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest
from conftest import Result, Store

from ml_pipelines import lineage, tracking
from ml_pipelines.alone import parameters
from ml_pipelines.config import load
from ml_pipelines.errors import ConfigError

Drive = Callable[..., Result]

STEPS = ["prepare_data", "train", "evaluate", "feature_importance", "model_qa"]


def given(store: Store, step: str) -> list[str]:
    """Return the step's inputs, as options, from the earlier run."""
    outputs = lineage.outputs_of_pipeline(store.parent().info.run_id)
    return [f"--{name.replace('_', '-')}={outputs[name]}" for name in load("local").steps[step].inputs]


@pytest.mark.parametrize("step", STEPS)
def test_a_step_runs_on_inputs_that_are_given(earlier: Store, drive: Drive, step: str) -> None:
    before = earlier.child(step)
    result = drive(f"--step={step}", *given(earlier, step))
    assert result.code == 0, result.text
    run = earlier.child(step)
    assert run.info.run_id != before.info.run_id
    assert run.info.status == "FINISHED"
    assert run.info.run_name == load("local").steps[step].step_name
    assert run.data.metrics == before.data.metrics


@pytest.mark.parametrize("step", STEPS[1:])
def test_a_step_finds_its_inputs_in_an_earlier_pipeline_run(earlier: Store, drive: Drive, step: str) -> None:
    before = earlier.child(step)
    result = drive(f"--step={step}", f"--pipeline-run-id={earlier.parent().info.run_id}")
    assert result.code == 0, result.text
    assert earlier.child(step).info.run_id != before.info.run_id
    assert earlier.child(step).data.metrics == before.data.metrics


def test_an_input_that_is_given_wins_over_the_earlier_run_s(earlier: Store, drive: Drive) -> None:
    [uri] = [option for option in given(earlier, "evaluate") if option.startswith("--test-uri")]
    pipeline = f"--pipeline-run-id={earlier.parent().info.run_id}"
    assert drive("--step=train", f"{uri.replace('test-uri', 'train-uri')}", pipeline).code == 0
    [dataset] = earlier.child("train").inputs.dataset_inputs
    assert dataset.dataset.name == "test"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda table: table.drop("f1"), "has no column f1. Its columns: "),
        (lambda table: table.with_columns(pl.col("f1").cast(str)), "Column f1 is text, and the model learned it as a"),
        (lambda table: table.with_columns(more=1.5).select(sorted(["more", *table.columns], reverse=True)), ""),
    ],
    ids=["missing", "another-type", "more-in-another-order"],
)
def test_a_test_table_of_one_s_own_must_have_the_columns_that_the_model_learned(
    earlier: Store,
    drive: Drive,
    tmp_path: Path,
    change: Callable[[pl.DataFrame], pl.DataFrame],
    said: str,
) -> None:
    before = earlier.child("evaluate")
    change(pl.read_delta(earlier.child("prepare_data").data.tags["output.test_uri"])).write_delta(tmp_path / "mine")
    train = f"--train-run-id={earlier.child('train').info.run_id}"
    result = drive("--step=evaluate", f"--test-uri={tmp_path / 'mine'}", train)
    assert result.code == (3 if said else 0), result.text
    assert said in result.text
    if not said:
        assert earlier.child("evaluate").data.metrics == before.data.metrics


def test_the_word_none_is_no_input(earlier: Store, drive: Drive) -> None:
    pipeline = f"--pipeline-run-id={earlier.parent().info.run_id}"
    assert drive("--step=train", "--train-uri=none", pipeline).code == 0


def test_a_step_alone_is_its_own_parent_and_shows_its_outputs(earlier: Store, drive: Drive) -> None:
    result = drive("--step=train", *given(earlier, "train"))
    run = earlier.child("train")
    assert tracking.parent_of(run) is None
    assert "✓ 02_train" in result.out
    assert f"      train_run_id={run.info.run_id}\n" in result.out


def test_a_step_uses_the_run_that_mlflow_made_for_it(
    earlier: Store, drive: Drive, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = earlier.client.create_run("0").info.run_id
    monkeypatch.setenv("MLFLOW_RUN_ID", made)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", "0")
    assert drive("--step=train", *given(earlier, "train")).code == 0
    run = earlier.client.get_run(made)
    assert run.info.status == "FINISHED"
    assert run.data.tags["output.train_run_id"] == made
    assert run.data.tags["package_version"]


def test_a_step_below_a_parent_leaves_the_talking_to_it(
    earlier: Store, drive: Drive, monkeypatch: pytest.MonkeyPatch
) -> None:
    parent = earlier.parent().info
    monkeypatch.setenv("MLFLOW_RUN_ID", tracking.create_step_run(parent.experiment_id, "train", parent.run_id))
    result = drive("--step=train", *given(earlier, "train"))
    assert (result.code, result.out) == (0, "")


def test_missing_inputs_are_one_line_that_says_how_to_give_them(store: Store, drive: Drive) -> None:
    result = drive("--step=evaluate")
    assert result.code == 2
    assert result.err == (
        "Step evaluate needs test_uri, train_run_id, and there is none. Give -P test_uri=..., -P train_run_id=..., "
        "or -P pipeline_run_id=<id> of a pipeline run that has them.\n"
    )
    assert store.child("evaluate").info.status == "FAILED"


def test_a_pipeline_run_that_lacks_an_input_is_named(earlier: Store, drive: Drive) -> None:
    lone = earlier.client.create_run("0").info.run_id
    result = drive("--step=train", f"--pipeline-run-id={lone}")
    assert result.code == 2
    assert f"Step train needs train_uri, and pipeline run {lone} has none." in result.err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--pipeline-run-id=nothing"], "There is no run nothing in sqlite:///"),
        (["--train-uri=/nowhere/train"], "Table /nowhere/train can't be opened"),
    ],
)
def test_an_input_that_is_not_there_is_named(store: Store, drive: Drive, options: list[str], message: str) -> None:
    result = drive("--step=train", *options)
    assert result.code in (2, 3)
    assert message in result.err
    assert len(result.err.splitlines()) == 1
    assert store.child("train").info.status == "FAILED"


def test_an_input_of_another_type_is_named(earlier: Store, drive: Drive) -> None:
    pipeline = f"--pipeline-run-id={earlier.parent().info.run_id}"
    result = drive("--step=model_qa", pipeline, "--test-auc=high")
    assert result.code == 2
    assert result.err == "test_auc: 'high' is no float.\n"


@pytest.mark.parametrize("options", [["train.delta"], ["--train-uri"], ["-x=1"], ["--train-uri=a", "b"]])
def test_what_is_no_input_is_refused(options: list[str]) -> None:
    with pytest.raises(ConfigError, match="--step takes its inputs as --name=value"):
        parameters(options)


def test_the_value_of_an_input_is_taken_as_it_is() -> None:
    value = "a=b --set=c; $(d) `e` 'f' \"g\"\nh"
    assert parameters([f"--train-uri={value}"]) == {"train_uri": value}
