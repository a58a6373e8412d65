"""`mlflow run . -e ...` and driver.py as processes, as a user starts them, and what is left when they are stopped."""

import os
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import mlflow.projects.utils
import pytest
from conftest import ROOT, Result, Store

from ml_pipelines import lineage, tracking
from ml_pipelines.config import load

Shell = Callable[..., Result]

NAMES = ["01_prepare_data", "02_train", "03_evaluate", "04_feature_importance", "05_model_qa"]
# Each part would leave a file behind if a shell ever read it.
NASTY = (
    "x; touch ran1; $(touch ran2) `touch ran3` ' touch ran4 ' \" touch ran5 \" && touch ran6 | touch ran7\ntouch ran8\n"
)


def given(store: Store, step: str) -> list[str]:
    """Return the step's inputs, as parameters of its entry point, from the earlier run."""
    outputs = lineage.outputs_of_pipeline(store.parent().info.run_id)
    return [f"-P{name}={outputs[name]}" for name in load("local").steps[step].inputs]


def edit(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1))


# -- the main job


def test_a_bare_mlflow_run_is_the_pipeline_and_its_run_is_the_parent(store: Store, shell: Shell, small: Path) -> None:
    result = shell("mlflow", "run", ".", "-e", "main", cwd=small)
    assert result.code == 0, result.text
    [parent] = store.runs("tags.`mlflow.project.entryPoint` = 'main'")
    assert store.statuses(parent) == dict.fromkeys(NAMES, "FINISHED")
    assert (parent.info.run_name, parent.info.status) == ("pipeline_run", "FINISHED")
    assert len(store.runs()) == 6
    assert "`mlflow run` chose experiment 'Default'" in result.out


@pytest.mark.slow
def test_parameters_reach_the_pipeline(store: Store, shell: Shell, tmp_path: Path) -> None:
    mine = store.client.create_experiment("mine", artifact_location=str(tmp_path / "artifacts"))
    settings = f"data.source.rows=300,data.drop=[f0,f1],data.delta_prefix.local={store.tables}"
    command = ["mlflow", "run", ".", "-e", "main", "-Pprofile=local", f"-Pset={settings}", "--experiment-name", "mine"]
    result = shell(*command, "-Ponly=prepare_data")
    assert result.code == 0, result.text
    parent = store.parent()
    assert parent.info.experiment_id == mine
    assert store.statuses(parent) == {NAMES[0]: "FINISHED"}
    metrics = store.child("prepare_data").data.metrics
    assert metrics["train_rows"] + metrics["test_rows"] == 300


@pytest.mark.slow
def test_a_failing_step_fails_the_run_and_the_command(store: Store, shell: Shell, small: Path) -> None:
    edit(
        small / "steps" / "train.py",
        "    names = step",
        "    raise ZeroDivisionError('of this test')\n    names = step",
    )
    result = shell("mlflow", "run", ".", "-e", "main", cwd=small)
    assert result.code == 1
    parent = store.parent()
    assert (parent.info.status, parent.data.tags["failed_step"]) == ("FAILED", "train")
    assert store.statuses(parent) == {NAMES[0]: "FINISHED", NAMES[1]: "FAILED"}
    assert re.search(r"✗ 02_train +\d+\.\d s   ZeroDivisionError: of this test", result.out)
    assert "Traceback" not in result.text


# -- a step alone


@pytest.mark.slow
@pytest.mark.parametrize("step", ["train", "evaluate", "feature_importance", "model_qa"])
def test_a_step_alone_runs_on_inputs_that_are_given(earlier: Store, shell: Shell, small: Path, step: str) -> None:
    before = earlier.child(step).info.run_id
    result = shell("mlflow", "run", ".", "-e", step, *given(earlier, step), cwd=small)
    assert result.code == 0, result.text
    run = earlier.child(step)
    assert run.info.run_id != before
    assert (run.info.status, tracking.parent_of(run)) == ("FINISHED", None)
    assert lineage.outputs(run).keys() == set(load("local").steps[step].outputs)


@pytest.mark.slow
def test_a_step_alone_finds_its_inputs_in_an_earlier_pipeline_run(earlier: Store, shell: Shell, small: Path) -> None:
    pipeline = earlier.parent().info.run_id
    result = shell("mlflow", "run", ".", "-e", "model_qa", f"-Ppipeline_run_id={pipeline}", cwd=small)
    assert result.code == 0, result.text
    assert earlier.child("model_qa").data.tags["output.qa_complete"] == "true"


@pytest.mark.slow
def test_prepare_data_alone_writes_tables_that_train_alone_reads(store: Store, shell: Shell, small: Path) -> None:
    assert shell("mlflow", "run", ".", "-e", "prepare_data", cwd=small).code == 0
    uri = lineage.outputs(store.child("prepare_data"))["train_uri"]
    result = shell("mlflow", "run", ".", "-e", "train", f"-Ptrain_uri={uri}", cwd=small)
    assert result.code == 0, result.text
    assert f"train_run_id={store.child('train').info.run_id}" in result.out


@pytest.mark.slow
def test_missing_inputs_are_one_line_and_a_failed_run(store: Store, shell: Shell) -> None:
    result = shell("mlflow", "run", ".", "-e", "train")
    assert result.code == 1
    assert result.err.count("Step train needs train_uri, and there is none. Give -P train_uri=...") == 1
    assert "Traceback" not in result.text
    assert [run.info.status for run in store.runs()] == ["FAILED"]


@pytest.mark.slow
@pytest.mark.parametrize("step", ["nothing", "steps/train.py", "driver.py"])
def test_an_entry_point_that_is_not_declared_is_refused(store: Store, shell: Shell, step: str) -> None:
    result = shell("mlflow", "run", ".", "-e", step)
    assert result.code == 1
    assert f"The entry point '{step}' is not defined" in result.text
    assert store.runs() == []


@pytest.mark.slow
def test_a_python_that_lacks_the_packages_is_one_line_and_a_failed_run(
    store: Store, shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PYTHONPATH", raising=False)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "bare")], check=True)
    path = f"{tmp_path / 'bare' / 'bin'}:{Path(sys.executable).parent}:/usr/bin:/bin"
    result = shell("mlflow", "run", ".", "-e", "main", PATH=path)
    assert result.code == 1
    [line] = [line for line in result.err.splitlines() if "mlflow.projects" not in line and "mlflow.cli" not in line]
    assert re.fullmatch(r"driver\.py: \S+/bare/bin/python can't import click, mlflow, .*Run `make setup`.*", line)
    assert [run.info.status for run in store.runs()] == ["FAILED"]


# -- values that a shell must not read


@pytest.mark.parametrize("entry_point", ["main", *load("local").steps])
@pytest.mark.parametrize("value", [NASTY, "--profile=prod", "", "a b", "*", "{profile}", "\\", "~"])
def test_a_value_reaches_the_driver_as_one_word_and_is_never_executed(
    entry_point: str, value: str, tmp_path: Path
) -> None:
    point = mlflow.projects.utils.load_project(str(ROOT)).get_entry_point(entry_point)
    command = point.compute_command(dict.fromkeys(point.parameters, value), storage_dir=str(tmp_path))
    shown = subprocess.run(
        ["bash", "-c", f"python() {{ printf '%s\\0' \"$@\"; }}; {command}"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    words = shown.stdout.split("\0")[:-1]
    step = [] if entry_point == "main" else [f"--step={entry_point}"]
    options = [f"--{name.replace('_', '-')}={value}" for name in point.parameters]
    assert sorted(words) == sorted(["driver.py", *step, *options])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("parameter", ["train_uri", "profile", "set", "pipeline_run_id"])
def test_a_value_full_of_shell_is_a_wrong_value_and_nothing_more(
    store: Store, shell: Shell, project: Path, parameter: str
) -> None:
    result = shell("mlflow", "run", ".", "-e", "train", f"-P{parameter}={NASTY}", cwd=project)
    assert result.code == 1
    assert "Traceback" not in result.text
    assert list(project.rglob("ran*")) == []
    assert [run.info.status for run in store.runs()] == ["FAILED"]


# -- MLflow's own backend


@pytest.mark.slow
def test_a_fresh_interpreter_a_step_gives_the_same_metrics_to_the_last_digit(
    finished: Store, store: Store, small: Path, shell: Shell
) -> None:
    """With a PATH that has neither python nor mlflow of this environment: driver.py puts its own first."""
    result = shell(sys.executable, "driver.py", "--backend=local", cwd=small, PATH="/usr/bin:/bin")
    assert result.code == 0, result.text
    assert store.statuses() == dict.fromkeys(NAMES, "FINISHED")
    assert store.metrics() == finished.metrics()
    assert len(store.runs()) == 6


# -- a tracking server


@pytest.fixture
def server(tmp_path: Path, migrated: Path) -> Iterator[str]:
    """Run `mlflow server` on loopback, and give its address."""
    shutil.copy(migrated, tmp_path / "served.db")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = ["mlflow", "server", "--host=127.0.0.1", f"--port={port}", "--workers=1"]
    command += [
        f"--backend-store-uri=sqlite:///{tmp_path / 'served.db'}",
        f"--artifacts-destination={tmp_path / 'art'}",
    ]
    with pytest.MonkeyPatch.context() as patch, (tmp_path / "server.log").open("w") as log:
        patch.setenv("MLFLOW_SERVER_ENABLE_JOB_EXECUTION", "false")
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        program = Path(sys.executable).parent / command[0]
        process = subprocess.Popen([str(program), *command[1:]], cwd=tmp_path, stdout=log, stderr=log)
    try:
        wait_until_healthy(process, f"http://127.0.0.1:{port}/health", tmp_path / "server.log")
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(30)


def wait_until_healthy(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    for _ in range(240):
        try:
            urllib.request.urlopen(url, timeout=5)
            return
        except (urllib.error.URLError, OSError):
            try:
                process.wait(0.25)
            except subprocess.TimeoutExpired:
                continue
            break
    pytest.fail(f"mlflow server did not start: {log.read_text()[-2000:]}")


@pytest.mark.slow
def test_a_tracking_server_works_as_the_store(server: str, small: Path, shell: Shell, tmp_path: Path) -> None:
    result = shell(sys.executable, "driver.py", cwd=small, MLFLOW_TRACKING_URI=server)
    assert result.code == 0, result.text
    assert f" · {server}/#/experiments/" in result.out
    assert "View run" not in result.text  # MLflow's own, twice a step
    served = Store(server, tmp_path)
    assert served.statuses() == dict.fromkeys(NAMES, "FINISHED")
    assert {"train.log", "config.json"} <= served.artifacts(served.child("train"))
    report = served.artifact(served.parent(), "report.html").read_text()
    assert f'href="{server}/#/experiments/' in report and 'id="curves"' in report
    assert not (small / "mlruns").exists()
    assert not (small / "mlflow.db").exists()


# -- signals


@pytest.mark.slow
@pytest.mark.parametrize(
    ("backend", "name"),
    [
        ("inline", "SIGTERM"),
        ("inline", "SIGINT"),
        ("inline", "SIGHUP"),
        ("forkserver", "SIGTERM"),
        ("forkserver", "SIGINT"),
        ("local", "SIGTERM"),
        ("local", "SIGINT"),
    ],
)
def test_a_stopped_driver_leaves_no_run_running_and_no_process(
    store: Store, small: Path, tmp_path: Path, backend: str, name: str
) -> None:
    ready = tmp_path / "ready"
    os.mkfifo(ready)
    say = f"os.write(os.open({str(ready)!r}, os.O_WRONLY), str(os.getpid()).encode())"
    block = f"    import os, threading\n    {say}\n    threading.Event().wait()\n"
    edit(small / "steps" / "prepare_data.py", "    frame = assign_test", f"{block}    frame = assign_test")
    reader = os.open(ready, os.O_RDONLY | os.O_NONBLOCK)
    command = [sys.executable, "driver.py", "--only=prepare_data", f"--backend={backend}"]
    with (tmp_path / "out").open("w") as out:
        process = subprocess.Popen(command, cwd=small, stdout=out, stderr=out)
    try:
        assert select.select([reader], [], [], 120)[0], (tmp_path / "out").read_text()
        step = os.pidfd_open(int(os.read(reader, 20)))
        process.send_signal(signal.Signals[name])
        assert process.wait(30) == 128 + signal.Signals[name]
        assert select.select([step], [], [], 10)[0], "the step's process lives on"
    finally:
        process.kill()
    assert {run.info.run_name: run.info.status for run in store.runs()} == {
        "pipeline_run": "KILLED",
        "01_prepare_data": "KILLED",
    }
    assert "Traceback" not in (tmp_path / "out").read_text()
