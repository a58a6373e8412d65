"""`mlflow run . -e ...` and driver.py as processes, as a user starts them, and what remains when they stop."""

import os
import re
import select
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import mlflow.projects.utils
import pytest
from conftest import ROOT, Result, Store, change, mlflow_run_tags

from ml_pipelines.config.loading import load
from ml_pipelines.tracking import lineage
from ml_pipelines.tracking.store import parent_of

Shell = Callable[..., Result]

NAMES = ["01_prepare_data", "02_train", "03_evaluate", "04_feature_importance", "05_model_qa"]
# Each part would create a file if a shell executed it.
NASTY = (
    "x; touch ran1; $(touch ran2) `touch ran3` ' touch ran4 ' \" touch ran5 \" && touch ran6 | touch ran7\ntouch ran8\n"
)


def input_options(store: Store, step: str) -> list[str]:
    """Return the step's inputs, as parameters of its entry point, from the earlier run."""
    outputs = lineage.outputs_of_pipeline(store.opened, store.parent().info.run_id)
    return [f"-P{name}={outputs[name]}" for name in load("local").steps[step].inputs]


# -- the main job


@pytest.mark.slow
def test_mlflow_run_without_parameters_runs_the_pipeline_with_its_run_as_parent(
    store: Store, shell: Shell, small: Path
) -> None:
    result = shell("mlflow", "run", ".", "-e", "main", cwd=small)
    assert result.code == 0, result.text
    [parent] = store.runs("tags.`mlflow.project.entryPoint` = 'main'")
    assert store.statuses(parent) == dict.fromkeys(NAMES, "FINISHED")
    assert (parent.info.run_name, parent.info.status) == ("pipeline_run", "FINISHED")
    assert len(store.runs()) == 6
    assert "`mlflow run` chose experiment 'Default'" in result.out


@pytest.mark.slow
def test_parameters_reach_the_pipeline(store: Store, shell: Shell, tmp_path: Path) -> None:
    experiment_id = store.client.create_experiment("mine", artifact_location=str(tmp_path / "artifacts"))
    settings = f"data.source.rows=300,data.drop=[f0,f1],data.delta_prefix.local={store.tables}"
    command = ["mlflow", "run", ".", "-e", "main", "-Pprofile=local", f"-Pset={settings}", "--experiment-name", "mine"]
    result = shell(*command, "-Ponly=prepare_data")
    assert result.code == 0, result.text
    parent = store.parent()
    assert parent.info.experiment_id == experiment_id
    assert store.statuses(parent) == {NAMES[0]: "FINISHED"}
    metrics = store.child("prepare_data").data.metrics
    assert metrics["train_rows"] + metrics["test_rows"] == 300


@pytest.mark.slow
def test_a_failing_step_fails_the_run_and_the_command(store: Store, shell: Shell, small: Path) -> None:
    change(
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


# -- a single step


@pytest.mark.slow
@pytest.mark.parametrize("step", ["train", "evaluate", "feature_importance", "model_qa"])
def test_a_single_step_runs_on_explicit_inputs(earlier: Store, shell: Shell, small: Path, step: str) -> None:
    before = earlier.child(step).info.run_id
    result = shell("mlflow", "run", ".", "-e", step, *input_options(earlier, step), cwd=small)
    assert result.code == 0, result.text
    run = earlier.child(step)
    assert run.info.run_id != before
    assert (run.info.status, parent_of(run)) == ("FINISHED", None)
    assert lineage.outputs(run).keys() == set(load("local").steps[step].outputs)


@pytest.mark.slow
def test_a_single_step_finds_its_inputs_in_an_earlier_pipeline_run(earlier: Store, shell: Shell, small: Path) -> None:
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
def test_missing_inputs_are_reported_in_one_line_and_fail_the_run(store: Store, shell: Shell) -> None:
    result = shell("mlflow", "run", ".", "-e", "train")
    assert result.code == 1
    assert result.err.count("Step train needs train_uri. Set -P train_uri=...") == 1
    assert "Traceback" not in result.text
    assert [run.info.status for run in store.runs()] == ["FAILED"]


@pytest.mark.slow
@pytest.mark.parametrize("step", ["nothing", "steps/train.py", "driver.py"])
def test_an_undeclared_entry_point_is_refused(store: Store, shell: Shell, step: str) -> None:
    result = shell("mlflow", "run", ".", "-e", step)
    assert result.code == 1
    assert f"The entry point '{step}' is not defined" in result.text
    assert store.runs() == []


@pytest.mark.slow
def test_a_python_without_the_packages_is_reported_in_one_line_and_fails_the_run(
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


# -- values that a shell must not execute


@pytest.mark.parametrize("entry_point", ["main", *load("local").steps])
@pytest.mark.parametrize("value", [NASTY, "--profile=prod", "", "a b", "*", "{profile}", "\\", "~"])
def test_a_value_reaches_the_driver_as_one_word_and_is_never_executed(
    entry_point: str, value: str, tmp_path: Path
) -> None:
    point = mlflow.projects.utils.load_project(str(ROOT)).get_entry_point(entry_point)
    command = point.compute_command(dict.fromkeys(point.parameters, value), storage_dir=str(tmp_path))
    result = subprocess.run(
        ["bash", "-c", f"python() {{ printf '%s\\0' \"$@\"; }}; {command}"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    words = result.stdout.split("\0")[:-1]
    step = [] if entry_point == "main" else [f"--step={entry_point}"]
    options = [f"--{name.replace('_', '-')}={value}" for name in point.parameters]
    assert sorted(words) == sorted(["driver.py", *step, *options])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("parameter", ["train_uri", "profile", "set", "pipeline_run_id"])
def test_a_value_full_of_shell_code_is_refused_and_not_executed(
    store: Store, shell: Shell, project: Path, parameter: str
) -> None:
    result = shell("mlflow", "run", ".", "-e", "train", f"-P{parameter}={NASTY}", cwd=project)
    assert result.code == 1
    assert "Traceback" not in result.text
    assert list(project.rglob("ran*")) == []
    assert [run.info.status for run in store.runs()] == ["FAILED"]


# -- MLflow's own backend


@pytest.mark.slow
def test_a_fresh_interpreter_for_each_step_gives_the_same_metrics_to_the_last_digit(
    finished: Store, store: Store, small: Path, shell: Shell
) -> None:
    """The PATH has neither python nor mlflow of this environment; driver.py puts its own folder first."""
    result = shell(sys.executable, "driver.py", "--backend=local", cwd=small, PATH="/usr/bin:/bin")
    assert result.code == 0, result.text
    assert store.statuses() == dict.fromkeys(NAMES, "FINISHED")
    assert store.metrics() == finished.metrics()
    assert len(store.runs()) == 6


# -- a tracking server


@pytest.mark.slow
def test_a_tracking_server_works_as_the_store(server: str, small: Path, shell: Shell, tmp_path: Path) -> None:
    result = shell(sys.executable, "driver.py", cwd=small, MLFLOW_TRACKING_URI=server)
    assert result.code == 0, result.text
    assert f" · {server}/#/experiments/" in result.out
    assert "View run" not in result.text  # MLflow's own line, which it would print twice a step
    server_store = Store(server, tmp_path)
    assert server_store.statuses() == dict.fromkeys(NAMES, "FINISHED")
    assert {"train.log", "config.json"} <= server_store.artifacts(server_store.child("train"))
    report = server_store.artifact(server_store.parent(), "report.html").read_text()
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
    write_pid = f"os.write(os.open({str(ready)!r}, os.O_WRONLY), str(os.getpid()).encode())"
    block = f"    import os, threading\n    {write_pid}\n    threading.Event().wait()\n"
    change(small / "steps" / "prepare_data.py", "    frame = split_source", f"{block}    frame = split_source")
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


@pytest.mark.slow
@pytest.mark.parametrize("module", ["click", "mlflow"])
def test_a_signal_while_driver_py_imports_ends_the_run_as_killed(
    store: Store, small: Path, tmp_path: Path, module: str
) -> None:
    """The signal comes at the first import of a module, before our code could adopt MLflow's run."""
    run = store.client.create_run("0", tags=mlflow_run_tags("main"))
    hook = tmp_path / "hook"
    hook.mkdir()
    (hook / "sitecustomize.py").write_text(
        "import os, signal, sys\n"
        "class Finder:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name == {module!r} and sys._getframe(2).f_code.co_name == '_find_and_load_unlocked':\n"
        "            sys.meta_path.remove(self)\n"
        "            os.kill(os.getpid(), signal.SIGTERM)\n"
        "if 'driver.py' in sys.orig_argv:\n"
        "    sys.meta_path.insert(0, Finder())\n"
    )
    environment = {**os.environ, "MLFLOW_RUN_ID": run.info.run_id, "PYTHONPATH": str(hook)}
    command = [sys.executable, "driver.py", "--only=prepare_data"]
    done = subprocess.run(command, cwd=small, env=environment, capture_output=True, text=True, timeout=200)
    assert (done.returncode, done.stderr.strip().splitlines()[-1:]) == (143, ["stopped by signal 15"])
    ended = store.client.get_run(run.info.run_id)
    assert (ended.info.status, ended.data.tags["cause"]) == ("KILLED", "stopped by signal 15")
    assert ended.data.tags["exit_code"] == "143"
