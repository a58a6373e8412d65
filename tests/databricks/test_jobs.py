"""The emulated workspace runs jobs: asked by the real SDK, with a real wheel, on clusters that are apart."""

import io
import itertools
import json
import re
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import pytest
from conftest import ROOT
from databricks.sdk import WorkspaceClient
from databricks.sdk.service.compute import ClusterSpec, Library
from databricks.sdk.service.jobs import PythonWheelTask, SubmitTask, TaskDependency
from emulator import Workspace

pytestmark = pytest.mark.slow

CODE = "/Volumes/ml_artifacts/dev/testing/code"
NUMBERS = itertools.count()


def spec(compute: str = "single_node") -> ClusterSpec:
    return ClusterSpec.from_dict(json.loads((ROOT / f"resources/clusters/dev/{compute}.json").read_text()))


def wheel(text: str, name: str = "tiny") -> bytes:
    """Return a wheel with one module, whose function `main` is the entry point `go`."""
    info, content = f"{name}-1.0.dist-info", io.BytesIO()
    files = {
        f"{name}.py": text,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/entry_points.txt": f"[console_scripts]\ngo = {name}:main\n",
    }
    with ZipFile(content, "w") as archive:
        for path, body in files.items():
            archive.writestr(path, body)
        archive.writestr(f"{info}/RECORD", "".join(f"{path},,\n" for path in (*files, f"{info}/RECORD")))
    return content.getvalue()


@pytest.fixture
def client(workspace: Workspace) -> WorkspaceClient:
    return WorkspaceClient()


def uploaded(client: WorkspaceClient, main: str) -> str:
    """Put a wheel whose `main` is this text on the Volume, and return its path."""
    path = f"{CODE}/{next(NUMBERS)}/tiny-1.0-py3-none-any.whl"
    indented = "\n".join(f"    {line}" for line in main.strip().splitlines())
    client.files.upload(path, io.BytesIO(wheel(f"import os, sys, time\n\n\ndef main():\n{indented}\n")), overwrite=True)
    return path


def task(key: str, path: str, *parameters: str, after: tuple[str, ...] = (), **given: Any) -> SubmitTask:
    given = {"new_cluster": spec()} | given
    return SubmitTask(
        task_key=key,
        depends_on=[TaskDependency(task_key=name) for name in after] or None,
        libraries=[Library(whl=path)],
        python_wheel_task=PythonWheelTask(package_name="tiny", entry_point="go", parameters=list(parameters)),
        **given,
    )


def test_a_wheel_runs_on_a_cluster_that_is_apart(workspace: Workspace, client: WorkspaceClient) -> None:
    path = uploaded(
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
    found = client.jobs.get_run(run.run_id)
    logs = str(client.jobs.get_run_output(found.tasks[0].run_id).logs)
    assert re.match(rf"\['go', '--run={run.run_id}', '{ROOT}'\] 17\.3 0101-\d+-emulated\n", logs)
    assert f"spark None cwd [] checkout []\n{workspace.user}" in logs
    assert client.files.download("/Volumes/ml_artifacts/dev/testing/left.txt").contents.read() == b"here"
    assert not Path("/Volumes/ml_artifacts").exists()
    [executed] = [done for done in workspace.executed if done.job_run_id == run.run_id]
    assert (executed.task_key, executed.spec["node_type_id"]) == ("only", spec().node_type_id)
    assert workspace.clusters.running == {}
