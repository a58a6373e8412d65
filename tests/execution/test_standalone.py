"""Tests of one step run by itself, as MLproject's entry points start it: `driver.py --step=train --train-uri=...`."""

from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest
from conftest import Result, Store, mlflow_run_tags

from ml_pipelines.config.loading import load
from ml_pipelines.errors import ConfigError
from ml_pipelines.execution.standalone import parse_parameters
from ml_pipelines.tracking import lineage
from ml_pipelines.tracking.store import PARENT, parent_of

Drive = Callable[..., Result]

STEPS = ["prepare_data", "train", "evaluate", "feature_importance", "model_qa"]


def input_options(store: Store, step: str) -> list[str]:
    """Return options that set the step's inputs to outputs of the earlier run."""
    outputs = lineage.outputs_of_pipeline(store.opened, store.parent().info.run_id)
    return [f"--{name.replace('_', '-')}={outputs[name]}" for name in load("local").steps[step].inputs]


@pytest.mark.parametrize("step", STEPS)
def test_a_step_runs_on_inputs_from_the_command_line(earlier: Store, drive: Drive, step: str) -> None:
    before = earlier.child(step)
    result = drive(f"--step={step}", *input_options(earlier, step))
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


def test_an_input_option_overrides_the_earlier_run(earlier: Store, drive: Drive) -> None:
    [uri] = [option for option in input_options(earlier, "evaluate") if option.startswith("--test-uri")]
    pipeline = f"--pipeline-run-id={earlier.parent().info.run_id}"
    assert drive("--step=train", f"{uri.replace('test-uri', 'train-uri')}", pipeline).code == 0
    [dataset] = earlier.child("train").inputs.dataset_inputs
    assert dataset.dataset.name == "test"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda table: table.drop("f1"), "has no column f1. Its columns: "),
        (lambda table: table.with_columns(pl.col("f1").cast(str)), "Column f1 is text, but the model learned it as a"),
        (lambda table: table.with_columns(more=1.5).select(sorted(["more", *table.columns], reverse=True)), ""),
    ],
    ids=["missing", "another-type", "more-in-another-order"],
)
def test_evaluate_checks_the_columns_of_a_custom_test_table(
    earlier: Store,
    drive: Drive,
    tmp_path: Path,
    change: Callable[[pl.DataFrame], pl.DataFrame],
    message: str,
) -> None:
    before = earlier.child("evaluate")
    change(pl.read_delta(earlier.child("prepare_data").data.tags["output.test_uri"])).write_delta(tmp_path / "mine")
    train = f"--train-run-id={earlier.child('train').info.run_id}"
    result = drive("--step=evaluate", f"--test-uri={tmp_path / 'mine'}", train)
    assert result.code == (3 if message else 0), result.text
    assert message in result.text
    if not message:
        assert earlier.child("evaluate").data.metrics == before.data.metrics


def test_the_value_none_means_no_input(earlier: Store, drive: Drive) -> None:
    pipeline = f"--pipeline-run-id={earlier.parent().info.run_id}"
    assert drive("--step=train", "--train-uri=none", pipeline).code == 0


@pytest.mark.slow
def test_a_standalone_step_has_no_parent_run_and_prints_its_outputs(earlier: Store, drive: Drive) -> None:
    result = drive("--step=train", *input_options(earlier, "train"))
    run = earlier.child("train")
    assert parent_of(run) is None
    assert "✓ 02_train" in result.out
    assert f"      train_run_id={run.info.run_id}\n" in result.out


def test_a_step_uses_the_run_that_mlflow_created(earlier: Store, drive: Drive, monkeypatch: pytest.MonkeyPatch) -> None:
    run_id = earlier.client.create_run("0", tags=mlflow_run_tags("train")).info.run_id
    monkeypatch.setenv("MLFLOW_RUN_ID", run_id)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", "0")
    assert drive("--step=train", *input_options(earlier, "train")).code == 0
    run = earlier.client.get_run(run_id)
    assert run.info.status == "FINISHED"
    assert run.data.tags["output.train_run_id"] == run_id
    assert run.data.tags["package_version"]


def test_a_step_with_a_parent_run_prints_nothing(earlier: Store, drive: Drive, monkeypatch: pytest.MonkeyPatch) -> None:
    parent = earlier.parent().info
    tags = {**mlflow_run_tags("train"), PARENT: parent.run_id}
    monkeypatch.setenv("MLFLOW_RUN_ID", earlier.client.create_run(parent.experiment_id, tags=tags).info.run_id)
    result = drive("--step=train", *input_options(earlier, "train"))
    assert (result.code, result.out) == (0, "")


def test_the_error_for_missing_inputs_says_how_to_set_them(store: Store, drive: Drive) -> None:
    result = drive("--step=evaluate")
    assert result.code == 2
    assert result.err == (
        "Step evaluate needs test_uri, train_run_id. Set -P test_uri=..., -P train_run_id=..., "
        "or -P pipeline_run_id=<id> of a pipeline run that has them.\n"
    )
    assert store.child("evaluate").info.status == "FAILED"


def test_the_error_names_the_pipeline_run_that_lacks_an_input(earlier: Store, drive: Drive) -> None:
    run_id = earlier.client.create_run("0").info.run_id
    result = drive("--step=train", f"--pipeline-run-id={run_id}")
    assert result.code == 2
    assert f"Step train needs train_uri, which pipeline run {run_id} does not have." in result.err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--pipeline-run-id=nothing"], "mlflow.db has no run nothing."),
        (["--train-uri=/nowhere/train"], "Table /nowhere/train can't be opened"),
    ],
)
def test_the_error_names_an_input_that_does_not_exist(
    store: Store, drive: Drive, options: list[str], message: str
) -> None:
    result = drive("--step=train", *options)
    assert result.code in (2, 3)
    assert message in result.err
    assert len(result.err.splitlines()) == 1
    assert store.child("train").info.status == "FAILED"


def test_the_error_names_an_input_of_the_wrong_type(earlier: Store, drive: Drive) -> None:
    pipeline = f"--pipeline-run-id={earlier.parent().info.run_id}"
    result = drive("--step=model_qa", pipeline, "--test-headline=high")
    assert result.code == 2
    assert result.err == "test_headline: 'high' is not of type float.\n"


@pytest.mark.parametrize("options", [["train.delta"], ["--train-uri"], ["-x=1"], ["--train-uri=a", "b"]])
def test_a_malformed_input_option_is_refused(options: list[str]) -> None:
    with pytest.raises(ConfigError, match="--step: write each input as --name=value"):
        parse_parameters(options)


def test_the_value_of_an_input_is_not_changed() -> None:
    value = "a=b --set=c; $(d) `e` 'f' \"g\"\nh"
    assert parse_parameters([f"--train-uri={value}"]) == {"train_uri": value}
