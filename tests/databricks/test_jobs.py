"""The emulated workspace runs jobs: the real SDK submits a real wheel to isolated clusters."""

import io
import itertools
import json
import os
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from textwrap import indent
from typing import Any
from zipfile import ZipFile

import pytest
from conftest import ROOT
from databricks.sdk import WorkspaceClient
from databricks.sdk.errors import InvalidParameterValue, ResourceDoesNotExist
from databricks.sdk.service.compute import ClusterSpec, Library
from databricks.sdk.service.jobs import JobCluster, JobSettings, PythonWheelTask, QueueSettings, RunIf, SubmitTask, Task
from databricks.sdk.service.jobs import JobParameterDefinition as Parameter
from databricks.sdk.service.jobs import TaskDependency as After
from emulator import Workspace
from emulator.runs import Run

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

CODE = "/Volumes/ml_artifacts/dev/testing/code"
NUMBERS = itertools.count()


def spec(compute: str = "single_node") -> ClusterSpec:
    return ClusterSpec.from_dict(json.loads((ROOT / f"resources/clusters/dev/{compute}.json").read_text()))


def wheel(text: str, version: str) -> bytes:
    """Return a wheel with one module, whose function `main` is the entry point `go`."""
    info, content = f"tiny-{version}.dist-info", io.BytesIO()
    files = {
        "tiny.py": text,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: tiny\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/entry_points.txt": "[console_scripts]\ngo = tiny:main\n",
    }
    with ZipFile(content, "w") as archive:
        for path, body in files.items():
            archive.writestr(path, body)
        archive.writestr(f"{info}/RECORD", "".join(f"{path},,\n" for path in (*files, f"{info}/RECORD")))
    return content.getvalue()


@pytest.fixture
def client(workspace: Workspace) -> WorkspaceClient:
    return WorkspaceClient()


def upload_wheel(client: WorkspaceClient, main: str, version: str = "") -> str:
    """Upload a wheel whose `main` has this body, and return its path; each wheel gets its own version."""
    version = version or f"1.{next(NUMBERS)}"
    path = f"{CODE}/{next(NUMBERS)}/tiny-{version}-py3-none-any.whl"
    text = "import os, sys, time\n\n\ndef main():\n" + indent(main.strip(), "    ")
    client.files.upload(path, io.BytesIO(wheel(text, version)), overwrite=True)
    return path


def task(key: str, path: str, *parameters: str, after: tuple[str, ...] = (), **options: Any) -> Task:
    """Return a task that runs the wheel's entry point; without a compute it gets its own single node."""
    if not options.keys() & {"existing_cluster_id", "job_cluster_key"}:
        options = {"new_cluster": spec()} | options
    return Task(
        task_key=key,
        depends_on=[After(task_key=name) for name in after] or None,
        libraries=[Library(whl=path)],
        python_wheel_task=PythonWheelTask(package_name="tiny", entry_point="go", parameters=list(parameters)),
        **options,
    )


@pytest.fixture(scope="module")
def running_cluster(started_workspace: Workspace) -> Iterator[str]:
    """Return the id of a running cluster, for tests that need no cluster of their own."""
    cluster = started_workspace.clusters.start(spec().as_dict(), "0101-existing-cluster")
    yield cluster.id
    started_workspace.clusters.terminate(cluster)


@pytest.fixture
def submit(workspace: Workspace, client: WorkspaceClient) -> Callable[..., Run]:
    """Submit tasks as a one-time run."""

    def submit_tasks(*tasks: Task, **options: Any) -> Run:
        one_time_tasks = [SubmitTask.from_dict(task.as_dict()) for task in tasks]
        return workspace.jobs.find(client.jobs.submit(run_name="test", tasks=one_time_tasks, **options).run_id)

    return submit_tasks


def on(cluster_id: str) -> dict[str, str]:
    return {"existing_cluster_id": cluster_id}


def results(run: Run) -> dict[str, str | None]:
    return {key: run.latest(key).state.result for key in run.tasks}


# -- a task on its cluster


def test_a_wheel_runs_on_an_isolated_cluster(workspace: Workspace, client: WorkspaceClient) -> None:
    path = upload_wheel(
        client,
        """
import importlib.util, platform
print(sys.argv, os.environ["DATABRICKS_RUNTIME_VERSION"], platform.node())
print("spark", importlib.util.find_spec("pyspark"), "cwd", os.listdir(), "checkout", os.listdir(sys.argv[2]))
open("/Volumes/ml_artifacts/dev/testing/left.txt", "w").write("here")
from databricks.sdk import WorkspaceClient
print(WorkspaceClient().current_user.me().user_name)
""",
    )
    run = client.jobs.submit(run_name="apart", tasks=[task("only", path, "--run={{job.run_id}}", str(ROOT))])
    assert workspace.jobs.find(run.run_id).wait(120).result == "SUCCESS"
    job_run = client.jobs.get_run(run.run_id)
    logs = str(client.jobs.get_run_output(job_run.tasks[0].run_id).logs)
    first_line = re.match(rf"\['go', '--run={run.run_id}', '{ROOT}'\] 17\.3 (0101-\d+-emulated)\n", logs)
    assert first_line
    assert f"spark None cwd [] checkout []\n{workspace.user}" in logs
    assert client.files.download("/Volumes/ml_artifacts/dev/testing/left.txt").contents.read() == b"here"
    assert not Path("/Volumes/ml_artifacts").exists()
    [execution] = [item for item in workspace.executed if item.job_run_id == run.run_id]
    assert (execution.task_key, execution.spec["node_type_id"]) == ("only", spec().node_type_id)
    assert first_line[1] not in workspace.clusters.running


def test_only_a_spark_cluster_has_spark(submit: Callable[..., Run], client: WorkspaceClient) -> None:
    path = upload_wheel(
        client,
        """
from pyspark.sql import SparkSession
table = "/Volumes/ml_artifacts/dev/testing/" + sys.argv[1]
SparkSession.builder.getOrCreate().range(7).write.format("delta").save(table)
import polars
print(polars.scan_delta(table).collect().height, "rows")
""",
    )
    run = submit(task("spark", path, "{{task.run_id}}", new_cluster=spec("spark")), task("single", path, "none"))
    assert run.wait(180).life == "INTERNAL_ERROR"
    assert results(run) == {"spark": "SUCCESS", "single": "FAILED"}
    assert client.jobs.get_run_output(run.latest("spark").run_id).logs == "7 rows\n"
    output = client.jobs.get_run_output(run.latest("single").run_id)
    assert output.error == "ModuleNotFoundError: No module named 'pyspark'"
    assert str(output.error_trace).startswith("Traceback")


def test_system_exit_0_fails_the_task(
    submit: Callable[..., Run], client: WorkspaceClient, running_cluster: str
) -> None:
    path = upload_wheel(client, "sys.exit(0)")
    run = submit(task("exits", path, **on(running_cluster)))
    assert run.wait(60).result == "FAILED"
    assert client.jobs.get_run_output(run.latest("exits").run_id).error == "SystemExit: 0"


def test_a_cancelled_run_leaves_no_process(
    submit: Callable[..., Run], client: WorkspaceClient, running_cluster: str
) -> None:
    path = upload_wheel(
        client,
        """
import subprocess
subprocess.Popen(["sleep", sys.argv[1]], start_new_session=True)
print("started")
time.sleep(600)
""",
    )
    mark = f"86400.{os.getpid()}"
    run = submit(task("sleeps", path, mark, **on(running_cluster)), task("next", path, after=("sleeps",)))
    eventually(lambda: "started" in str(client.jobs.get_run_output(run.latest("sleeps").run_id).logs))
    assert client.jobs.get_run(run.run_id).state.life_cycle_state.value == "RUNNING"
    assert running("sleep", mark)
    client.jobs.cancel_run(run.run_id)
    assert run.wait(30).result == "CANCELED"
    assert results(run) == {"sleeps": "CANCELED", "next": "CANCELED"}
    eventually(lambda: not running("sleep", mark))


# -- the order of tasks


def test_tasks_run_in_the_order_of_the_graph_and_branches_run_in_parallel(
    submit: Callable[..., Run], client: WorkspaceClient, running_cluster: str
) -> None:
    """The two branches wait for each other; the task that needs both runs last."""
    path = upload_wheel(
        client,
        """
from pathlib import Path
folder, own, awaited = sys.argv[1:]
Path(folder).mkdir(exist_ok=True)
Path(folder, own).touch()
end = time.monotonic() + 60
while awaited and not Path(folder, awaited).exists():
    assert time.monotonic() < end
    time.sleep(0.05)
print(sorted(os.listdir(folder)))
""",
    )
    folder = f"/Volumes/ml_artifacts/dev/testing/{next(NUMBERS)}"
    where = on(running_cluster)
    run = submit(
        task("last", path, folder, "last", "", after=("left", "right"), **where),
        task("left", path, folder, "left", "right", after=("first",), **where),
        task("right", path, folder, "right", "left", after=("first",), **where),
        task("first", path, folder, "first", "", **where),
    )
    assert run.wait(120).result == "SUCCESS"
    assert client.jobs.get_run_output(run.latest("first").run_id).logs == "['first']\n"
    assert client.jobs.get_run_output(run.latest("last").run_id).logs == "['first', 'last', 'left', 'right']\n"


def test_run_if_decides_which_tasks_run_after_a_failure(
    submit: Callable[..., Run], client: WorkspaceClient, running_cluster: str
) -> None:
    path = upload_wheel(client, "print(sys.argv[2])\nassert sys.argv[1] != 'fail'")
    where = on(running_cluster)
    run = submit(
        task("bad", path, "fail", "", **where),
        task("good", path, "", "", **where),
        task("needs_both", path, "", "", after=("bad", "good"), **where),
        task("rescue", path, "", "", after=("bad",), run_if=RunIf.AT_LEAST_ONE_FAILED, **where),
        task("idle", path, "", "", after=("good",), run_if=RunIf.ALL_FAILED, **where),
        task(
            "close",
            path,
            "",
            "{{tasks.bad.result_state}}",
            after=("needs_both", "idle"),
            run_if=RunIf.ALL_DONE,
            **where,
        ),
    )
    assert run.wait(120).result == "SUCCESS_WITH_FAILURES"  # no leaf failed
    assert results(run) == {
        "bad": "FAILED",
        "good": "SUCCESS",
        "needs_both": "UPSTREAM_FAILED",
        "rescue": "SUCCESS",
        "idle": "EXCLUDED",
        "close": "SUCCESS",
    }
    assert client.jobs.get_run_output(run.latest("close").run_id).logs == "failed\n"


# -- attempts


def test_a_failed_task_is_retried_as_a_new_attempt(
    submit: Callable[..., Run], client: WorkspaceClient, running_cluster: str
) -> None:
    path = upload_wheel(client, "os.makedirs(f'{sys.argv[1]}/{sys.argv[2]}')\nassert len(os.listdir(sys.argv[1])) == 2")
    folder = f"/Volumes/ml_artifacts/dev/testing/{next(NUMBERS)}"
    where = on(running_cluster)
    run = submit(task("second", path, folder, "{{task.run_id}}", max_retries=3, **where))
    assert run.wait(60).result == "SUCCESS"
    attempts = [
        (attempt.attempt_number, attempt.state.result_state.value) for attempt in client.jobs.get_run(run.run_id).tasks
    ]
    assert attempts == [(0, "FAILED"), (1, "SUCCESS")]


def test_a_task_and_a_run_have_time_limits(
    submit: Callable[..., Run], client: WorkspaceClient, running_cluster: str
) -> None:
    path = upload_wheel(client, "time.sleep(600)")
    where = on(running_cluster)
    slow_task = submit(task("sleeps", path, timeout_seconds=1, max_retries=2, **where))
    slow_run = submit(task("sleeps", path, **where), timeout_seconds=1)
    assert slow_task.wait(60).result == "FAILED"
    assert [attempt.state.result for attempt in slow_task.attempts] == ["TIMEDOUT"]
    assert slow_run.wait(60).result == "TIMEDOUT"


def test_an_idempotency_token_submits_once(
    submit: Callable[..., Run], client: WorkspaceClient, running_cluster: str
) -> None:
    only, token = task("once", upload_wheel(client, "pass"), **on(running_cluster)), f"token-{next(NUMBERS)}"
    first, second = (submit(only, idempotency_token=token) for _ in range(2))
    assert first is second
    assert first.wait(60).result == "SUCCESS"
    assert len(first.attempts) == 1


def test_a_wheel_of_an_installed_version_is_not_installed_again(
    submit: Callable[..., Run], client: WorkspaceClient, running_cluster: str
) -> None:
    logs = []
    for text in ("old", "new"):
        run = submit(task("says", upload_wheel(client, f"print('{text}')", "9.9"), **on(running_cluster)))
        assert run.wait(60).result == "SUCCESS"
        logs.append(client.jobs.get_run_output(run.latest("says").run_id).logs)
    assert logs == ["old\n", "old\n"]


# -- jobs


def test_a_job_shares_its_cluster_and_is_repaired(workspace: Workspace, client: WorkspaceClient) -> None:
    path = upload_wheel(client, "print(sys.argv[1:])\nassert os.path.exists(sys.argv[1])")
    job = client.jobs.create(
        name="repaired",
        job_clusters=[JobCluster("single_node", spec())],
        parameters=[Parameter(name="path", default="/nowhere")],
        tasks=[
            task(key, path, text, job_cluster_key="single_node", after=after)
            for key, text, after in [("a", "/", ()), ("b", "{{job.parameters.path}}", ("a",)), ("c", "/", ("b",))]
        ],
    )
    marker = f"/Volumes/ml_artifacts/dev/testing/{next(NUMBERS)}"
    run = workspace.jobs.find(client.jobs.run_now(job.job_id, job_parameters={"path": marker}).run_id)
    assert run.wait(60).message.startswith("Task b failed")
    assert results(run) == {"a": "SUCCESS", "b": "FAILED", "c": "UPSTREAM_FAILED"}
    assert len({execution.cluster_id for execution in workspace.executed if execution.job_run_id == run.run_id}) == 1
    client.files.create_directory(marker)
    client.jobs.repair_run(run.run_id, rerun_all_failed_tasks=True)
    assert run.wait(60).result == "SUCCESS"
    assert [attempt.task.task_key for attempt in run.attempts] == ["a", "b", "c", "b", "c"]


def test_a_job_has_the_settings_of_its_last_reset_until_it_is_deleted(
    client: WorkspaceClient, running_cluster: str
) -> None:
    only = task("only", "none.whl", **on(running_cluster))
    job_id = client.jobs.create(name="kept", tasks=[only]).job_id
    client.jobs.reset(job_id, JobSettings(name="kept anew", tasks=[only], max_concurrent_runs=2))
    assert client.jobs.get(job_id).settings.max_concurrent_runs == 2
    assert [job.job_id for job in client.jobs.list(name="kept anew")] == [job_id]
    client.jobs.delete(job_id)
    assert list(client.jobs.list(name="kept anew")) == []
    with pytest.raises(ResourceDoesNotExist):
        client.jobs.run_now(job_id)


@pytest.mark.parametrize("queue", [True, False])
def test_a_second_run_of_a_job_is_queued_or_skipped(
    workspace: Workspace, client: WorkspaceClient, running_cluster: str, queue: bool
) -> None:
    path = upload_wheel(client, "while not os.path.exists(sys.argv[1]): time.sleep(0.05)")
    gate = f"/Volumes/ml_artifacts/dev/testing/{next(NUMBERS)}"
    only = task("waits", path, gate, **on(running_cluster))
    job = client.jobs.create(name="one at a time", max_concurrent_runs=1, queue=QueueSettings(queue), tasks=[only])
    first, second = (workspace.jobs.find(client.jobs.run_now(job.job_id).run_id) for _ in range(2))
    assert second.state.life == ("QUEUED" if queue else "SKIPPED")
    assert client.jobs.get_run(second.run_id).state.result_state is None
    client.files.create_directory(gate)
    assert first.wait(60).result == "SUCCESS"
    assert second.wait(60).result == ("SUCCESS" if queue else None)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"job_cluster_key": "none"}, "Job cluster 'none' is not defined"),
        ({"after": ("nobody",)}, "depends on unknown task 'nobody'"),
        ({"after": ("only",)}, "cycle: only -> only"),
        ({"job_cluster_key": "none", "existing_cluster_id": "one"}, "needs exactly one compute"),
        ({"parameters": ["{{job.parameters.typo}}"]}, "unknown reference {{job.parameters.typo}}"),
    ],
)
def test_an_invalid_job_is_refused(client: WorkspaceClient, change: dict[str, Any], message: str) -> None:
    options = dict(change)
    with pytest.raises(InvalidParameterValue, match=re.escape(message)):
        client.jobs.create(name="bad", tasks=[task("only", "none.whl", *options.pop("parameters", []), **options)])


def eventually(holds: Callable[[], bool]) -> None:
    """Wait until the condition holds, for events that nothing else announces."""
    end = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < end, "still not so after 60 s"
        time.sleep(0.05)


def running(*command: str) -> bool:
    """Return whether a process with this command line runs on this machine."""
    command_line = b"".join(part.encode() + b"\0" for part in command)
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if process.read_bytes() == command_line:
                return True
        except OSError:
            continue
    return False
