"""Signals and kills to any of our processes: no process survives, no run stays RUNNING, the cause is reported."""

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from blocking import begin_with, blocked, gone
from conftest import Result, Store, drive_in

from ml_pipelines.system import processes
from ml_pipelines.tracking.store import GONE

Shell = Callable[..., Result]
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="process ids are looked up in /proc")

PIPELINE = ("python", "driver.py", "--only=prepare_data")
MAIN = ("mlflow", "run", ".", "-e", "main", "-Pset=max_parallel=1")
ALONE = ("mlflow", "run", ".", "-e", "prepare_data")


def statuses(store: Store) -> set[str]:
    return {run.info.status for run in store.runs()}


# -- stopped by a signal


@pytest.mark.slow
@pytest.mark.parametrize(
    ("backend", "name"),
    [
        *(("inline", name) for name in ("SIGTERM", "SIGINT", "SIGHUP")),
        *(("forkserver", name) for name in ("SIGTERM", "SIGINT", "SIGHUP")),
        *(("local", name) for name in ("SIGTERM", "SIGINT", "SIGHUP")),
    ],
)
def test_a_stopped_driver_leaves_no_run_running_and_no_process(
    store: Store, small: Path, backend: str, name: str
) -> None:
    with blocked(small, *PIPELINE, f"--backend={backend}") as command:
        command.process.send_signal(signal.Signals[name])
        assert command.process.wait(30) == 128 + signal.Signals[name]
        assert gone(command.step), "the step's process lives on"
    assert {run.info.run_name: run.info.status for run in store.runs()} == {
        "pipeline_run": "KILLED",
        "01_prepare_data": "KILLED",
    }
    assert "Traceback" not in command.text()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGHUP"])
@pytest.mark.parametrize("backend", ["forkserver", "local"])
def test_a_signal_to_the_process_group_stops_driver_and_step(
    store: Store, small: Path, backend: str, name: str
) -> None:
    with blocked(small, *PIPELINE, f"--backend={backend}") as command:
        os.killpg(command.process.pid, signal.Signals[name])
        assert command.process.wait(30) == 128 + signal.Signals[name]
        assert gone(command.step)
    assert statuses(store) == {"KILLED"}


@pytest.mark.slow
def test_further_signals_do_not_interrupt_the_shutdown(store: Store, small: Path) -> None:
    with blocked(small, *PIPELINE, "--backend=forkserver") as command:
        for _ in range(20):
            command.process.send_signal(signal.SIGINT)
            time.sleep(0.02)
        assert command.process.wait(30) == 130
    assert statuses(store) == {"KILLED"}


@pytest.mark.slow
def test_a_driver_under_nohup_survives_its_terminal(store: Store, small: Path) -> None:
    with blocked(small, "nohup", *PIPELINE, "--backend=forkserver") as command:
        command.process.send_signal(signal.SIGHUP)
        command.process.send_signal(signal.SIGTERM)
        assert command.process.wait(30) == 143
    assert {run.data.tags["cause"] for run in store.runs()} == {"stopped by signal 15"}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP", "SIGKILL"])
@pytest.mark.parametrize("entry_point", [MAIN, ALONE], ids=["main", "prepare_data"])
def test_driver_and_step_end_with_the_mlflow_run_that_started_them(
    store: Store, small: Path, entry_point: tuple[str, ...], name: str
) -> None:
    with blocked(small, *entry_point) as command:
        command.process.send_signal(signal.Signals[name])
        command.process.wait(30)
        assert gone(command.step)
        driver_pids = {int(run.data.tags["process"].split()[1]) for run in store.runs()}
        assert all(gone(pid) for pid in driver_pids)
    assert statuses(store) == {"KILLED"}


# -- killed


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["forkserver", "local", "inline"])
def test_the_step_ends_with_a_killed_driver_and_the_next_start_closes_its_runs(
    store: Store, small: Path, shell: Shell, backend: str
) -> None:
    with blocked(small, *PIPELINE, f"--backend={backend}") as command:
        command.process.kill()
        command.process.wait()
        assert gone(command.step), "the step's process lives on"
    run_info = store.parent().info
    assert run_info.status == "RUNNING"
    result = shell("python", "driver.py", "--only=evaluate", cwd=small)  # which has no inputs yet
    assert result.code == 2
    assert "Marked as KILLED runs whose process is gone: " in result.out
    assert run_info.run_id[:8] in result.out
    assert store.client.get_run(run_info.run_id).info.status == "KILLED"
    assert "RUNNING" not in statuses(store)


@pytest.mark.slow
def test_a_killed_step_is_reported_with_its_signal(store: Store, small: Path) -> None:
    with blocked(small, *PIPELINE, "--backend=forkserver") as command:
        os.kill(command.step, signal.SIGKILL)
        assert command.process.wait(30) == 4
    assert "its process was killed by signal 9" in command.text()
    assert store.child("prepare_data").data.tags["signal"] == "9"
    assert statuses(store) == {"FAILED"}


@pytest.mark.slow
def test_a_killed_fork_server_fails_its_step(store: Store, small: Path) -> None:
    with blocked(small, *PIPELINE, "--backend=forkserver") as command:
        server = int(Path(f"/proc/{command.step}/stat").read_text().rpartition(")")[2].split()[1])
        os.kill(server, signal.SIGKILL)
        assert command.process.wait(30) == 4
        assert gone(command.step)
    assert statuses(store) == {"FAILED"}
    assert "its process ended with exit code 255" in command.text()


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["forkserver", "local"])
def test_with_fail_fast_a_failed_step_stops_the_parallel_steps(
    store: Store, small: Path, shell: Shell, backend: str
) -> None:
    fifo = small.parent / "there"
    os.mkfifo(fifo)
    begin_with(small, "evaluate", f"open({str(fifo)!r}).read(); raise ZeroDivisionError('of this test')")
    begin_with(small, "feature_importance", f"open({str(fifo)!r}, 'w').close(); __import__('threading').Event().wait()")
    result = shell(
        "python", "driver.py", f"--backend={backend}", "--set=fail_fast=true", cwd=small, PYTHONPATH=str(small)
    )
    assert result.code == 4, result.text
    assert "- 04_feature_importance" in result.out and "stopped (03_evaluate failed)" in result.out
    assert "- 05_model_qa" in result.out and "skipped (03_evaluate failed)" in result.out
    expected_statuses = {"01_prepare_data": "FINISHED", "02_train": "FINISHED", "03_evaluate": "FAILED"}
    assert store.statuses() == {**expected_statuses, "04_feature_importance": "KILLED"}
    assert store.child("feature_importance").data.tags["cause"] == "stopped because 03_evaluate failed"
    assert store.parent().info.status == "FAILED"


@pytest.mark.parametrize("backend", ["forkserver", "inline"])
@pytest.mark.parametrize("how", ["raise SystemExit(3)", "_os._exit(3)"])
@pytest.mark.slow
def test_a_step_that_exits_fails_and_its_exit_code_is_reported(
    store: Store, small: Path, shell: Shell, how: str, backend: str
) -> None:
    if backend == "inline" and "_exit" in how:
        pytest.skip("ends driver.py itself, as it says")
    begin_with(small, "prepare_data", how)
    result = shell("python", "driver.py", "--only=prepare_data", f"--backend={backend}", cwd=small)
    assert result.code == 4, result.text
    assert ("SystemExit: 3" if "raise" in how else "its process ended with exit code 3") in result.out
    assert statuses(store) == {"FAILED"}


# -- the reaper, by itself


def create_running_run(store: Store, **tags: str) -> str:
    """Make a run that is RUNNING, with these tags."""
    return str(store.client.create_run("0", tags=tags).info.run_id)


def process_tag_of(pid: int, start_time: str) -> str:
    """Return the tag of a process of this machine."""
    return f"{processes.process_tag()['process'].split()[0]} {pid} {start_time}"


def test_only_runs_whose_process_is_gone_are_closed(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    own_process = processes.process_tag()["process"]
    _, pid, start_time = own_process.split()
    # Another process has the id of this one now.
    dead_run = create_running_run(store, process=process_tag_of(int(pid), f"{int(start_time) + 1}"))
    child_run = create_running_run(store, **{"mlflow.parentRunId": dead_run})
    living_runs = [
        create_running_run(store, process=own_process),
        create_running_run(store, process=f"elsewhere/pid:[1] {pid} 1"),
        create_running_run(store),
        create_running_run(store, process="nonsense"),
        create_running_run(store, **{"mlflow.parentRunId": "another"}),
        create_running_run(store, **{"mlflow.parentRunId": dead_run, "databricks.run_id": "17"}),
        create_running_run(store, **{"process": process_tag_of(int(pid), "1"), "databricks.run_id": "18"}),
    ]
    store.opened.reap("0")
    assert store.client.get_run(dead_run).data.tags["cause"] == GONE
    assert f"Marked as KILLED runs whose process is gone: {child_run[:8]}, {dead_run[:8]}" in capsys.readouterr().out
    assert {store.client.get_run(run_id).info.status for run_id in (dead_run, child_run)} == {"KILLED"}
    assert {store.client.get_run(run_id).info.status for run_id in living_runs} == {"RUNNING"}


def test_a_clock_jump_does_not_close_the_runs_of_living_processes(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = create_running_run(store, **processes.process_tag())
    monkeypatch.setattr(time, "time", lambda: 0.0)
    store.opened.reap("0")
    assert store.client.get_run(run_id).info.status == "RUNNING"


def test_a_killed_pipeline_run_runs_again_even_if_all_its_steps_finished(finished: Store, earlier: Store) -> None:
    """The next run reuses all of its steps, since only a finished pipeline run is current."""
    store = Store(earlier.uri, finished.tables)
    killed_run_id = store.parent().info.run_id
    store.client.update_run(killed_run_id, status="KILLED")
    result = drive_in(store, "--to=train")
    assert result.code == 0, result.text
    assert (store.parent().info.run_id != killed_run_id, store.parent().info.status) == (True, "FINISHED")
    assert all("reused_from" in run.data.tags for run in store.below().values())
