"""What holds the runs and the tables, failing: a server that goes away, a disk that is full or read-only."""

import os
import select
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from queue import Empty, Queue

import deltalake
import polars as pl
import pytest
from blocking import begin_with
from conftest import ROOT, Result, Store

from ml_pipelines.tracking import FIRST_BUDGET, SERVER_BUDGET

AWAY_S = 20  # and until it has started: 25 seconds and more
Drive = Callable[..., Result]
Shell = Callable[..., Result]

as_root = pytest.mark.skipif(
    sys.platform != "linux" or os.geteuid() != 0, reason="mounting a small or read-only file system needs root"
)


# -- eight at once


@pytest.mark.slow
def test_eight_drivers_open_a_fresh_sqlite_store_at_once(tmp_path: Path) -> None:
    """None has anything to run: that a store is empty can only be said by whoever could open it."""
    store = Store(f"sqlite:///{tmp_path / 'new' / 'mlflow.db'}", tmp_path / "delta")
    (tmp_path / "new").mkdir()
    command = [sys.executable, "driver.py", "--only=evaluate"]
    environment = {**os.environ, "MLFLOW_TRACKING_URI": store.uri}
    drivers = [
        subprocess.Popen(command, cwd=ROOT, env=environment, text=True, stderr=subprocess.PIPE) for _ in range(8)
    ]
    ends = [(driver.communicate(timeout=200)[1], driver.returncode) for driver in drivers]
    assert [code for _, code in ends] == [2] * 8, ends
    assert all("No earlier pipeline run of profile local has" in said for said, _ in ends)
    assert len([e for e in store.client.search_experiments() if e.name == "local_pipeline_experiment"]) == 1


# -- a tracking server


@dataclass
class Server:
    """A real `mlflow server`, on one port that it takes again."""

    folder: Path
    port: int
    process: subprocess.Popen[bytes] | None = None

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        command = [str(Path(sys.executable).parent / "mlflow"), "server", "--host=127.0.0.1", "--workers=1"]
        command += [f"--port={self.port}", f"--backend-store-uri=sqlite:///{self.folder / 'served.db'}"]
        command += [f"--artifacts-destination={self.folder / 'art'}"]
        environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        environment.pop("MLFLOW_TRACKING_URI", None)
        with (self.folder / "server.log").open("a") as log:
            self.process = subprocess.Popen(
                command, cwd=self.folder, env=environment, stdout=log, stderr=log, start_new_session=True
            )
        for _ in range(400):
            try:
                urllib.request.urlopen(f"{self.uri}/health", timeout=5)
                return
            except (urllib.error.URLError, OSError):
                if self.process.poll() is not None:
                    break
                time.sleep(0.25)
        pytest.fail(f"mlflow server did not start: {(self.folder / 'server.log').read_text()[-2000:]}")

    def kill(self) -> None:
        if self.process and self.process.poll() is None:
            os.killpg(self.process.pid, 9)
            self.process.wait()


@pytest.fixture
def server(tmp_path: Path, migrated: Path) -> Iterator[Server]:
    """Run a server on loopback."""
    shutil.copy(migrated, tmp_path / "served.db")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    running = Server(tmp_path, port)
    running.start()
    yield running
    running.kill()


@contextmanager
def held(project: Path, uri: str, **environment: str) -> Iterator[tuple[subprocess.Popen[str], Callable[[], None]]]:
    """Run prepare_data until its step is about to do its work; give the driver, and what lets the step go on."""
    here, go_on = project.parent / "here", project.parent / "go_on"
    os.mkfifo(here)
    os.mkfifo(go_on)
    begin_with(project, "prepare_data", f"open({str(here)!r}, 'w').close(); open({str(go_on)!r}).read()")
    process = subprocess.Popen(
        [sys.executable, "driver.py", "--only=prepare_data"],
        cwd=project,
        env={**os.environ, "MLFLOW_TRACKING_URI": uri, **environment},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    try:
        here.read_text()
        yield process, lambda: go_on.open("w").close()
    finally:
        process.kill()
        process.wait()


@pytest.mark.slow
def test_a_server_that_is_killed_and_comes_back_is_waited_for(server: Server, small: Path) -> None:
    with held(small, server.uri) as (driver, go_on):
        server.kill()
        go_on()
        time.sleep(AWAY_S)
        server.start()
        said, _ = driver.communicate(timeout=150)
    assert driver.returncode == 0, said
    served = Store(server.uri, small)
    assert served.statuses() == {"01_prepare_data": "FINISHED"}
    assert served.parent().info.status == "FINISHED"


@pytest.mark.slow
def test_a_server_that_never_comes_back_is_one_clear_error_and_the_next_start_closes_the_runs(
    server: Server, small: Path, shell: Shell
) -> None:
    with held(small, server.uri, MLFLOW_HTTP_REQUEST_MAX_RETRIES="1") as (driver, go_on):
        server.kill()
        go_on()
        started = time.monotonic()
        said, _ = driver.communicate(timeout=150)
        assert time.monotonic() - started < 60
    assert driver.returncode == 4, said
    assert "Traceback" not in said
    last = said.splitlines()[-1]
    assert last.startswith(f"The MLflow store {server.uri} fails: API request to")
    server.start()
    assert "Marked KILLED" in shell("python", "driver.py", "--only=evaluate", MLFLOW_TRACKING_URI=server.uri).out
    assert {run.info.status for run in Store(server.uri, small).runs()} == {"KILLED"}


@pytest.mark.slow
def test_a_server_that_is_not_there_is_one_line(shell: Shell) -> None:
    away = {"MLFLOW_TRACKING_URI": "http://127.0.0.1:9", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}
    result = shell("python", "driver.py", **away)
    assert result.code == 2
    assert result.err.startswith("The MLflow store http://127.0.0.1:9 can't be opened: ")
    assert len(result.text.splitlines()) == 1


def waits(budget: Mapping[str, str]) -> float:
    """Return the seconds between the tries, as urllib3 makes them of these numbers."""
    from urllib3.util.retry import RequestHistory, Retry

    tries = int(budget["MLFLOW_HTTP_REQUEST_MAX_RETRIES"])
    one = RequestHistory("GET", "/", None, None, None)
    factor = float(budget["MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR"])
    assert budget["MLFLOW_HTTP_REQUEST_BACKOFF_JITTER"] == "0"
    return sum(Retry(backoff_factor=factor, history=(one,) * n).get_backoff_time() for n in range(1, tries + 1))


def test_the_budget_for_a_server_that_is_away_is_between_25_and_60_seconds() -> None:
    """The step waits once, then the driver once."""
    assert 55 < waits(SERVER_BUDGET) < 65
    first = SERVER_BUDGET | FIRST_BUDGET
    assert waits(first) > 25
    never_answers = (int(first["MLFLOW_HTTP_REQUEST_MAX_RETRIES"]) + 1) * int(first["MLFLOW_HTTP_REQUEST_TIMEOUT"])
    assert waits(first) + never_answers < 60


@pytest.mark.slow
def test_a_server_that_takes_the_first_request_and_never_answers_is_one_line(shell: Shell) -> None:
    waited: list[float] = []

    def listen(silent: socket.socket) -> None:
        asking, _ = silent.accept()
        began = time.monotonic()
        while asking.recv(65536):
            pass
        waited.append(time.monotonic() - began)

    with socket.create_server(("127.0.0.1", 0)) as silent:
        uri = f"http://127.0.0.1:{silent.getsockname()[1]}"
        listening = threading.Thread(target=listen, args=(silent,))
        listening.start()
        result = shell("python", "driver.py", MLFLOW_TRACKING_URI=uri, MLFLOW_HTTP_REQUEST_MAX_RETRIES="0")
        listening.join(60)
    assert waited and waited[0] < 20  # a later request is waited for for 30 s
    assert result.code == 2
    assert result.err.startswith(f"The MLflow store {uri} can't be opened: ")
    assert len(result.text.splitlines()) == 1


@contextmanager
def slow(uri: str, delays_s: "Queue[float]", waited_for: list[bool]) -> Iterator[str]:
    """Stand before a server and pass on what is asked; keep an answer back for each of the delays.

    `waited_for` takes down of each of these whether who asked was still there.
    """

    class Passing(BaseHTTPRequestHandler):
        def pass_on(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            headers = {name: value for name, value in self.headers.items() if name != "Host"}
            request = urllib.request.Request(f"{uri}{self.path}", body or None, headers, method=self.command)
            try:
                answer = urllib.request.urlopen(request, timeout=60)
            except urllib.error.HTTPError as error:
                answer = error
            content = answer.read()
            with suppress(Empty):
                time.sleep(delays_s.get_nowait())
                waited_for.append(not select.select([self.connection], [], [], 0)[0])  # a connection's end is readable
            self.send_response(answer.status)
            self.send_header("Content-Type", answer.headers.get("Content-Type", "application/json"))
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    for method in ("GET", "POST", "PUT", "PATCH"):
        setattr(Passing, f"do_{method}", Passing.pass_on)
    with ThreadingHTTPServer(("127.0.0.1", 0), Passing) as proxy:
        threading.Thread(target=proxy.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{proxy.server_address[1]}"
        proxy.shutdown()


@pytest.mark.slow
def test_a_server_that_answers_late_is_waited_for(server: Server, small: Path) -> None:
    delays_s: Queue[float] = Queue()
    waited_for: list[bool] = []
    with slow(server.uri, delays_s, waited_for) as uri, held(small, uri) as (driver, go_on):
        delays_s.put(float(FIRST_BUDGET["MLFLOW_HTTP_REQUEST_TIMEOUT"]) + 3)  # which is only for the first request
        go_on()
        said, _ = driver.communicate(timeout=150)
    assert driver.returncode == 0, said
    assert waited_for == [True]
    assert Store(server.uri, small).statuses() == {"01_prepare_data": "FINISHED"}


# -- a clock

CLOCK = """
import os
import time

_time, _time_ns = time.time, time.time_ns
_ago = lambda: 3600 * os.path.exists({set_back!r})
time.time = lambda: _time() - _ago()
time.time_ns = lambda: _time_ns() - _ago() * 10**9
"""


@pytest.mark.slow
def test_a_clock_that_is_set_back_an_hour_while_a_step_runs_changes_no_result(
    small: Path, shell: Shell, store: Store, tmp_path: Path
) -> None:
    set_back = tmp_path / "set_back"
    (tmp_path / "sitecustomize.py").write_text(CLOCK.format(set_back=str(set_back)))
    begin_with(small, "train", f"open({str(set_back)!r}, 'w').close()")
    path = os.pathsep.join(map(str, [tmp_path, small]))
    tables = f"--set=data.delta_prefix.local={store.tables}"
    first = shell("python", "driver.py", tables, cwd=small, PYTHONPATH=path)
    assert first.code == 0, first.text
    train = store.child("train").info
    assert train.end_time < train.start_time
    assert set(store.statuses().values()) == {"FINISHED"}
    assert "-3" not in first.out and "There is no report" not in first.out  # seconds are never less than none
    again = shell("python", "driver.py", tables, cwd=small, PYTHONPATH=path)
    assert "Nothing has changed" in again.out
    assert {run.info.status for run in store.runs()} == {"FINISHED"}


# -- a disk


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """Mount a file system of two megabytes."""
    folder = tmp_path / "disk"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)], check=True)
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(folder: Path) -> None:
    with suppress_full(), (folder / "filler").open("wb", buffering=0) as file:
        while file.write(bytes(4096)):
            pass


@contextmanager
def suppress_full() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        assert error.errno == 28


@as_root
def test_a_full_disk_for_the_tables_is_exit_code_4_with_the_path_and_the_old_version_stays(
    store: Store, drive: Drive, disk: Path
) -> None:
    tables = f"--set=data.delta_prefix.local={disk / 'delta'}"
    assert drive("--only=prepare_data", tables).code == 0
    old = store.child("prepare_data").data.tags["output.train_uri"]
    before = pl.read_delta(old)
    fill(disk)
    result = drive("--only=prepare_data", tables)
    assert result.code == 4, result.text
    assert f"Table {disk / 'delta'}" in result.out and "can't be written" in result.out
    assert "Traceback" not in result.text
    assert {run.info.status for run in store.runs()} == {"FINISHED", "FAILED"}
    assert pl.read_delta(old).equals(before)
    assert deltalake.DeltaTable(old).version() == 0


@as_root
def test_a_full_disk_for_the_artifacts_is_exit_code_4_with_the_path(store: Store, drive: Drive, disk: Path) -> None:
    store.client.create_experiment("full", artifact_location=str(disk / "artifacts"))
    fill(disk)
    result = drive("--only=prepare_data", "--set=experiment_name=full")
    assert result.code == 4, result.text
    assert "No space left on device" in result.text and str(disk) in result.text
    assert "Traceback" not in result.text
    assert {run.info.status for run in store.runs()} == {"FAILED"}


@as_root
def test_a_full_disk_for_the_store_is_exit_code_4_with_the_path(
    migrated: Path, drive: Drive, disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (disk / "filler").write_bytes(b"")
    shutil.copy(migrated, disk / "mlflow.db")
    full = Store(f"sqlite:///{disk / 'mlflow.db'}", disk)
    full.client.create_experiment("local_pipeline_experiment", artifact_location=str(disk.parent / "artifacts"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", full.uri)
    fill(disk)
    result = drive("--only=prepare_data")
    assert result.code == 4, result.text
    assert f"The MLflow store {full.uri} fails: " in result.err
    assert "disk is full" in result.err
    assert "Traceback" not in result.text


@as_root
@pytest.mark.parametrize("what", ["tables", "artifacts", "store"])
def test_a_read_only_folder_is_said_before_a_run_is_made(
    store: Store, migrated: Path, drive: Drive, disk: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    shutil.copy(migrated, disk / "mlflow.db")
    store.client.create_experiment("local_pipeline_experiment", artifact_location=str(disk.parent / "artifacts"))
    store.client.create_experiment("read_only", artifact_location=str(disk / "artifacts"))
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    options = {
        "tables": [f"--set=data.delta_prefix.local={disk / 'delta'}"],
        "artifacts": ["--set=experiment_name=read_only"],
        "store": [],
    }[what]
    if what == "store":
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{disk / 'mlflow.db'}")
    result = drive("--only=prepare_data", *options)
    assert result.code == 2, result.text
    assert "can't be written" in result.err and str(disk) in result.err
    assert len(result.text.splitlines()) == 1
    assert store.runs() == []


def test_a_folder_that_is_a_file_is_said_before_a_run_is_made(store: Store, drive: Drive, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    result = drive(f"--set=data.delta_prefix.local={tmp_path / 'taken'}")
    assert result.code == 2
    assert "data.delta_prefix.local: " in result.err
    assert store.runs() == []
