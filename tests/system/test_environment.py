"""Commands in an environment that someone else has changed: variables, folders, a deleted experiment."""

import logging
import os
import re
import shlex
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from blocking import begin_with, blocked
from conftest import ROOT, Result, Store, mlflow_run_tags

from ml_pipelines.backends import fork_server
from ml_pipelines.system import environment, paths
from ml_pipelines.system.environment import reach_loopback_directly
from ml_pipelines.system.processes import DRIVER, PROCESS
from ml_pipelines.tracking.store import PARENT

Drive = Callable[..., Result]
Shell = Callable[..., Result]

PREPARE = ("python", "driver.py", "--only=prepare_data")
CLOSED = "http://127.0.0.1:9"  # nothing listens there
DELETED = "Experiment local_pipeline_experiment is deleted. Restore it (`"


# -- MLFLOW_RUN_ID


def finished_run(store: Store) -> str:
    return str(store.parent().info.run_id)


def run_of_another_entry_point(store: Store) -> str:
    return str(store.client.create_run("0", tags=mlflow_run_tags("model_qa")).info.run_id)


def run_of_a_notebook(store: Store) -> str:
    return str(store.client.create_run("0").info.run_id)


def deleted_run(store: Store, entry_point: str) -> str:
    run_id = str(store.client.create_run("0", tags=mlflow_run_tags(entry_point)).info.run_id)
    store.client.delete_run(run_id)
    return run_id


def run_with_a_child(store: Store, entry_point: str) -> str:
    run_id = str(store.client.create_run("0", tags=mlflow_run_tags(entry_point)).info.run_id)
    store.client.create_run("0", tags={PARENT: run_id})
    return run_id


def run_of_another_process(store: Store, entry_point: str) -> str:
    tags = {**mlflow_run_tags(entry_point), PROCESS: "elsewhere/pid:[1] 1 1"}
    return str(store.client.create_run("0", tags=tags).info.run_id)


RUNS = {
    "finished": (lambda store, _: finished_run(store), "the run is FINISHED"),
    "another": (lambda store, _: run_of_another_entry_point(store), "the run is for the entry point model_qa, not for"),
    "notebook": (lambda store, _: run_of_a_notebook(store), "`mlflow run` didn't make the run"),
    "deleted": (deleted_run, "the run is deleted"),
    "child": (run_with_a_child, "another process uses the run"),
    "process": (run_of_another_process, "another process uses the run"),
    "unknown": (lambda *_: "0" * 32, "mlflow.db has no such run"),
    "not-an-id": (lambda *_: "../x y", "mlflow.db has no such run"),
}


@pytest.mark.parametrize(("entry_point", "options"), [("main", "--only=prepare_data"), ("prepare_data", "--step")])
@pytest.mark.parametrize(("make", "reason"), RUNS.values(), ids=RUNS)
def test_a_run_that_mlflow_run_did_not_make_for_this_command_stays_as_it_is(
    earlier: Store,
    drive: Drive,
    monkeypatch: pytest.MonkeyPatch,
    make: Callable[[Store, str], str],
    reason: str,
    entry_point: str,
    options: str,
) -> None:
    run_id = make(earlier, entry_point)
    known = "no such run" not in reason
    before = earlier.client.get_run(run_id).to_dictionary() if known else None
    monkeypatch.setenv("MLFLOW_RUN_ID", run_id)
    result = drive("--step=prepare_data" if options == "--step" else options)
    assert result.code == 0, result.text
    [line] = [line for line in result.out.splitlines() if "MLFLOW_RUN_ID" in line]
    assert line.startswith(f"MLFLOW_RUN_ID={run_id} is ignored: ") and reason in line
    assert "Traceback" not in result.text
    if known:
        assert earlier.client.get_run(run_id).to_dictionary() == before
    assert earlier.child("prepare_data").info.run_id != run_id
    assert earlier.child("prepare_data").info.status == "FINISHED"


def test_a_backend_may_let_the_driver_create_the_run(
    earlier: Store, drive: Drive, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = earlier.opened.create_step_run("0", "prepare_data", None)  # with the tag of this process
    monkeypatch.setenv("MLFLOW_RUN_ID", run_id)
    monkeypatch.setenv(DRIVER, str(os.getpid()))
    assert drive("--step=prepare_data").code == 0
    assert earlier.client.get_run(run_id).info.status == "FINISHED"


def test_the_log_lines_of_libraries_have_no_control_characters(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(logging, "_logRecordFactory", logging.LogRecord)
    environment.prepare()
    handler = logging.StreamHandler(sys.stderr)
    logger = logging.getLogger("databricks.sdk.retries")
    logger.addHandler(handler)
    try:
        logger.warning("Retrying: %s", "\x1b[2J\r  ✓ forged")
    finally:
        logger.removeHandler(handler)
    assert capsys.readouterr().err == "Retrying: \\x1b[2J\\r  ✓ forged\n"


def test_an_empty_run_id_counts_as_unset(store: Store, drive: Drive, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_RUN_ID", "")
    result = drive("--step=prepare_data")
    assert result.code == 0 and "MLFLOW_RUN_ID" not in result.text


@pytest.mark.parametrize("ours", [True, False])
def test_a_secret_deletes_only_the_run_that_mlflow_run_made_with_it(
    earlier: Store, drive: Drive, monkeypatch: pytest.MonkeyPatch, ours: bool
) -> None:
    made = earlier.client.create_run("0", tags=mlflow_run_tags("main")).info.run_id
    run_id = made if ours else finished_run(earlier)
    monkeypatch.setenv("MLFLOW_RUN_ID", run_id)
    result = drive("--password=hunter2")
    assert result.code == 2
    assert ("is deleted" in result.err) == ours
    assert earlier.client.get_run(run_id).info.lifecycle_stage == ("deleted" if ours else "active")


# -- a deleted experiment


@pytest.fixture
def deleted_experiment(earlier: Store) -> Store:
    """Return a store whose experiment is deleted."""
    earlier.client.delete_experiment(earlier.parent().info.experiment_id)
    return earlier


@pytest.mark.parametrize("options", [["--force"], ["--only=train"], ["--step=prepare_data"], ["--dry-run"]])
def test_a_deleted_experiment_is_one_line_and_exit_code_2(
    deleted_experiment: Store, drive: Drive, options: list[str]
) -> None:
    result = drive(*options)
    assert result.code == 2
    assert result.err.startswith(DELETED) and len(result.err.splitlines()) == 1
    assert "or set experiment_name to another name." in result.err


@pytest.mark.slow
@pytest.mark.parametrize("command", ["report", "contract", "clean"])
def test_a_command_names_a_deleted_experiment(deleted_experiment: Store, shell: Shell, command: str) -> None:
    result = shell("ml-pipelines", command)
    assert result.code == 2
    assert result.err.startswith(DELETED) and len(result.err.splitlines()) == 1


@pytest.mark.slow
def test_the_printed_command_restores_the_experiment(deleted_experiment: Store, drive: Drive, shell: Shell) -> None:
    printed = re.search(r"`(mlflow experiments restore .*)`", drive("--force").err)
    assert printed
    assert shell(*shlex.split(printed[1])).code == 0
    assert drive("--only=train").code == 0


# -- proxies


@pytest.mark.slow
@pytest.mark.parametrize("name", ["http_proxy", "HTTPS_PROXY", "all_proxy", "grpc_proxy"])
def test_sail_is_reached_without_the_proxy(store: Store, small: Path, shell: Shell, name: str) -> None:
    others = {"no_proxy": "intranet", "no_grpc_proxy": "intranet"}
    result = shell(*PREPARE, cwd=small, **{name: CLOSED, name.lower(): CLOSED}, **others)
    assert result.code == 0, result.text


@pytest.mark.slow
@pytest.mark.parametrize("command", [PREPARE, ("python", "-m", "ml_pipelines", "prepare-data")])
def test_a_server_on_loopback_is_reached_without_the_proxy(
    server: str, small: Path, shell: Shell, command: tuple[str, ...]
) -> None:
    proxies = {"http_proxy": CLOSED, "HTTP_PROXY": CLOSED, "all_proxy": CLOSED, "NO_PROXY": "intranet"}
    result = shell(*command, cwd=small, MLFLOW_TRACKING_URI=server, MLFLOW_HTTP_REQUEST_MAX_RETRIES="0", **proxies)
    assert result.code == 0, result.text
    again = shell("ml-pipelines", "clean", cwd=small, MLFLOW_TRACKING_URI=server, PYTHONPATH=str(small), **proxies)
    assert again.code == 0, again.text


OURS = "127.0.0.1,localhost,::1"


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, {}),
        ({"no_proxy": "corp"}, {"no_proxy": "corp"}),
        ({"http_proxy": ""}, {"http_proxy": ""}),
        ({"http_proxy": "p"}, {"no_proxy": OURS, "NO_PROXY": OURS}),
        ({"ALL_PROXY": "p", "NO_PROXY": "a, b"}, {"no_proxy": f"a,b,{OURS}", "NO_PROXY": f"a,b,{OURS}"}),
        (
            {"https_proxy": "p", "no_proxy": "a", "NO_PROXY": "localhost"},
            {"no_proxy": "a,localhost,127.0.0.1,::1", "NO_PROXY": "a,localhost,127.0.0.1,::1"},
        ),
        ({"grpc_proxy": "p", "no_proxy": "*"}, {"no_proxy": "*", "NO_PROXY": "*"}),
        ({"grpc_proxy": "p", "no_grpc_proxy": "a"}, {"no_proxy": OURS, "NO_PROXY": OURS, "no_grpc_proxy": f"a,{OURS}"}),
    ],
)
def test_the_user_s_own_exceptions_stay(variables: dict[str, str], expected: dict[str, str]) -> None:
    environment = dict(variables)
    reach_loopback_directly(environment)
    assert environment == {**variables, **expected}
    reach_loopback_directly(environment)
    assert environment == {**variables, **expected}


# -- another project's code


@pytest.fixture
def other_project(tmp_path: Path) -> Path:
    """Return a folder whose modules have the names of ours, and end the process that imports them."""
    folder = tmp_path / "other"
    for name in ("steps", "conf", "ml_pipelines"):
        (folder / name).mkdir(parents=True)
        (folder / name / "__init__.py").write_text(f"raise SystemExit('imported {name} of another project')\n")
    for name in ("click", "mlflow", "polars", "pyspark"):
        (folder / f"{name}.py").write_text(f"raise SystemExit('imported {name} of another project')\n")
    (folder / "conf" / "local.yaml").write_text("experiment_name: another\n")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["forkserver", "local"])
def test_a_driver_that_starts_in_another_project_runs_its_own_code(
    store: Store, small: Path, other_project: Path, shell: Shell, monkeypatch: pytest.MonkeyPatch, backend: str
) -> None:
    monkeypatch.delenv("PYTHONPATH", raising=False)
    result = shell("python", str(small / "driver.py"), "--only=prepare_data", f"--backend={backend}", cwd=other_project)
    assert result.code == 0, result.text
    assert store.statuses() == {"01_prepare_data": "FINISHED"}
    assert store.client.get_experiment(store.parent().info.experiment_id).name == "local_pipeline_experiment"


@pytest.mark.parametrize("more", [{}, {"__file__": "/elsewhere/driver.py"}], ids=["no-file", "file-elsewhere"])
def test_a_pasted_driver_imports_from_the_working_directory(
    small: Path, shell: Shell, tmp_path: Path, more: dict[str, str]
) -> None:
    """As MLflow does it on Databricks: only the text of driver.py arrives."""
    runner = tmp_path / "runner.py"
    text = (small / "driver.py").read_text()
    runner.write_text(
        f"exec({text!r}, {{'__name__': 'pasted', **{more!r}}})\nimport ml_pipelines\nprint(ml_pipelines.__file__)\n"
    )
    result = shell("python", str(runner), cwd=small)
    assert result.out == f"{small / 'ml_pipelines' / '__init__.py'}\n", result.text


def test_a_console_script_takes_the_steps_of_its_own_project(tmp_path: Path, shell: Shell) -> None:
    (tmp_path / "steps").mkdir()
    (tmp_path / "steps" / "__init__.py").write_text("raise SystemExit('imported steps of another project')\n")
    for command in (["ml-pipelines", "config"], ["train-model", "--help"]):
        result = shell(*command, PYTHONPATH=str(tmp_path))
        assert result.code == 0, result.text


@pytest.mark.parametrize("complete", [True, False])
def test_steps_of_another_project_are_refused_by_name(
    tmp_path: Path, shell: Shell, monkeypatch: pytest.MonkeyPatch, complete: bool
) -> None:
    """An installed project can't come first on the path: its folder holds every package."""
    installed, other = tmp_path / "installed", tmp_path / "other"
    for name in ("ml_pipelines", "steps"):
        shutil.copytree(ROOT / name, installed / name)
    shutil.copytree(ROOT / "conf", installed / "ml_pipelines" / "conf")
    (other / "steps").mkdir(parents=True)
    (other / "steps" / "__init__.py").touch()
    if complete:
        for step in (ROOT / "steps").glob("[a-z]*.py"):
            (other / "steps" / step.name).write_text("raise SystemExit('imported a step of another project')\n")
    result = shell("python", "-m", "ml_pipelines", "train", cwd=tmp_path, PYTHONPATH=f"{other}{os.pathsep}{installed}")
    assert result.code == 2, result.text
    assert re.match(r"steps\.\w+: Python imports the steps from ", result.err)
    assert f"{other / 'steps'}, but this project's steps are in {installed / 'steps'}. Remove {other} " in result.err
    assert len(result.err.splitlines()) == 1


# -- temporary folders


linux = pytest.mark.skipif(sys.platform != "linux", reason="the fork server is for Linux")


@pytest.fixture
def temporary_folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Return an empty folder that the commands of the test use for temporary files. Its path is short enough."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        monkeypatch.setenv("TMPDIR", folder)
        yield Path(folder)


@pytest.mark.parametrize("name", ["missing", "file"])
@pytest.mark.parametrize("command", [["python", "driver.py"], ["ml-pipelines", "report"], ["train-model"]])
def test_a_tmpdir_that_is_not_a_folder_is_one_line(
    store: Store, tmp_path: Path, shell: Shell, command: list[str], name: str
) -> None:
    (tmp_path / "file").touch()
    result = shell(*command, TMPDIR=str(tmp_path / name))
    assert result.code == 2
    expected = f"TMPDIR: {tmp_path / name} is not a folder that can be written. Create it, or unset TMPDIR.\n"
    assert result.err == expected
    assert store.runs() == []


@pytest.mark.slow
@linux
def test_a_tmpdir_too_long_for_a_socket_is_replaced_for_the_socket(
    store: Store, small: Path, temporary_folder: Path, shell: Shell
) -> None:
    long = temporary_folder / ("x" * 100)
    long.mkdir()
    result = shell(*PREPARE, cwd=small, TMPDIR=str(long))
    assert result.code == 0, result.text
    assert list(long.iterdir()) == []


@linux
def test_without_a_short_folder_for_the_socket_the_driver_names_tmpdir(
    store: Store, drive: Drive, monkeypatch: pytest.MonkeyPatch
) -> None:
    fork_server.folder.cache_clear()
    monkeypatch.setattr(paths, "SOCKET_BYTES", fork_server.LISTENER_BYTES + 2)
    result = drive("--only=prepare_data", "--backend=forkserver")
    assert result.code == 2
    assert re.fullmatch(r"TMPDIR: \S+ is too long for a socket\. Use a folder of at most 2 bytes\.\n", result.err)


@pytest.mark.slow
@linux
@pytest.mark.parametrize("fails", [False, True])
def test_nothing_stays_in_the_temporary_folder(
    store: Store, small: Path, temporary_folder: Path, shell: Shell, fails: bool
) -> None:
    if fails:
        begin_with(small, "prepare_data", "raise ValueError('of this test')")
    result = shell(*PREPARE, cwd=small)
    assert result.code == (4 if fails else 0), result.text
    assert list(temporary_folder.iterdir()) == []


@linux
@pytest.mark.slow
@pytest.mark.parametrize("backend", ["forkserver", "inline"])
@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_nothing_stays_in_the_temporary_folder_after_a_signal(
    store: Store, small: Path, temporary_folder: Path, backend: str, name: str
) -> None:
    with blocked(small, *PREPARE, f"--backend={backend}") as command:
        command.process.send_signal(signal.Signals[name])
        assert command.process.wait(30) == 128 + signal.Signals[name], command.text()
    assert list(temporary_folder.iterdir()) == []


@linux
@pytest.mark.slow
def test_the_next_start_deletes_the_folder_of_a_killed_driver_and_no_other(
    store: Store, small: Path, temporary_folder: Path, shell: Shell, tmp_path: Path
) -> None:
    (temporary_folder / "ml-pipelines-mine").mkdir()
    with blocked(small, *PREPARE, "--set=steps.prepare_data.retries=0") as command:
        [used] = temporary_folder.glob(f"{fork_server.FOLDER}*")
        beside = tmp_path / "beside"
        shutil.copytree(small, beside, ignore=shutil.ignore_patterns("prepare_data.py"))
        shutil.copy(ROOT / "steps" / "prepare_data.py", beside / "steps")
        assert shell(*PREPARE, cwd=beside).code == 0
        assert [path.name for path in used.iterdir()], "the folder of a driver that lives is deleted"
        command.process.kill()
        command.process.wait()
    assert used.is_dir()
    assert shell(*PREPARE, cwd=beside).code == 0
    assert not list(temporary_folder.glob(f"{fork_server.FOLDER}*"))
    assert (temporary_folder / "ml-pipelines-mine").is_dir()


# -- warnings


@pytest.mark.slow
@pytest.mark.parametrize("warnings", ["error", "e", "default,error::DeprecationWarning"])
def test_warnings_as_errors_do_not_stop_the_libraries(store: Store, small: Path, shell: Shell, warnings: str) -> None:
    result = shell(*PREPARE, cwd=small, PYTHONWARNINGS=warnings)
    assert result.code == 0, result.text
    assert "Traceback" not in result.text
