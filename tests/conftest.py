"""Fixtures and helpers that the tests share: a real MLflow store with tables, and the commands that a user types."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import mlflow
import pytest
from click.testing import CliRunner
from mlflow.entities import Run
from mlflow.tracking import fluent
from mlflow.tracking._model_registry import utils as registry

if TYPE_CHECKING:
    from emulator import Workspace
    from pyspark.sql import SparkSession

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "tests" / "databricks")]

from serving import serve  # noqa: E402

import driver  # noqa: E402
from ml_pipelines.tracking.store import Store as TrackingStore  # noqa: E402

# A copy of the project lacks these files and folders: they are large, or belong to one checkout.
NOT_COPIED = (".git", ".venv", ".data", "mlruns", "mlflow.db*", "__pycache__", ".*_cache", ".hypothesis")
LENIENT_BOUNDS = {"min_auc": 0.5, "train_test_gap": 1, "importance": 1, "drift": 9}
SMALL = "data.source.rows=400,data.source.features=4,steps.train.params.options.max_iter=5"
CHECKS = "steps.model_qa.params.checks"
# Results on a few rows and trees vary by chance: these bounds let the quality gate pass.
LENIENT = ",".join(
    [
        *(f"{CHECKS}.{name}.threshold={x}" for name, x in LENIENT_BOUNDS.items()),
        *(f"{CHECKS}.calibration.{name}={x}" for name, x in {"ratio": 99, "slope": 0.01, "error": 99}.items()),
        f"{CHECKS}.champion.margin=1",
    ]
)
FEW_ROWS = """
data: {source: {rows: 400, features: 4}}
steps:
  train: {params: {options: {max_iter: 5}}}
  feature_importance: {params: {repeats: 1}}
  model_qa: {params: {checks: {min_auc: {threshold: 0.5}, calibration: null, drift: null}}}
"""
FAST = f"{SMALL},steps.feature_importance.params.repeats=1,{LENIENT}"


@dataclass(frozen=True)
class Result:
    """The exit code and the output of a command."""

    code: int
    out: str
    err: str

    @property
    def text(self) -> str:
        return self.out + self.err


@dataclass(frozen=True)
class Store:
    """A tracking store of one test, and the folder of its tables."""

    uri: str
    tables: Path

    @property
    def opened(self) -> TrackingStore:
        """The library's object for this store."""
        return TrackingStore(self.uri, self.uri)

    @property
    def client(self) -> mlflow.MlflowClient:
        return mlflow.MlflowClient(self.uri, registry_uri=self.uri)

    def copy_to(self, other: "Store") -> None:
        """Copy these runs into the other store; their artifacts and tables stay in place."""
        shutil.copy(self.uri.removeprefix("sqlite:///"), other.uri.removeprefix("sqlite:///"))

    def runs(self, filter_string: str = "") -> list[Run]:
        """Return the runs of all experiments, the newest first."""
        experiments = [experiment.experiment_id for experiment in self.client.search_experiments()]
        return list(self.client.search_runs(experiments, filter_string, order_by=["attributes.start_time DESC"]))

    def parent(self) -> Run:
        """Return the newest pipeline run."""
        return self.runs("tags.`mlflow.runName` = 'pipeline_run'")[0]

    def child(self, step: str) -> Run:
        """Return the newest run of a step."""
        return self.runs(f"tags.step = '{step}'")[0]

    def below(self, parent: Run | None = None) -> dict[str, Run]:
        """Return name -> run of the steps of a pipeline run, by default of the newest."""
        runs = self.runs(f"tags.`mlflow.parentRunId` = '{(parent or self.parent()).info.run_id}'")
        return {run.info.run_name: run for run in sorted(runs, key=lambda run: str(run.info.run_name))}

    def statuses(self, parent: Run | None = None) -> dict[str, str]:
        """Return name -> status of the steps of a pipeline run."""
        return {name: run.info.status for name, run in self.below(parent).items()}

    def metrics(self, parent: Run | None = None) -> dict[str, dict[str, float]]:
        """Return name -> metrics of the steps of a pipeline run."""
        return {name: run.data.metrics for name, run in self.below(parent).items()}

    def artifacts(self, run: Run) -> set[str]:
        """Return the names of the run's artifacts."""
        return {item.path for item in self.client.list_artifacts(run.info.run_id)}

    def artifact(self, run: Run, name: str) -> Path:
        """Return a local copy of an artifact."""
        folder = self.tables.parent / "downloads" / run.info.run_id
        path = mlflow.artifacts.download_artifacts(
            run_id=run.info.run_id, artifact_path=name, tracking_uri=self.uri, dst_path=str(folder)
        )
        return Path(path)


def rows(count: int, first: float = 0.5) -> str:
    """Return a CSV whose label depends on x; the first x is `first`."""
    lines = [
        f"{i},{first if i == 0 else (i * 37 % 101) / 101},{'ab'[i % 2]},{int(i * 37 % 101 + i % 23 > 60)}"
        for i in range(count)
    ]
    return "\n".join(["id,x,kind,label", *lines]) + "\n"


def mlflow_run_tags(entry_point: str) -> dict[str, str]:
    """Return the tags that `mlflow run` gives a run before our code starts."""
    return {"mlflow.source.type": "PROJECT", "mlflow.project.entryPoint": entry_point, "mlflow.project.env": "local"}


def change(path: Path, old: str, new: str) -> None:
    """Replace a text that occurs once in a file; fail if it does not occur exactly once."""
    text = path.read_text(encoding="utf-8")
    assert text.count(old) == 1, f"{path.name} has {old!r} {text.count(old)} times"
    path.write_text(text.replace(old, new), encoding="utf-8")


def failing(function: str, error: Exception | None = None) -> Any:
    """Make a function of a step raise an error."""
    return patch(function, side_effect=error or ZeroDivisionError("of this test"))


@pytest.fixture(scope="session")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an empty sqlite store that is migrated once and copied for each test that needs one."""
    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(path.parent)  # the Default experiment's artifacts go into this folder
        mlflow.MlflowClient(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def store(migrated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    """Give the test its own store and its own folder for tables."""
    opened = new_store(migrated, tmp_path)
    use(opened, monkeypatch)
    before = _mlflow_variables()
    yield opened
    while mlflow.active_run():
        mlflow.end_run()
    for name in _mlflow_variables():  # tracking.connect sets them for children: the next test uses another store
        del os.environ[name]
    os.environ.update(before)


@pytest.fixture(scope="session")
def finished(migrated: Path, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Return a store with one finished pipeline run, for tests that only read it."""
    opened = new_store(migrated, tmp_path_factory.mktemp("finished"))
    with pytest.MonkeyPatch.context() as patch:
        use(opened, patch)
        result = drive_in(opened)
    assert result.code == 0, result.text
    return opened


@pytest.fixture
def earlier(finished: Store, store: Store) -> Store:
    """Give the test its own store with one finished earlier pipeline run."""
    finished.copy_to(store)
    return store


@pytest.fixture
def drive(store: Store) -> Callable[..., Result]:
    """Return a function that runs driver.py's command in this process, on few rows, in the test's store."""
    return partial(drive_in, store)


def _mlflow_variables() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name.startswith("MLFLOW_")}


def new_store(migrated: Path, folder: Path) -> Store:
    shutil.copy(migrated, folder / "mlflow.db")
    return Store(f"sqlite:///{folder / 'mlflow.db'}", folder / "delta")


def use(store: Store, patch: pytest.MonkeyPatch) -> None:
    """Make this process and its children use the store."""
    patch.setenv("MLFLOW_TRACKING_URI", store.uri)
    patch.setenv("MLFLOW_LOGGING_LEVEL", "WARNING")
    for name in ("MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID", "MLFLOW_EXPERIMENT_NAME", "MLFLOW_REGISTRY_URI"):
        patch.delenv(name, raising=False)
    mlflow.set_tracking_uri(store.uri)
    patch.setattr(fluent, "_active_experiment_id", None)  # an earlier test may have set it
    patch.setattr(registry, "_registry_uri", None)  # an earlier test may have set this one too


def drive_in(store: Store, *arguments: str, small: bool = True) -> Result:
    """Run driver.py's command in this process, on few rows, with this store."""
    options = [f"--set=data.delta_prefix.local={store.tables}", *([f"--set={FAST}"] if small else [])]
    if not any(argument.startswith(("--backend", "--profile", "--step")) for argument in arguments):
        options.append(f"--backend={os.environ.get('TEST_BACKEND', 'inline')}")
    result = CliRunner().invoke(driver.main, [*options, *arguments])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return Result(result.exit_code, result.stdout, result.stderr)


@pytest.fixture
def shell(store: Store) -> Callable[..., Result]:
    """Return a function that runs a command as a user types it; `python` and `mlflow` come from this environment."""

    def run(*command: str, cwd: Path = ROOT, **environment: str) -> Result:
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        process = subprocess.run(
            command,
            cwd=cwd,
            env={**os.environ, "PATH": path, **environment},
            capture_output=True,
            text=True,
            timeout=200,
        )
        return Result(process.returncode, process.stdout, process.stderr)

    return run


@pytest.fixture
def server(tmp_path: Path, migrated: Path) -> Iterator[str]:
    """Run `mlflow server` on loopback, and return its address."""
    with serve(tmp_path, migrated) as address:
        yield address


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Return a copy of the project that a test may change."""
    copy = tmp_path / "project"
    shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(*NOT_COPIED, "tests"))
    return copy


@pytest.fixture
def small(project: Path) -> Path:
    """Return a copy of the project whose local profile has few rows."""
    with (project / "conf" / "local.yaml").open("a") as profile:
        profile.write(FEW_ROWS)
    return project


@pytest.fixture(scope="session")
def spark() -> "SparkSession":
    """Return this process's session on Sail."""
    from ml_pipelines.data import engines

    return engines.spark_session("sail")


@pytest.fixture(scope="session")
def java() -> None:
    """Skip the test if the machine has no Java; on CI, fail."""
    if shutil.which("java") is None and "JAVA_HOME" not in os.environ:
        if os.environ.get("CI"):
            pytest.fail("CI must run the tests marked jvm, and there is no Java.")
        pytest.skip("no Java: the JVM engine isn't tested here")


@pytest.fixture(scope="session")
def started_workspace(migrated: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator["Workspace"]:
    """Return an emulated Databricks workspace that is started once for all tests."""
    from emulator import Workspace, machine

    if why := machine.check():
        if os.environ.get("CI"):
            pytest.fail(f"CI must run the tests of the workspace: {why}")
        pytest.skip(why)
    with Workspace(tmp_path_factory.mktemp("workspace"), store=migrated) as workspace:
        yield workspace


@pytest.fixture
def workspace(started_workspace: "Workspace", store: Store, monkeypatch: pytest.MonkeyPatch) -> Iterator["Workspace"]:
    """Make the test use the workspace instead of its store; fail if the test calls a route that the emulator lacks.

    The workspace still has experiments, jobs and files of earlier tests: look yours up by id or name.
    """
    for name, value in started_workspace.env.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("DATABRICKS_CONFIG_PROFILE", raising=False)
    monkeypatch.setenv("DATABRICKS_CONFIG_FILE", os.devnull)  # do not read the user's ~/.databrickscfg
    mlflow.set_tracking_uri("databricks")
    yield started_workspace
    mlflow.set_tracking_uri(store.uri)
    started_workspace.faults.clear()
    started_workspace.catalog.reset()
    unhandled, started_workspace.unhandled[:] = list(started_workspace.unhandled), []
    assert not unhandled, f"routes that the emulator lacks: {unhandled}"
