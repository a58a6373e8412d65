"""What a pipeline run records in the MLflow store, and where the store is."""

import functools
import importlib
import json
import re
import shlex
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import deltalake
import mlflow
import polars as pl
import pytest
from conftest import Result, Store, change
from mlflow.entities import Run
from mlflow.utils import validation

from ml_pipelines.config.loading import load
from ml_pipelines.data import engines, tables
from ml_pipelines.errors import ConfigError
from ml_pipelines.system import paths
from ml_pipelines.tracking import lineage, opening, provenance
from ml_pipelines.tracking.store import (
    INPUT_TAG_LENGTH,
    NAME_LENGTH,
    PARAM_LENGTH,
    TAG_LENGTH,
)

Drive = Callable[..., Result]

STEPS = ["prepare_data", "train", "evaluate", "feature_importance", "model_qa"]
TABLES = ["train_uri", "test_uri"]
READS = {"train": "train_uri", "evaluate": "test_uri", "feature_importance": "train_uri"}


def content(store: Store, run: Run, name: str) -> dict[str, object]:
    """Return a JSON artifact."""
    return dict(json.loads(store.artifact(run, name).read_text()))


# -- texts longer than MLflow stores


def test_the_limits_equal_those_of_mlflow() -> None:
    assert validation.MAX_ENTITY_KEY_LENGTH == NAME_LENGTH
    assert validation.MAX_TAG_VAL_LENGTH == TAG_LENGTH
    assert validation.MAX_PARAM_VAL_LENGTH == PARAM_LENGTH
    assert validation.MAX_INPUT_TAG_VALUE_SIZE == INPUT_TAG_LENGTH


def test_long_names_and_texts_are_shortened_and_stay_different(store: Store) -> None:
    run_id = store.client.create_run("0").info.run_id
    names = ["x" * 300 + end for end in "ab"]
    values = ["y" * 9_000 + end for end in "ab"]
    store.opened.log(
        run_id,
        metrics=dict(zip(names, (1.0, 2.0), strict=True)),
        params=dict(zip(names, values, strict=True)),
        tags=dict(zip(names, values, strict=True)),
    )
    data = store.client.get_run(run_id).data
    tags = {name: value for name, value in data.tags.items() if name.startswith("x")}
    assert set(data.metrics) == set(data.params) == set(tags) and {len(name) for name in tags} == {250}
    assert sorted(data.metrics.values()) == [1, 2]
    assert len(set(tags.values())) == 2 and {len(value) for value in tags.values()} == {8_000}
    assert len(set(data.params.values())) == 2 and {len(value) for value in data.params.values()} == {6_000}


@pytest.mark.parametrize("name", ["\u0906\u092f\u0941", "a<b>", "caf\u0065\u0301", "../x", "a//b", "/x", ".", "a\nb"])
def test_a_name_that_mlflow_refuses_is_logged_under_one_that_it_accepts(store: Store, name: str) -> None:
    run_id = store.client.create_run("0").info.run_id
    store.opened.log(run_id, metrics={name: 1.0, f"importance.{name}": 2.0}, params={name: "x"}, tags={name: "x"})
    data = store.client.get_run(run_id).data
    assert sorted(data.metrics.values()) == [1, 2]
    assert set(data.params.values()) == {"x"}


def test_names_that_differ_in_refused_characters_stay_different(store: Store) -> None:
    run_id = store.client.create_run("0").info.run_id
    store.opened.log(run_id, metrics={"a<b": 1.0, "a>b": 2.0, "a_b": 3.0})
    metrics = store.client.get_run(run_id).data.metrics
    assert sorted(metrics.values()) == [1, 2, 3]
    assert metrics["a_b"] == 3


def test_the_tags_of_a_run_have_no_control_characters_and_outputs_keep_theirs(store: Store) -> None:
    run_id = store.client.create_run("0").info.run_id
    store.opened.set_tags(run_id, {"cause": "\x1b[2J\u200b", "mlflow.note.content": "a\nb", "output.x": "\x1b\u200b"})
    tags = store.client.get_run(run_id).data.tags
    assert tags["cause"] == r"\x1b[2J\u200b"
    assert (tags["mlflow.note.content"], tags["output.x"]) == ("a\nb", "\x1b\u200b")


def test_any_number_of_values_is_logged(store: Store) -> None:
    run_id = store.client.create_run("0").info.run_id
    texts = {f"name_{i}": str(i) for i in range(230)}
    metrics = {f"name_{i}": float(i) for i in range(2_100)}
    store.opened.log(run_id, metrics=metrics, params=texts, tags=texts)
    data = store.client.get_run(run_id).data
    assert data.metrics == metrics and data.params == texts and texts.items() <= data.tags.items()


def test_a_step_that_returns_more_than_a_tag_holds_fails(
    earlier: Store, drive: Drive, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = importlib.import_module("steps.model_qa")
    outputs = {"qa_complete": "x" * 8_001, "qa_passed": True}
    monkeypatch.setattr(step, "run", functools.wraps(step.run)(lambda *_, **__: outputs))
    result = drive("--only=model_qa")
    assert result.code == 4
    text = " ".join(result.text.split())
    assert "returned 8,001 characters as the output qa_complete, and a tag of MLflow holds 8,000." in text


def test_the_tag_of_shown_tables_stays_valid_json(store: Store) -> None:
    run_id = store.client.create_run("0").info.run_id
    for i in range(12):
        store.opened.log_table(
            run_id, pl.DataFrame({"x": [i]}), f"{'t' * 200}/{'t' * 200}/{'t' * 200}/{'t' * 200}/{i}.json"
        )
    shown = json.loads(store.client.get_run(run_id).data.tags["mlflow.loggedArtifacts"])
    assert 8 < len(shown) < 12


def test_a_table_with_a_long_path_is_an_input_with_its_whole_path(store: Store) -> None:
    run_id = store.client.create_run("0").info.run_id
    uri = f"/{'/'.join(['long' * 40] * 5)}/train"
    lineage.log_delta_input(store.opened, run_id, tables.Table(uri, 3, 1, "digest"), "train")
    run = store.client.get_run(run_id)
    assert uri in lineage.input_uris(run)
    assert max(len(tag.value) for logged in run.inputs.dataset_inputs for tag in logged.tags) == 500


# -- outputs of a step


@pytest.mark.parametrize("step", STEPS)
def test_every_declared_output_is_a_tag_of_the_step_s_run(finished: Store, step: str) -> None:
    run = finished.child(step)
    assert lineage.outputs(run).keys() == set(load("local").steps[step].outputs)


def test_ids_and_verdicts_are_output_tags(finished: Store) -> None:
    assert finished.child("train").data.tags["output.train_run_id"] == finished.child("train").info.run_id
    assert finished.child("prepare_data").data.tags["output.pipeline_run_id"] == finished.parent().info.run_id
    assert finished.child("model_qa").data.tags["output.qa_passed"] == "true"
    evaluate_run = finished.child("evaluate")
    assert float(evaluate_run.data.tags["output.test_headline"]) == evaluate_run.data.metrics["test_auc"]


@pytest.mark.parametrize("name", TABLES)
def test_a_table_output_has_tags_for_its_version_rows_and_digest(finished: Store, name: str) -> None:
    tags = finished.child("prepare_data").data.tags
    uri = tags[f"output.{name}"]
    table = deltalake.DeltaTable(uri)
    assert tags[f"output.{name}.version"] == str(table.version())
    assert tags[f"output.{name}.rows"] == str(pl.read_delta(uri).height)
    assert tags[f"output.{name}.digest"] == tables.measure_table(uri, table.version())[1]


def test_the_path_of_a_table_contains_environment_experiment_pipeline_run_and_step(finished: Store) -> None:
    run = finished.child("prepare_data")
    parts = Path(run.data.tags["output.train_uri"]).relative_to(finished.tables).parts
    pipeline = f"pipeline_run_{finished.parent().info.run_id}"
    assert parts == (
        "local",
        "local_pipeline_experiment",
        pipeline,
        f"01_prepare_data_{run.info.run_id[:8]}",
        "train",
    )


# -- lineage


@pytest.mark.parametrize(("step", "name"), READS.items())
def test_a_table_that_a_step_reads_is_a_dataset_input_of_its_run(finished: Store, step: str, name: str) -> None:
    uri = finished.child("prepare_data").data.tags[f"output.{name}"]
    [dataset_input] = finished.child(step).inputs.dataset_inputs
    assert dataset_input.dataset.source_type == "delta_table"
    assert mlflow.data.get_source(dataset_input).path == uri
    assert mlflow.data.get_source(dataset_input).delta_table_version == 0
    tags = {tag.key: tag.value for tag in dataset_input.tags}
    assert tags == {"mlflow.data.context": step, "dataset_path": uri, "dataset_version": "0"}


def test_a_step_that_reads_no_table_has_no_dataset_input(finished: Store) -> None:
    assert finished.child("prepare_data").inputs.dataset_inputs == []


def test_a_catalog_table_is_a_dataset_input_with_its_name_and_version(
    store: Store, drive: Drive, tmp_path: Path
) -> None:
    spark = engines.spark_session("sail", True)  # the step's own session, which has the network
    frame = spark.createDataFrame([(i, i % 7, i % 2) for i in range(60)], "id bigint, f bigint, label bigint")
    frame.write.format("delta").save(str(tmp_path / "named"))
    spark.sql(f"CREATE TABLE default.of_lineage USING delta LOCATION '{tmp_path / 'named'}'")
    name = "default.of_lineage"
    table = f"data.source.kind=table,data.source.table={name}"
    # Without a version the tag is unknown, since Sail can't say which is the newest.
    for version, version_tag in ((",data.source.version=0", "0"), ("", "unknown")):
        result = drive("--only=prepare_data", f"--set={table}{version}")
        assert result.code == 0, result.text
        assert ("The version of default.of_lineage is not recorded: the table has no" in result.out) is not bool(
            version
        )
        [dataset_input] = store.child("prepare_data").inputs.dataset_inputs
        source = json.loads(dataset_input.dataset.source)
        assert source == {"delta_table_name": name, **({"delta_table_version": 0} if version else {})}
        tags = {tag.key: tag.value for tag in dataset_input.tags}
        assert tags == {
            "mlflow.data.context": "prepare_data", "dataset_path": "default.of_lineage", "dataset_version": version_tag
        }  # fmt: skip


def test_lineage_can_be_turned_off(earlier: Store, drive: Drive) -> None:
    assert drive("--only=train", "--set=mlflow.log_datasets=false").code == 0
    assert earlier.child("train").inputs.dataset_inputs == []


# -- what a run records about itself


def test_params_are_logged_flat_with_the_seed(finished: Store) -> None:
    params = finished.child("train").data.params
    assert params["estimator"] == "sklearn.ensemble.HistGradientBoostingClassifier"
    assert params["options.max_iter"] == "5"
    assert params["seed"] == "42"
    assert params["threshold"] == "0.5"


@pytest.mark.parametrize("step", STEPS)
def test_a_step_logs_its_own_configuration(finished: Store, step: str) -> None:
    config = content(finished, finished.child(step), "config.json")
    assert list(config["steps"]) == [step]  # type: ignore[call-overload]
    assert config["profile"] == "local"


def test_the_pipeline_run_logs_the_whole_configuration(finished: Store) -> None:
    config = content(finished, finished.parent(), "config.json")
    assert list(config["steps"]) == [*STEPS, "score"]  # type: ignore[call-overload]
    assert config["data"]["source"]["rows"] == 400  # type: ignore[index]


def test_a_value_from_the_environment_is_not_logged(
    store: Store, drive: Drive, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    change(project / "conf" / "local.yaml", "local_pipeline_experiment", "${oc.env:EXPERIMENT_OF_THIS_TEST}")
    monkeypatch.setenv("EXPERIMENT_OF_THIS_TEST", "kept-to-itself")
    monkeypatch.setattr(paths, "root", lambda: project)
    assert drive("--only=prepare_data").code == 0
    assert store.client.get_experiment_by_name("kept-to-itself") is not None
    for run in (store.parent(), store.child("prepare_data")):
        text = store.artifact(run, "config.json").read_text()
        assert "${oc.env:EXPERIMENT_OF_THIS_TEST}" in text
        assert "kept-to-itself" not in text


def test_headline_metrics_are_copied_to_the_pipeline_run(finished: Store) -> None:
    metrics = finished.parent().data.metrics
    assert {"train_auc", "test_auc", "test_f1"} <= metrics.keys()
    assert metrics == {  # a headline of another kind of problem, such as train_rmse, is logged by no step
        name: value
        for step in STEPS
        for name, value in finished.child(step).data.metrics.items()
        if name in load("local").steps[step].headline
    }


def test_the_description_of_the_pipeline_run_shows_its_steps_and_results(finished: Store) -> None:
    note = finished.parent().data.tags["mlflow.note.content"]
    for words in ("local · synthetic · sail · inline\n", "✓ 02_train", "auc ", "passed 7 of 7"):
        assert words in note


def test_the_pipeline_run_is_tagged_with_how_it_ran(finished: Store) -> None:
    tags = finished.parent().data.tags
    assert {name: tags[name] for name in ("profile", "env", "engine", "backend", "exit_code")} == {
        "profile": "local",
        "env": "local",
        "engine": "sail",
        "backend": "inline",
        "exit_code": "0",
    }


@pytest.mark.parametrize("step", STEPS)
def test_the_log_of_a_step_is_an_artifact_of_its_run(finished: Store, step: str) -> None:
    run = finished.child(step)
    assert f"steps.{step}: run {run.info.run_id}" in finished.artifact(run, f"{step}.log").read_text()


def test_messages_and_warnings_of_a_step_are_in_its_log(
    earlier: Store, drive: Drive, monkeypatch: pytest.MonkeyPatch
) -> None:
    import logging
    import warnings

    def log_and_warn(*_: object) -> dict[str, object]:
        logging.getLogger("steps.model_qa").info("a word of the step's own")
        warnings.warn("a library's warning", stacklevel=1)
        return {}

    monkeypatch.setattr("steps.model_qa.run_checks", log_and_warn)
    assert drive("--only=model_qa").code == 0
    text = earlier.artifact(earlier.child("model_qa"), "model_qa.log").read_text()
    assert "a word of the step's own" in text
    assert "a library's warning" in text


# -- which code ran


@pytest.fixture
def repository(project: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Return a copy of the project as a git repository of one commit."""
    me = ["-c", "user.name=test", "-c", "user.email=test@example.invalid", "-c", "commit.gpgsign=false"]
    for command in (["init", "-q"], ["add", "."], [*me, "commit", "-q", "-m", "all"]):
        subprocess.run(["git", "-C", str(project), *command], check=True)
    monkeypatch.setattr(paths, "root", lambda: project)
    provenance.provenance_tags.cache_clear()
    yield project
    provenance.provenance_tags.cache_clear()


def test_the_commit_and_the_package_version_are_tags_of_parent_and_child(
    store: Store, drive: Drive, repository: Path
) -> None:
    assert drive("--only=prepare_data").code == 0
    head = subprocess.run(["git", "-C", str(repository), "rev-parse", "HEAD"], capture_output=True, text=True)
    for run in (store.parent(), store.child("prepare_data")):
        assert run.data.tags["mlflow.source.git.commit"] == head.stdout.strip()
        assert run.data.tags["git.dirty"] == "false"
        assert run.data.tags["package_version"]


@pytest.mark.parametrize("change", ["steps/train.py", "a_new_file.py"])
def test_an_uncommitted_change_is_tagged_as_dirty(repository: Path, change: str) -> None:
    with (repository / change).open("a") as file:
        file.write("# changed\n")
    assert provenance.provenance_tags()["git.dirty"] == "true"


def test_without_git_no_commit_is_tagged(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paths, "root", lambda: project)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(project.parent))
    assert "mlflow.source.git.commit" not in provenance.provenance_tags.__wrapped__()


# -- where the store is


def test_artifacts_are_beside_the_database_from_any_working_directory(
    store: Store, drive: Drive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    assert drive("--only=prepare_data").code == 0
    assert list(elsewhere.iterdir()) == []
    for run in (store.parent(), store.child("prepare_data")):
        assert Path(run.info.artifact_uri).is_relative_to(tmp_path / "mlruns")
    assert "prepare_data.log" in store.artifacts(store.child("prepare_data"))


def test_a_relative_store_means_the_same_from_any_working_directory(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///mlflow.db")
    monkeypatch.chdir(tmp_path)
    assert opening.open_store(load("local")).uri == store.uri


def test_the_store_of_the_environment_overrides_the_store_of_the_profile(store: Store) -> None:
    assert opening.open_store(load("local", ["mlflow.tracking_uri=sqlite:////nowhere/mlflow.db"])).uri == store.uri


def test_the_default_store_is_the_file_beside_mlproject(
    project: Path, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mlflow.db").rename(project / "mlflow.db")
    monkeypatch.setattr(paths, "root", lambda: project)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
    assert opening.open_store(load("local")).uri == f"sqlite:///{project / 'mlflow.db'}"


def test_mlflow_s_file_store_can_be_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, store: Store) -> None:
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "mlruns").as_uri())
    opened = opening.open_store(load("local"))
    run_id = opened.create_step_run(opened.experiment_id("mine"), "train", None)
    assert opened.get_run(run_id).data.tags["step"] == "train"


@pytest.mark.parametrize("name", ["a_text", "a_text/mlflow.db"], ids=["no database", "below a file"])
def test_a_store_that_can_not_be_opened_is_reported_in_one_line(
    store: Store, drive: Drive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    (tmp_path / "a_text").write_text("This is a text, and it is long enough to have the header of a database.\n" * 2)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / name}")
    result = drive()
    assert result.code == 2
    assert re.search(
        rf"The MLflow store:? (sqlite:///)?{re.escape(str(tmp_path / 'a_text'))}.* can't be (opened|written)",
        result.err,
    )
    assert len(result.text.splitlines()) == 1


# -- finding earlier runs


def test_a_pipeline_run_is_found_by_the_beginning_of_its_id(finished: Store, earlier: Store) -> None:
    run = finished.parent().info
    assert lineage.find_pipeline_run(earlier.opened, run.run_id[:8], run.experiment_id) == run.run_id
    with pytest.raises(ConfigError, match="'xyz' is not the id of a run"):
        lineage.find_pipeline_run(earlier.opened, "xyz", run.experiment_id)
    absent = "0000000" if run.run_id[0] != "0" else "1111111"
    with pytest.raises(ConfigError, match=f"begins with '{absent}'. The latest are: {run.run_id[:8]}."):
        lineage.find_pipeline_run(earlier.opened, absent, run.experiment_id)


def test_a_step_that_did_not_finish_has_no_outputs_for_other_steps(earlier: Store) -> None:
    earlier.client.update_run(earlier.child("train").info.run_id, status="FAILED")
    outputs = lineage.outputs_of_pipeline(earlier.opened, earlier.parent().info.run_id)
    assert "train_uri" in outputs and "train_run_id" not in outputs


def test_the_latest_run_that_has_the_outputs_is_found(earlier: Store) -> None:
    run = earlier.parent().info
    assert lineage.latest_with(earlier.opened, {"train_uri", "train_run_id"}, run.experiment_id, "local") == run.run_id
    with pytest.raises(ConfigError, match="No earlier pipeline run of profile local has champion"):
        lineage.latest_with(earlier.opened, {"champion"}, run.experiment_id, "local")


@pytest.mark.parametrize("look", ["get_run", "children"])
def test_a_missing_run_is_named_with_the_store(earlier: Store, look: str) -> None:
    with pytest.raises(ConfigError, match=f"The store {earlier.uri} has no run nothing"):
        getattr(earlier.opened, look)("nothing")


def test_the_last_line_is_the_command_that_shows_the_run(store: Store, drive: Drive) -> None:
    last = drive("--only=prepare_data").out.rstrip().splitlines()[-1]
    command = last.removeprefix("Look at it: ml-pipelines report --open · ")
    assert shlex.split(command) == ["mlflow", "ui", "--backend-store-uri", store.uri]
    assert mlflow.get_tracking_uri() == store.uri
