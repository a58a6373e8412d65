"""Which steps run again, which are reused, and the reason that the driver shows, through the commands a user types.

One pipeline run on a CSV is made once; most tests then read the plan of `--dry-run`, which executes nothing.
"""

import dataclasses
import json
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import date
from pathlib import Path
from typing import Any

import mlflow
import pytest
from click.testing import CliRunner
from conftest import FAST, ROOT, Result, Store, change, rows, use
from mlflow.entities import Run

import driver
from ml_pipelines.config.loading import load
from ml_pipelines.config.schema import SourceKind
from ml_pipelines.errors import BadData
from ml_pipelines.planning import fingerprint
from ml_pipelines.planning.memory import Memory
from ml_pipelines.system import paths

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


@pytest.mark.slow
@pytest.mark.parametrize("how", ["deleted", "erased"])
def test_a_pipeline_run_that_is_deleted_or_erased_is_not_current(own: Finished, how: str) -> None:
    first = own.store.parent().info.run_id
    own.store.client.delete_run(first)
    if how == "erased":
        own.store.client._tracking_client.store._hard_delete_run(first)  # this is what `mlflow gc` calls
    output = own.drive()
    assert output.count("reused (unchanged)") == 5
    second = own.store.parent().info.run_id
    assert second != first and f"nothing has changed since pipeline run {second} " in own.drive()


def test_a_dry_run_shows_each_unchanged_step_as_reused(finished: Finished) -> None:
    assert set(finished.reasons().values()) == {"reused: unchanged"}


@pytest.mark.parametrize(
    ("change", "step", "reason"),
    [
        ("seed=7", "prepare_data", "runs: setting seed 42 -> 7"),
        ("data.test_fraction=0.3", "prepare_data", "runs: setting data.test_fraction 0.2 -> 0.3"),
        ("steps.train.params.options.max_iter=6", "train", "runs: param options.max_iter 5 -> 6"),
        ("steps.train.params.threshold=0.4", "train", "runs: param threshold 0.5 -> 0.4"),
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


def test_a_selected_step_runs_even_if_nothing_has_changed(finished: Finished) -> None:
    assert re.findall("(?:runs|reused): .*", finished.drive("--dry-run", "--only=train")) == ["runs: you selected it"]


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


def test_train_runs_again_if_mlflows_own_file_about_the_model_is_gone(finished: Finished) -> None:
    uri = finished.store.child("train").data.tags["output.model_uri"]
    file = Path(mlflow.artifacts.download_artifacts(uri), "MLmodel")
    before = file.read_bytes()
    try:
        file.unlink()
        assert finished.reasons()["train"] == "runs: outputs are missing or damaged"
    finally:
        file.write_bytes(before)


@pytest.mark.parametrize(
    ("step", "name"), [("evaluate", "predictions.parquet"), ("feature_importance", "feature_importance.json")]
)
@pytest.mark.parametrize("damage", ["deleted", "changed"])
def test_a_step_runs_again_if_a_table_that_a_later_step_loads_is_damaged(
    finished: Finished, step: str, name: str, damage: str
) -> None:
    file = Path(finished.store.child(step).info.artifact_uri, name)
    before = file.read_bytes()
    try:
        file.unlink() if damage == "deleted" else file.write_bytes(before + b" ")
        step_reasons = finished.reasons()
        assert step_reasons[step] == "runs: outputs are missing or damaged"
        assert step_reasons["train"] == "reused: unchanged"
    finally:
        file.write_bytes(before)


@pytest.mark.slow
def test_a_reused_steps_tables_are_looked_at_in_the_run_that_computed_them(own: Finished) -> None:
    own.drive("--set=steps.model_qa.params.level=0.9")
    assert own.store.child("evaluate").data.tags["reused_from"]
    assert own.reasons("--set=steps.model_qa.params.level=0.9")["evaluate"] == "reused: unchanged"


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


@pytest.mark.slow
def test_a_reused_step_shows_the_data_of_the_run_that_computed_it(own: Finished) -> None:
    before, first = own.store.below(), own.store.parent()
    assert "= 02_train" in own.drive("--set=steps.model_qa.params.level=0.8")
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
    own.store.client.set_tag(run.info.run_id, "fingerprint", "another fingerprint")
    with parts_of(own.store, run, lambda parts: {**parts, "library scikit-learn": "1.0"}):
        assert re.match(r"runs: library scikit-learn 1.0 -> \d", own.reasons()["train"])


@contextmanager
def parts_of(store: Store, run: Run, changed: Callable[[dict[str, Any]], dict[str, Any] | None]) -> Iterator[None]:
    """Change the parts of a run's fingerprint in the block, or remove them."""
    file = Path(run.info.artifact_uri, "fingerprint.json")
    before = file.read_text()
    try:
        parts = changed(json.loads(before))
        file.unlink() if parts is None else file.write_text(json.dumps(parts))
        yield
    finally:
        file.write_text(before)


def test_reusing_an_unchanged_step_does_not_read_its_parts(finished: Finished) -> None:
    with ExitStack() as stack:
        for step in STEPS:
            stack.enter_context(parts_of(finished.store, finished.store.child(step), lambda parts: None))
        assert "Up to date" in finished.drive()
        reason = finished.reasons("--set=seed=7")["prepare_data"]
        assert reason == "runs: unknown change: fingerprint.json of the earlier run is missing"


@pytest.mark.slow
def test_the_parts_of_a_reused_step_are_read_from_its_origin(own: Finished) -> None:
    own.drive("--set=steps.train.params.options.max_iter=6")
    reused = own.store.child("prepare_data")
    assert "fingerprint.json" not in own.store.artifacts(reused)
    assert own.reasons("--set=seed=7")["prepare_data"] == "runs: setting seed 42 -> 7"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "old", "new", "step", "reason"),
    [
        ("steps/train.py", "features.head(5)", "features.head(6)", "train", "runs: code changed (steps.train)"),
        (
            "ml_pipelines/modelling/features.py",
            "set_seed(copy[-1], seed)",
            "set_seed(copy[-1], seed + 0)",
            "train",
            "runs: code changed (ml_pipelines.modelling.features)",
        ),
        ("steps/evaluate.py", "curves.png", "charts.png", "train", "reused: unchanged"),
        (
            "ml_pipelines/modelling/features.py",
            "from __future__",
            "# a remark\nfrom __future__",
            "model_qa",
            "reused: unchanged",
        ),
        (
            "ml_pipelines/data/features.py",
            "STAGING = {",
            "STAGING = dict() or {",
            "prepare_data",
            "runs: code changed (ml_pipelines.data.features)",
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


CHECKS = "steps.model_qa.params.checks"


@pytest.mark.parametrize(
    ("change", "step", "reason"),
    [
        ("steps.train.params.options.max_iter='5'", "train", 'param options.max_iter 5 -> "5"'),
        ("steps.train.params.options.max_iter=5.0", "train", "param options.max_iter 5 -> 5.0"),
        ("steps.train.params.options.max_iter=true", "train", "param options.max_iter 5 -> true"),
        ("steps.train.params.options.early_stopping=true", "train", "param options.early_stopping none -> true"),
        ("steps.train.params.options.early_stopping='true'", "train", "param options.early_stopping none -> true"),
        ("steps.train.params.options.early_stopping=none", "train", 'param options.early_stopping none -> "none"'),
        ("steps.train.params.options.early_stopping={}", "train", "param options.early_stopping none -> {}"),
        (f"{CHECKS}.signature=null", "model_qa", "param checks.signature {} -> null"),
        ("data.positive='1'", "prepare_data", "setting data.positive null -> 1"),
        ("data.positive='None'", "prepare_data", "setting data.positive null -> None"),
        ("data.positive='null'", "prepare_data", 'setting data.positive null -> "null"'),
        ("data.key=null", "prepare_data", "setting data.key id -> null"),
        (
            "contract.x={type: text, categories: ['1']}",
            "prepare_data",
            "setting contract.x none -> {type: text, categories: ['1']}",
        ),
    ],
)
def test_a_value_of_another_type_invalidates_a_step(finished: Finished, change: str, step: str, reason: str) -> None:
    assert finished.reasons(f"--set={change}")[step] == f"runs: {reason}"


def test_a_check_removed_from_conf_invalidates_model_qa(finished: Finished, project: Path) -> None:
    change(project / "conf" / "config.yaml", "        signature: {}\n", "")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(paths, "conf", lambda: project / "conf")
        assert finished.reasons()["model_qa"] == "runs: param checks.signature {} -> none"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"a": 1}, {"a": True}),
        ({"a": 1}, {"a": 1.0}),
        ({"a": None}, {"a": "None"}),
        ({"a": None}, {}),
        ({"a": {}}, {}),
        ({"a": {}}, {"a": []}),
        ({"a": {}}, {"a": None}),
        ({"a": {"b": 1}}, {"a.b": 1}),
        ({"a": {"b.c": 1}}, {"a": {"b": {"c": 1}}}),
        ({1: "x"}, {"1": "x"}),
        ({1: "x"}, {"(int 1)": "x"}),
        ({"a": [{1: 2}]}, {"a": [{"1": 2}]}),
        ({"a": [1, "2"]}, {"a": ["1", 2]}),
        ({"a": 1, "b": 2}, {"a": 2, "b": 1}),
        ({"a": ["1, 2"]}, {"a": ["1", "2"]}),
        ({"a": date(2026, 1, 2)}, {"a": "2026-01-02"}),
    ],
)
def test_params_that_differ_have_different_fingerprints(
    store: Store, one: dict[Any, Any], other: dict[Any, Any]
) -> None:
    train = load("local").steps["train"]
    memory = Memory()

    def fingerprint_with(options: dict[Any, Any]) -> str:
        step = dataclasses.replace(train, inputs=[], params=dataclasses.replace(train.params, options=options))
        parts = fingerprint.fingerprint_parts(memory, store.opened, load("local"), step, {})
        return fingerprint.fingerprint_of(json.loads(json.dumps(parts)))  # as the artifact has them

    assert fingerprint_with(one) != fingerprint_with(other)
    assert fingerprint_with(one) == fingerprint_with(dict(reversed(one.items())))


TABLE = {"kind": SourceKind.table, "table": "a.b", "version": 1}


@pytest.mark.parametrize(
    ("settings", "change", "part"),
    [
        ({}, {"null_values": ["NA"]}, "data.null_values"),
        ({}, {"positive": "1"}, "data.positive"),
        ({}, {"separator": ";"}, "source"),
        ({}, {"encoding": "latin-1"}, "source"),
        ({}, {"decimal": ","}, "data.source.decimal"),
        ({}, {"thousands": ","}, "data.source.thousands"),
        (TABLE, {"version": 2}, "source"),
        (TABLE, {"table": "a.c"}, "source"),
    ],
)
def test_a_setting_of_the_data_changes_one_part(
    parts_with: Callable[..., dict[str, Any]], settings: dict[str, Any], change: dict[str, Any], part: str
) -> None:
    before, after = parts_with(**settings), parts_with(**{**settings, **change})
    assert [name for name in after if before.get(name) != after[name]] == [part]


@pytest.fixture(scope="module")
def parts_with(migrated: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., dict[str, Any]]:
    """Return a function that computes the parts of prepare_data on a CSV, with other settings of the data."""
    csv = tmp_path_factory.mktemp("parts") / "rows.csv"
    csv.write_text(rows(2))
    config, memory = load("local", [f"data.source={{kind: file, path: {csv}}}"]), Memory()
    step, opened = config.steps["prepare_data"], Store(f"sqlite:///{migrated}", csv.parent).opened

    def parts(**settings: Any) -> dict[str, Any]:
        source = {name: value for name, value in settings.items() if hasattr(config.data.source, name)}
        data = {name: value for name, value in settings.items() if name not in source}
        changed = dataclasses.replace(config.data, source=dataclasses.replace(config.data.source, **source), **data)
        changed_config = dataclasses.replace(config, data=changed)
        return dict(fingerprint.fingerprint_parts(memory, opened, changed_config, step, {}))

    return parts


def test_the_version_of_python_is_a_part(parts_with: Callable[..., dict[str, Any]]) -> None:
    assert parts_with()["library python"] == ".".join(platform.python_version_tuple()[:2])


@pytest.mark.parametrize("library", ["xgboost", "lightgbm", "catboost"])
def test_the_version_of_the_estimator_s_library_is_a_part(library: str, migrated: Path, tmp_path: Path) -> None:
    config, opened = load("local"), Store(f"sqlite:///{migrated}", tmp_path).opened
    step = dataclasses.replace(config.steps["train"], inputs=[])
    other = dataclasses.replace(step, params=dataclasses.replace(step.params, estimator=f"{library}.Estimator"))
    before, after = (fingerprint.fingerprint_parts(Memory(), opened, config, each, {}) for each in (step, other))
    assert f"library {library}" not in before
    assert after[f"library {library}"] == __import__(library).__version__


def test_the_reason_shows_where_two_long_values_differ(finished: Finished) -> None:
    names = [f"name_{i}" for i in range(300)]
    with parts_of(
        finished.store, finished.store.child("prepare_data"), lambda parts: {**parts, "data.null_values": names}
    ):
        changed = ",".join([*names[:200], "other", *names[201:]])
        reason = finished.reasons(f"--set=data.null_values=[{changed}]")["prepare_data"]
    assert re.fullmatch(r'runs: setting data.null_values \.\.\..*"name_200".*\.\.\. -> \.\.\..*"other".*\.\.\.', reason)
    assert len(reason) < 250


def test_the_first_option_in_an_empty_mapping_is_the_reason(own: Finished) -> None:
    with parts_of(
        own.store,
        own.store.child("train"),
        lambda parts: {name: value for name, value in parts.items() if "max_iter" not in name} | {"param options": {}},
    ):
        own.store.client.set_tag(own.store.child("train").info.run_id, "fingerprint", "another fingerprint")
        assert own.reasons()["train"] == "runs: param options.max_iter none -> 5"


# -- files below the source


@pytest.fixture
def files(once: Finished, store: Store, tmp_path: Path) -> Callable[[], str]:
    """Return a function that computes the part `source` for a folder of Parquet files, partitioned by code."""
    import polars as pl

    frame = pl.read_csv(once.csv)
    for code in ("2A001", "3B001"):
        folder = tmp_path / "rows" / f"code={code}"
        folder.mkdir(parents=True)
        frame.write_parquet(folder / "part-0.parquet")

    def source() -> str:
        change = f"data.source={{kind: file, path: {tmp_path / 'rows'}, format: parquet}}"
        config = load("local", [change])
        parts = fingerprint.fingerprint_parts(Memory(), store.opened, config, config.steps["prepare_data"], {})
        return str(parts["source"])

    return source


def rename(old: str, new: str) -> Callable[[Path], object]:
    return lambda folder: (folder / old).rename(folder / new)


def write(name: str) -> Callable[[Path], object]:
    def written(folder: Path) -> None:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("x")

    return written


@pytest.mark.parametrize(
    ("done", "changes"),
    [
        (rename("code=2A001", "code=9ZZZZ"), True),
        (rename("code=2A001", "kind=2A001"), True),
        (rename("code=2A001", "_code"), True),
        (lambda folder: shutil.copytree(folder / "code=2A001", folder / "code=4C001"), True),
        (write("_SUCCESS"), False),
        (write(".part-0.parquet.crc"), False),
        (write("_temporary/part-0.parquet"), False),
        (write("part-1.parquet._COPYING_"), False),
        (write("_year=2026/part-0.parquet"), True),
        (write("code=2A001/.part-0.parquet.crc"), False),
        (rename("", "../elsewhere"), None),
    ],
)
def test_names_of_files_below_the_source_change_the_fingerprint(
    files: Callable[[], str], tmp_path: Path, done: Callable[[Path], object], changes: bool | None
) -> None:
    before = files()
    done(tmp_path / "rows")
    if changes is None:
        (tmp_path / "elsewhere").rename(tmp_path / "rows")
    assert (files() != before) is bool(changes)


def test_the_fingerprint_refuses_a_link_as_the_reader_does(files: Callable[[], str], tmp_path: Path) -> None:
    (tmp_path / "rows" / "code=4C001").symlink_to(tmp_path)
    with pytest.raises(BadData, match="is a symbolic link to"):
        files()


def test_a_renamed_partition_folder_invalidates_prepare_data(files: Callable[[], str], own: Finished) -> None:
    folder = own.folder / "rows"
    source = f"--set=data.source.path={folder},data.source.format=parquet,data.key=null"
    own.drive("--only=prepare_data", source)
    assert own.reasons(source)["prepare_data"] == "reused: unchanged"
    (folder / "code=2A001").rename(folder / "code=9ZZZZ")
    assert own.reasons(source)["prepare_data"] == "runs: source changed"


@pytest.mark.parametrize("is_folder", [False, True])
def test_a_renamed_single_file_is_reused(finished: Finished, tmp_path: Path, is_folder: bool) -> None:
    source = tmp_path / "rows"
    source.mkdir()
    shutil.copy(finished.csv, source / "another_name.csv")
    path = source if is_folder else source / "another_name.csv"
    assert finished.reasons(f"--set=data.source.path={path}")["prepare_data"] == "reused: unchanged"


# -- tables below our own prefix


@pytest.mark.parametrize("by", ["dots", "a link"])
def test_a_table_outside_the_prefix_is_not_reused(own: Finished, tmp_path: Path, by: str) -> None:
    run = own.store.child("prepare_data")
    table = Path(run.data.tags["output.train_uri"])
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(table, elsewhere)
    link = own.store.tables / "link"
    if by == "a link":
        link.symlink_to(tmp_path)
    uri = own.store.tables / (os.path.relpath(elsewhere, own.store.tables) if by == "dots" else "link/elsewhere")
    assert uri.is_dir() and str(uri).startswith(f"{own.store.tables}/")
    try:
        own.store.client.set_tag(run.info.run_id, "output.train_uri", str(uri))
        assert own.reasons()["prepare_data"] == "runs: outputs are missing or damaged"
    finally:
        link.unlink(missing_ok=True)


# -- texts longer than MLflow stores


@pytest.mark.slow
def test_a_wide_table_with_a_full_contract_is_reused(
    store: Store, drive: Callable[..., Result], tmp_path: Path
) -> None:
    names = [f"feature_{i:03}_".ljust(200, "x") for i in range(100)]
    dropped = [f"dropped_{i:03}_".ljust(200, "y") for i in range(300)]
    lines = [",".join(["id", *names, *dropped, "label"])]
    for row in range(300):
        values = [str((row * (i + 3) + i) % 5) for i in range(400)]
        lines.append(",".join([str(row), *values, str(int(row % 3 == 0 or row * 3 % 5 > 2))]))
    (tmp_path / "wide.csv").write_text("\n".join(lines) + "\n")
    wide = [
        f"--set=data.source.kind=file,data.source.path={tmp_path / 'wide.csv'}",
        f"--set=data.drop=[{','.join(dropped)}]",
        f"--set=contract={{{', '.join(f'{name}: {{type: number, min: 0, max: 9}}' for name in names)}}}",
        f"--set=steps.model_qa.params.slices=[{','.join(names)}]",
        "--set=steps.model_qa.params.slice_rows=10,steps.model_qa.params.on_failure=warn",
    ]
    first = drive(*wide)
    assert first.code == 0, first.text
    assert "Up to date" in drive(*wide).out
    parts = json.loads(store.artifact(store.child("prepare_data"), "fingerprint.json").read_text())
    assert parts["data.drop"] == dropped and len([part for part in parts if part.startswith("contract.")]) == 100
    for run in store.runs():
        assert max(len(value) for value in run.data.tags.values()) <= 8_000
        assert max((len(value) for value in run.data.params.values()), default=0) <= 6_000
    again = drive(*wide[:1], *wide[2:], f"--set=data.drop=[{','.join(dropped[:-1])}]", "--dry-run")
    assert re.search(r"runs: setting data.drop \.\.\..{1,100} -> \.\.\..{1,100}\n", again.out)
