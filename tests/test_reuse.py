"""What is computed again and what isn't, and the reason that is given, through the commands a user types.

One pipeline run on a CSV is made once; most tests then ask `--dry-run`, which executes nothing, what would be done.
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

import mlflow
import pytest
from click.testing import CliRunner
from conftest import FAST, ROOT, Store, use

import driver
from ml_pipelines import fingerprint
from ml_pipelines.config import load

STEPS = ("prepare_data", "train", "evaluate", "feature_importance", "model_qa")


def rows(count: int, first: float = 0.5) -> str:
    """Return a CSV whose label depends on x, with `first` as the first x."""
    lines = [
        f"{i},{first if i == 0 else (i * 37 % 101) / 101},{'ab'[i % 2]},{int(i * 37 % 101 + i % 23 > 60)}"
        for i in range(count)
    ]
    return "\n".join(["id,x,kind,label", *lines]) + "\n"


class Finished:
    """A finished pipeline run, and its options."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.csv = folder / "rows.csv"
        self.store = Store(f"sqlite:///{folder / 'mlflow.db'}", folder / "delta")

    def options(self, *changes: str) -> list[str]:
        source = f"data.source.kind=file,data.source.path={self.csv},data.delta_prefix.local={self.store.tables}"
        return [f"--set={FAST}", f"--set={source}", "--backend=inline", *changes]

    def drive(self, *changes: str, code: int = 0) -> str:
        done = CliRunner().invoke(driver.main, self.options(*changes))
        assert done.exit_code == code, done.output
        return done.output

    def reasons(self, *changes: str) -> dict[str, str]:
        """Return step -> what a dry run says would be done with it."""
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
    """Return a finished pipeline of the test's own, which it may change."""
    copy = Finished(tmp_path)
    shutil.copy(once.folder / "mlflow.db", tmp_path / "mlflow.db")
    copy.csv = once.csv
    copy.store = Store(copy.store.uri, once.store.tables)
    use(copy.store, monkeypatch)
    return copy


def test_nothing_changed_makes_no_run_and_names_the_current_one(finished: Finished) -> None:
    assert f"pipeline run {finished.store.parent().info.run_id} is current" in finished.drive()


def test_a_dry_run_says_of_each_step_that_it_is_unchanged(finished: Finished) -> None:
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
def test_what_a_result_depends_on_invalidates_it(finished: Finished, change: str, step: str, reason: str) -> None:
    assert finished.reasons(f"--set={change}")[step] == reason


@pytest.mark.parametrize("change", ["max_parallel=1", "mlflow.log_datasets=false", "data.volume_name=other"])
def test_what_a_result_does_not_depend_on_leaves_it(finished: Finished, change: str) -> None:
    assert set(finished.reasons(f"--set={change}").values()) == {"reused: unchanged"}


def test_behind_a_step_that_runs_a_dry_run_promises_nothing(finished: Finished) -> None:
    said = finished.reasons("--force=train")
    assert said["prepare_data"] == "reused: unchanged"
    assert said["train"] == "runs: forced"
    assert said["model_qa"].startswith("runs: upstream runs")


def test_other_content_at_the_same_path_is_seen(finished: Finished) -> None:
    before, stat = finished.csv.read_text(), finished.csv.stat()
    try:
        finished.csv.write_text(rows(400, first=0.25).replace("\n0,0.25", "\n0,0.75"))
        os.utime(finished.csv, ns=(stat.st_atime_ns, stat.st_mtime_ns))  # the clock tells nothing
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
        assert finished.reasons()["prepare_data"] == "runs: outputs are gone or damaged"
    finally:
        shutil.rmtree(table, ignore_errors=True)
        shutil.move(tmp_path / "kept", table)


def test_a_changed_model_file_is_trained_again(finished: Finished) -> None:
    uri = finished.store.child("train").data.tags["output.model_uri"]
    file = Path(mlflow.artifacts.download_artifacts(uri), "model.skops")
    before = file.read_bytes()
    try:
        file.write_bytes(before + b" ")
        said = finished.reasons()
        assert said["prepare_data"] == "reused: unchanged"
        assert said["train"] == "runs: outputs are gone or damaged"
    finally:
        file.write_bytes(before)


def test_tables_below_another_prefix_are_not_taken(finished: Finished, tmp_path: Path) -> None:
    said = finished.reasons(f"--set=data.delta_prefix.local={tmp_path}")
    assert said["prepare_data"] == "runs: outputs are gone or damaged"


def test_one_knob_of_train_leaves_prepare_data_alone(own: Finished) -> None:
    output = own.drive("--set=steps.train.params.options.max_iter=6")
    assert re.search(r"= 01_prepare_data .*reused \(unchanged\)", output)
    assert re.search(r"✓ 02_train .*ran: param options.max_iter 5 -> 6", output)
    parent = own.store.parent()
    taken = own.store.child("prepare_data")
    assert taken.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert taken.data.tags["reused_from"] != taken.info.run_id
    assert taken.data.tags["reason"] == "unchanged"
    assert taken.data.tags["mlflow.note.content"] == taken.data.tags["summary"]
    assert {run.info.status for run in own.store.runs()} == {"FINISHED"}


def test_the_same_result_upstream_leaves_everything_after_it_valid(own: Finished) -> None:
    output = own.drive("--force=prepare_data")
    assert re.search(r"✓ 01_prepare_data .*ran: forced", output)
    assert output.count("reused (unchanged)") == 4


def test_an_unfinished_step_is_never_taken(own: Finished) -> None:
    for step in ("train", "prepare_data"):
        own.store.client.update_run(own.store.child(step).info.run_id, status="RUNNING")
    assert own.reasons()["prepare_data"] == "runs: first run"


def test_a_librarys_version_invalidates(own: Finished) -> None:
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
            "steps/modelling.py",
            "predict_proba(features)[:, 1]",
            "predict_proba(features)[:, 1] + 0",
            "train",
            "runs: code changed (steps.modelling)",
        ),
        ("steps/evaluate.py", 'n_bins": 10', 'n_bins": 11', "train", "reused: unchanged"),
        ("steps/modelling.py", "from __future__", "# a remark\nfrom __future__", "model_qa", "reused: unchanged"),
        (
            "ml_pipelines/ingest.py",
            "CLASSES_SHOWN = 20",
            "CLASSES_SHOWN = 21",
            "prepare_data",
            "runs: code changed (ml_pipelines.ingest)",
        ),
        ("ml_pipelines/sync.py", "import io", "import io\nADDED = 1", "prepare_data", "reused: unchanged"),
    ],
)
def test_code_that_a_step_imports_invalidates_it_and_other_code_does_not(
    finished: Finished, project: Path, file: str, old: str, new: str, step: str, reason: str
) -> None:
    path = project / file
    path.write_text(path.read_text().replace(old, new))
    command = [sys.executable, str(project / "driver.py"), "--dry-run", *finished.options()]
    done = subprocess.run(
        command,
        cwd=project,
        capture_output=True,
        text=True,
        check=True,
        timeout=100,
        env={**os.environ, "PYTHONPATH": str(project)},
    )
    assert reasons(done.stdout)[step] == reason
    assert project != ROOT


@pytest.mark.parametrize(("options", "named"), [("{}", set()), ("{max_iter: 9}", {"param options.max_iter"})])
def test_the_first_option_given_is_named_by_itself(options: str, named: set[str]) -> None:
    config = load("local", [f"steps.train.params.options={options}"])
    parts = fingerprint.parts(config, dataclasses.replace(config.steps["train"], inputs=[]), {})
    assert {part for part in parts if part.startswith("param options")} == named
