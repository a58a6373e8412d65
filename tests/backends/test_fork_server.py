"""Tests of the fork server: the environment of a child, its output, and its end together with the driver."""

import contextlib
import os
import select
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest
from blocking import begin_with
from conftest import FAST, ROOT, Result, Store

from ml_pipelines.system.processes import processors

Drive = Callable[..., Result]
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the fork server is for Linux")


def script(tmp_path: Path, body: str) -> Path:
    """Write a program into its own file that uses ml_pipelines.backends.fork_server as a driver does."""
    path = tmp_path / "caller.py"
    path.write_text(f"import sys\nsys.path.insert(0, {str(ROOT)!r})\n" + textwrap.dedent(body))
    return path


def python(path: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, path], env={**os.environ, **environment}, capture_output=True, text=True, timeout=100
    )


@pytest.mark.slow
def test_a_child_does_not_import_its_caller_s_main_module(tmp_path: Path) -> None:
    marker = tmp_path / "imported"
    body = f"""
    import os
    open({str(marker)!r}, "a").write(f"{{__name__}}\\n")
    from ml_pipelines.backends import fork_server
    if __name__ == "__main__":
        child = fork_server.Child(os.getpid.__call__ and print, ("hello",), os.environ, print, lambda code: None)
        child.wait()
    """
    result = python(script(tmp_path, body))
    assert "hello" in result.stdout, result.stderr
    assert marker.read_text() == "__main__\n"


def test_a_child_has_exactly_the_environment_passed_to_it(tmp_path: Path) -> None:
    body = """
    import json, os
    from ml_pipelines.backends import fork_server
    if __name__ == "__main__":
        os.environ["MLFLOW_RUN_ID"] = "the callers own"
        os.environ["LATER"] = "1"
        fork_server.start()
        environment = {"PATH": os.environ["PATH"], "GIVEN": "yes"}
        show = "import json, os; print(json.dumps(dict(os.environ)))"
        fork_server.Child(exec, (show,), environment, print, lambda code: None).wait()
    """
    result = python(script(tmp_path, body), EARLIER="1")
    assert result.stdout.strip() == f'{{"PATH": "{os.environ["PATH"]}", "GIVEN": "yes"}}', result.stderr


def test_a_child_passes_on_its_output_and_its_exit_code(tmp_path: Path) -> None:
    body = """
    from ml_pipelines.backends import fork_server
    if __name__ == "__main__":
        exit_codes = []
        child = fork_server.Child(exec, ("print('one'); import os; os.write(2, b'two'); raise SystemExit(7)",),
                              {}, lambda line: print("got", line), exit_codes.append)
        print(child.wait(), exit_codes)
    """
    assert python(script(tmp_path, body)).stdout.split() == ["got", "one", "got", "two", "7", "[7]"]


@pytest.mark.slow
def test_a_child_that_ignores_sigterm_is_killed(tmp_path: Path) -> None:
    body = """
    import threading
    from ml_pipelines.backends import fork_server
    from ml_pipelines.system import processes
    processes.GRACE_S = 0.2
    if __name__ == "__main__":
        ready = threading.Event()
        ignore = "import signal; signal.signal(15, signal.SIG_IGN); print('ready', flush=True); signal.pause()"
        child = fork_server.Child(exec, (ignore,), {}, lambda line: ready.set(), lambda code: None)
        ready.wait()
        child.stop()
        print(child.exit_code)
    """
    assert python(script(tmp_path, body)).stdout.strip() == "-9"


def test_a_child_and_the_server_end_if_the_driver_is_killed(tmp_path: Path) -> None:
    body = """
    import os, signal
    from ml_pipelines.backends import fork_server
    if __name__ == "__main__":
        def on_line(line):
            print(line, flush=True)
            os.kill(os.getpid(), signal.SIGKILL)
        fork_server.Child(exec, ("import os, signal; print(os.getpid(), os.getppid(), flush=True); signal.pause()",),
                      {}, on_line, print)
    """
    result = python(script(tmp_path, body))
    assert result.returncode == -signal.SIGKILL
    for pid in map(int, result.stdout.split()):
        # The kernel sends the signal when the driver ends; a process that gets the signal ends by itself.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            descriptor = os.pidfd_open(pid)
            assert select.select([descriptor], [], [], 20)[0], f"process {pid} outlived its driver"


@pytest.mark.parametrize("backend", ["forkserver", "local"])
@pytest.mark.slow
def test_every_backend_gives_exactly_the_same_metrics(backend: str, drive: Drive, shell: Drive, store: Store) -> None:
    assert drive("--backend=inline").code == 0
    inline = {run.data.tags["step"]: run.data.metrics for run in store.runs("tags.step != ''")}
    result = shell(
        "python",
        "driver.py",
        f"--backend={backend}",
        "--force",
        f"--set={FAST}",
        f"--set=data.delta_prefix.local={store.tables}",
    )
    assert result.code == 0, result.text
    parent = store.parent().info.run_id
    children = store.runs(f"tags.`mlflow.parentRunId` = '{parent}'")
    assert {run.data.tags["step"]: run.data.metrics for run in children} == inline
    assert all(f"{run.data.tags['step']}.log" in store.artifacts(run) for run in children)


@pytest.mark.slow
def test_a_running_pipeline_ignores_changes_to_its_profile(small: Path, shell: Drive, store: Store) -> None:
    local = small / "conf" / "local.yaml"
    begin_with(small, "prepare_data", f"open({str(local)!r}, 'a').write('seed: 7\\n')")
    result = shell("python", "driver.py", "--backend=forkserver", cwd=small, PYTHONPATH=str(small))
    assert result.code == 0, result.text
    assert {run.data.params["seed"] for run in store.below().values()} == {"42"}


THREADS = """
    import time as _time
    import sklearn.ensemble
    import threadpoolctl as _pools
    shares, start = iter({shares}), _time.monotonic()
    share = next(shares)
    while share:
        assert _time.monotonic() - start < 60, f"never had {{share}} threads"
        if all(pool["num_threads"] == share for pool in _pools.threadpool_info() if pool["user_api"] == "openmp"):
            share = next(shares, None)
        _time.sleep(0.01)
"""


@pytest.mark.slow
def test_parallel_steps_share_the_processors_and_the_last_step_gets_all(small: Path, shell: Drive) -> None:
    all_processors = processors()
    half = THREADS.format(shares=[max(1, all_processors // 2)])
    fifo = small / "fifo"
    os.mkfifo(fifo)  # opening it waits for the other step: neither step ends before both had their half
    begin_with(small, "evaluate", f"{half}\n    open({str(fifo)!r}).read()")
    begin_with(
        small,
        "feature_importance",
        f"{half}\n    open({str(fifo)!r}, 'w').close()\n{THREADS.format(shares=[all_processors])}",
    )
    result = shell("python", "driver.py", "--backend=forkserver", cwd=small, PYTHONPATH=str(small))
    assert result.code == 0, result.text


@pytest.mark.slow
def test_a_share_set_before_the_libraries_load_limits_their_threads(tmp_path: Path) -> None:
    share = tmp_path / "share"
    share.write_text("1")
    body = f"""
    from pathlib import Path
    from ml_pipelines.execution.step_run import keep_share
    keep_share(Path({str(share)!r}))
    import sklearn.ensemble, threadpoolctl
    print({{pool["num_threads"] for pool in threadpoolctl.threadpool_info() if pool["user_api"] == "openmp"}})
    """
    assert python(script(tmp_path, body)).stdout.strip() == "{1}"


@pytest.mark.slow
def test_a_share_that_changes_while_another_is_applied_is_not_lost(tmp_path: Path) -> None:
    share = tmp_path / "share"
    share.write_text("2")
    body = f"""
    import signal
    from pathlib import Path
    import sklearn.ensemble, threadpoolctl
    from ml_pipelines.execution.step_run import keep_share
    from ml_pipelines.system.processes import SHARE_CHANGED
    limit, share = threadpoolctl.threadpool_limits, Path({str(share)!r})
    def change_share_first(*args, **options):
        if share.read_text() == "2":
            share.write_text("1")
            signal.raise_signal(SHARE_CHANGED)
        limit(*args, **options)
    threadpoolctl.threadpool_limits = change_share_first
    keep_share(share)
    print({{pool["num_threads"] for pool in threadpoolctl.threadpool_info() if pool["user_api"] == "openmp"}})
    """
    assert python(script(tmp_path, body)).stdout.strip() == "{1}"


@pytest.mark.parametrize(("setting", "threads"), [("3", 3), ("3,2", 3), ("0", 1), ("", None), ("many", None)])
def test_processors_counts_the_threads_that_openmp_would_use(
    monkeypatch: pytest.MonkeyPatch, setting: str, threads: int | None
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", setting)
    assert processors() == (threads or len(os.sched_getaffinity(0)))


@pytest.mark.slow
def test_many_forks_with_polars_queries_do_not_hang(tmp_path: Path) -> None:
    """`make chaos` runs the long form: 2,000 of these forks, and 50 with Sail and Delta."""
    body = f"""
    import sys
    sys.path.insert(0, {str(ROOT / "tests")!r})
    from chaos import forks
    if __name__ == "__main__":
        print(forks.polars(60), forks.spark(3))
    """
    result = python(script(tmp_path, body))
    assert result.stdout.split() == ["60", "3"], result.stderr


@pytest.mark.slow
def test_a_server_that_ends_when_it_is_asked_for_a_child_is_replaced(tmp_path: Path) -> None:
    body = """
    import os, signal
    from multiprocessing import forkserver
    from ml_pipelines.backends import fork_server
    if __name__ == "__main__":
        asked = []
        fork_server.start()
        first = fork_server._server()
        os.kill(first, signal.SIGSTOP)  # it does not answer
        connect = forkserver.connect_to_new_process

        def connect_and_end(descriptors):
            connected = connect(descriptors)
            if not asked:
                asked.append(True)
                os.kill(first, signal.SIGKILL)
            return connected

        forkserver.connect_to_new_process = connect_and_end
        child = fork_server.Child(print, ("hello",), os.environ, print, lambda code: None)
        print(child.wait(), fork_server._server() != first)
    """
    result = python(script(tmp_path, body))
    assert (result.stdout.splitlines(), result.stderr) == (["hello", "0 True"], "")


@pytest.mark.slow
def test_a_server_that_ends_again_and_again_gives_one_line(tmp_path: Path) -> None:
    body = """
    import os, signal
    from multiprocessing import forkserver
    from ml_pipelines.backends import fork_server
    from ml_pipelines.errors import StepFailed
    if __name__ == "__main__":
        connect = forkserver.connect_to_new_process

        def connect_and_end(descriptors):
            os.kill(fork_server._server(), signal.SIGSTOP)
            connected = connect(descriptors)
            os.kill(fork_server._server(), signal.SIGKILL)
            return connected

        forkserver.connect_to_new_process = connect_and_end
        try:
            fork_server.Child(print, ("hello",), os.environ, print, lambda code: None)
        except StepFailed as error:
            print(error)
    """
    result = python(script(tmp_path, body))
    assert result.stdout.startswith("The fork server ended twice before it started a step: "), result.stderr
    assert result.stderr == ""


@pytest.mark.slow
def test_ctrl_c_while_the_server_imports_is_not_seen_by_the_server(tmp_path: Path) -> None:
    body = """
    import os, signal
    from ml_pipelines.backends import fork_server
    if __name__ == "__main__":
        fork_server.start()
        for _ in range(20):  # while it starts and imports
            os.kill(fork_server._server(), signal.SIGINT)
            signal.sigtimedwait([], 0.05)
        child = fork_server.Child(print, ("hello",), os.environ, print, lambda code: None)
        print(child.wait())
    """
    result = python(script(tmp_path, body))
    assert (result.stdout.splitlines(), result.stderr) == (["hello", "0"], "")


@pytest.mark.slow
def test_temporary_files_of_a_killed_child_and_of_the_server_are_in_the_drivers_folder(tmp_path: Path) -> None:
    body = """
    import os, sys
    from ml_pipelines.backends import fork_server
    if __name__ == "__main__":
        with fork_server.quick_exit():
            environment = {**os.environ, "TMPDIR": str(fork_server.folder())}
            leave = "python -c 'import tempfile; print(tempfile.mkdtemp())'; kill -9 $PPID"
            child = fork_server.Child(os.system, (leave,), environment, print, lambda code: None)
            print(child.wait())
            sys.exit(3)
    """
    (tmp_path / "tmp").mkdir()
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    result = python(script(tmp_path, body), TMPDIR=str(tmp_path / "tmp"), PATH=path)
    assert (result.returncode, result.stdout.splitlines()[-1]) == (3, "-9"), result.stderr
    assert list((tmp_path / "tmp").iterdir()) == []
