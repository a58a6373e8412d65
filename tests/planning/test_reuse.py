"""Which steps run again, which are reused, and the reason that the driver shows, through the commands a user types.

One pipeline run on a CSV is made once; most tests then read the plan of `--dry-run`, which executes nothing.
"""

import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
import pytest
from click.testing import CliRunner
from conftest import FAST, ROOT, Store, change, rows, use
from mlflow.entities import Run

import driver
from ml_pipelines.config.loading import load
from ml_pipelines.planning import fingerprint
from ml_pipelines.planning.memory import Memory

STEPS = ("prepare_data", "train", "evaluate", "feature_importance", "model_qa")


class Finished:
    """A finished pipeline run and its options."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.csv = folder / "rows.csv"
        self.store = Store(f"sqlite:///{folder / 'mlflow.db'}", folder / "delta")

    def options(self, *changes: str) -> list[str]:
        source = f"data.source.kind=file,data.source.path={self.csv},data.delta_prefix.local={self.store.tables}"
        return [f"--set={FAST}", f"--set={source}", "--backend=inline", *changes]

    def drive(self, *changes: str, code: int = 0) -> str:
        result = CliRunner().invoke(driver.main, self.options(*changes))
        assert result.exit_code == code, result.output
        return result.output

    def reasons(self, *changes: str) -> dict[str, str]:
        """Return for each step whether a dry run shows it as running or reused, and why."""
        return reasons(self.drive("--dry-run", *changes))


def reasons(output: str) -> dict[str, str]:
    return dict(zip(STEPS, re.findall(r"^ +((?:runs|reused): .*)$", output, re.MULTILINE), strict=True))


@pytest.fixture(scope="module")
def once(migrated: Path, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    folder = tmp_path_factory.mktemp("finished")
    shutil.copy(migrated, folder / "mlflow.db")
    finished = Finished(folder)
    finished.csv.write_text(rows(400))
    with pytest.MonkeyPatch.context() as patch:
        use(finished.store, patch)
        finished.drive()
    return finished


@pytest.fixture
def finished(once: Finished, monkeypatch: pytest.MonkeyPatch) -> Iterator[Finished]:
    use(once.store, monkeypatch)
    count = len(once.store.runs())
    yield once
    assert len(once.store.runs()) == count, "a test of this module left runs behind"


@pytest.fixture
def own(once: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Finished:
    """Return a copy of the finished pipeline run, which the test may change."""
    copy = Finished(tmp_path)
    shutil.copy(once.folder / "mlflow.db", tmp_path / "mlflow.db")
    copy.csv = once.csv
    copy.store = Store(copy.store.uri, once.store.tables)
    use(copy.store, monkeypatch)
    return copy


def test_an_unchanged_pipeline_creates_no_run_and_names_the_current_one(finished: Finished) -> None:
    assert f"nothing has changed since pipeline run {finished.store.parent().info.run_id} " in finished.drive()


def test_a_dry_run_shows_each_unchanged_step_as_reused(finished: Finished) -> None:
    assert set(finished.reasons().values()) == {"reused: unchanged"}


@pytest.mark.parametrize(
    ("change", "step", "reason"),
    [
        ("seed=7", "prepare_data", "runs: setting seed 42 -> 7"),
        ("data.test_fraction=0.3", "prepare_data", "runs: setting data.test_fraction 0.2 -> 0.3"),
        ("steps.train.params.options.max_iter=6", "train", "runs: param options.max_iter 5 -> 6"),
        ("steps.evaluate.params.threshold=0.4", "evaluate", "runs: param threshold 0.5 -> 0.4"),
        ("spark.engine=jvm", "prepare_data", "runs: engine sail -> jvm"),
        ("steps.train.external=[LICENSE]", "train", "runs: external changed (LICENSE)"),
        ("reuse=false", "prepare_data", "runs: reuse is off"),
    ],
)
def test_a_changed_dependency_invalidates_a_step(finished: Finished, change: str, step: str, reason: str) -> None:
    assert finished.reasons(f"--set={change}")[step] == reason


@pytest.mark.parametrize("change", ["max_parallel=1", "mlflow.log_datasets=false", "data.volume_name=other"])
def test_a_setting_that_no_step_depends_on_invalidates_nothing(finished: Finished, change: str) -> None:
    assert set(finished.reasons(f"--set={change}").values()) == {"reused: unchanged"}


def test_a_dry_run_expects_the_steps_after_a_forced_step_to_run(finished: Finished) -> None:
    step_reasons = finished.reasons("--force=train")
    assert step_reasons["prepare_data"] == "reused: unchanged"
    assert step_reasons["train"] == "runs: forced"
    assert step_reasons["model_qa"].startswith("runs: upstream runs")


def test_new_content_at_the_same_path_invalidates_prepare_data(finished: Finished) -> None:
    before, stat = finished.csv.read_text(), finished.csv.stat()
    try:
        finished.csv.write_text(rows(400, first=0.75))
        os.utime(finished.csv, ns=(stat.st_atime_ns, stat.st_mtime_ns))  # the modification time stays the same
        assert finished.reasons()["prepare_data"] == "runs: source changed"
    finally:
        finished.csv.write_text(before)


def test_the_same_content_at_another_path_is_reused(finished: Finished, tmp_path: Path) -> None:
    copy = tmp_path / "elsewhere.csv"
    shutil.copy(finished.csv, copy)
    assert finished.reasons(f"--set=data.source.path={copy}")["prepare_data"] == "reused: unchanged"


@pytest.mark.parametrize("damage", ["deleted", "truncated", "rewritten at the same version"])
def test_damaged_outputs_are_computed_again(finished: Finished, damage: str, tmp_path: Path) -> None:
    table = Path(finished.store.child("prepare_data").data.tags["output.train_uri"])
    shutil.copytree(table, tmp_path / "kept")
    try:
        if damage == "deleted":
            shutil.rmtree(table)
        elif damage == "truncated":
            file = next(table.rglob("*.parquet"))
            file.write_bytes(file.read_bytes()[:-20])
        else:
            import polars as pl

            frame = pl.read_delta(str(table))
            shutil.rmtree(table)
            frame.with_columns(pl.col("x") + 1).write_delta(str(table))
        assert finished.reasons()["prepare_data"] == "runs: outputs are missing or damaged"
    finally:
        shutil.rmtree(table, ignore_errors=True)
        shutil.move(tmp_path / "kept", table)


def test_a_changed_model_file_makes_train_run_again(finished: Finished) -> None:
    uri = finished.store.child("train").data.tags["output.model_uri"]
    file = Path(mlflow.artifacts.download_artifacts(uri), "model.skops")
    before = file.read_bytes()
    try:
        file.write_bytes(before + b" ")
        step_reasons = finished.reasons()
        assert step_reasons["prepare_data"] == "reused: unchanged"
        assert step_reasons["train"] == "runs: outputs are missing or damaged"
    finally:
        file.write_bytes(before)


def test_tables_below_another_prefix_are_not_reused(finished: Finished, tmp_path: Path) -> None:
    step_reasons = finished.reasons(f"--set=data.delta_prefix.local={tmp_path}")
    assert step_reasons["prepare_data"] == "runs: outputs are missing or damaged"


def test_prepare_data_is_reused_if_only_a_param_of_train_changes(own: Finished) -> None:
    output = own.drive("--set=steps.train.params.options.max_iter=6")
    assert re.search(r"= 01_prepare_data .*reused \(unchanged\)", output)
    assert re.search(r"✓ 02_train .*ran: param options.max_iter 5 -> 6", output)
    parent = own.store.parent()
    reused_run = own.store.child("prepare_data")
    assert reused_run.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert reused_run.data.tags["reused_from"] != reused_run.info.run_id
    assert reused_run.data.tags["reason"] == "unchanged"
    assert reused_run.data.tags["mlflow.note.content"] == reused_run.data.tags["summary"]
    assert {run.info.status for run in own.store.runs()} == {"FINISHED"}


def test_steps_are_reused_if_an_upstream_step_gives_the_same_result_again(own: Finished) -> None:
    output = own.drive("--force=prepare_data")
    assert re.search(r"✓ 01_prepare_data .*ran: forced", output)
    assert output.count("reused (unchanged)") == 4


def test_a_reused_step_shows_the_data_of_the_run_that_computed_it(own: Finished) -> None:
    before, first = own.store.below(), own.store.parent()
    assert "= 02_train" in own.drive("--set=steps.evaluate.params.threshold=0.4")
    after = own.store.below()
    for name in ("01_prepare_data", "02_train", "04_feature_importance"):
        computed_run, reused_run = before[name], after[name]
        assert reused_run.data.tags["reused_from"] == computed_run.info.run_id
        assert (
            reused_run.data.params == computed_run.data.params and reused_run.data.metrics == computed_run.data.metrics
        )
        assert _datasets(reused_run) == _datasets(computed_run)
    assert after["02_train"].data.params["train_uri"] == before["01_prepare_data"].data.tags["output.train_uri"]
    assert len(_datasets(after["02_train"])) == 1
    assert own.store.parent().data.metrics["train_auc"] == first.data.metrics["train_auc"]


def _datasets(run: Run) -> list[dict[str, Any]]:
    """Return the datasets that a run shows as its inputs."""
    return [dataset_input.to_dictionary() for dataset_input in run.inputs.dataset_inputs]


def test_a_step_that_did_not_finish_is_not_reused(own: Finished) -> None:
    for step in ("train", "prepare_data"):
        own.store.client.update_run(own.store.child(step).info.run_id, status="RUNNING")
    assert own.reasons()["prepare_data"] == "runs: first run"


def test_another_library_version_invalidates_a_step(own: Finished) -> None:
    run = own.store.child("train")
    parts = json.loads(run.data.tags["fingerprint.parts"])
    own.store.client.set_tag(run.info.run_id, "fingerprint", "of another day")
    own.store.client.set_tag(run.info.run_id, "fingerprint.parts", json.dumps({**parts, "library scikit-learn": "1.0"}))
    assert re.match(r"runs: library scikit-learn 1.0 -> \d", own.reasons()["train"])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "old", "new", "step", "reason"),
    [
        ("steps/train.py", "MAX_CATEGORIES = 254", "MAX_CATEGORIES = 253", "train", "runs: code changed (steps.train)"),
        (
            "ml_pipelines/modelling/features.py",
            "predict_proba(features)[:, 1]",
            "predict_proba(features)[:, 1] + 0",
            "train",
            "runs: code changed (ml_pipelines.modelling.features)",
        ),
        ("steps/evaluate.py", "POINTS = 200", "POINTS = 201", "train", "reused: unchanged"),
        (
            "ml_pipelines/modelling/features.py",
            "from __future__",
            "# a remark\nfrom __future__",
            "model_qa",
            "reused: unchanged",
        ),
        (
            "ml_pipelines/data/ingest.py",
            "CLASSES_SHOWN = 20",
            "CLASSES_SHOWN = 21",
            "prepare_data",
            "runs: code changed (ml_pipelines.data.ingest)",
        ),
        ("ml_pipelines/bundle/sync.py", "import io", "import io\nADDED = 1", "prepare_data", "reused: unchanged"),
    ],
)
def test_code_that_a_step_imports_invalidates_it_and_other_code_does_not(
    finished: Finished, project: Path, file: str, old: str, new: str, step: str, reason: str
) -> None:
    change(project / file, old, new)
    command = [sys.executable, str(project / "driver.py"), "--dry-run", *finished.options()]
    result = subprocess.run(
        command,
        cwd=project,
        capture_output=True,
        text=True,
        check=True,
        timeout=100,
        env={**os.environ, "PYTHONPATH": str(project)},
    )
    assert reasons(result.stdout)[step] == reason
    assert project != ROOT


@pytest.mark.parametrize(("options", "part_names"), [("{}", set()), ("{max_iter: 9}", {"param options.max_iter"})])
def test_each_option_of_the_estimator_is_named_in_the_fingerprint(
    store: Store, options: str, part_names: set[str]
) -> None:
    config = load("local", [f"steps.train.params.options={options}"])
    parts = fingerprint.fingerprint_parts(
        Memory(), store.opened, config, dataclasses.replace(config.steps["train"], inputs=[]), {}
    )
    assert {part for part in parts if part.startswith("param options")} == part_names
