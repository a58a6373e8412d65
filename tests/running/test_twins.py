"""Equal pipelines at once: one runs a step, the others wait for its result and reuse it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from blocking import begin_with
from conftest import Store

COMMAND = [sys.executable, "driver.py", "--backend=forkserver"]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="leases need Linux"),
]


def start(project: Path, store: Store) -> subprocess.Popen[str]:
    command = [*COMMAND, f"--set=data.delta_prefix.local={store.tables}"]
    return subprocess.Popen(command, cwd=project, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


@pytest.mark.parametrize("killed", [False, True])
def test_a_step_waits_for_an_equal_pipeline_run_and_reuses_its_result(small: Path, store: Store, killed: bool) -> None:
    ready, go = small.parent / "ready", small.parent / "go"
    os.mkfifo(ready)
    os.mkfifo(go)
    marker = small.parent / "first"
    wait = f"open({str(ready)!r}, 'w').close(), open({str(go)!r}).close()"
    begin_with(
        small,
        "prepare_data",
        f"_os.path.exists({str(marker)!r}) or (open({str(marker)!r}, 'w').close(), {wait})",
    )
    with start(small, store) as first:
        ready.open().close()  # returns when the step of the first pipeline run waits
        with start(small, store) as second:
            assert second.stdout
            lines = []
            for line in second.stdout:
                lines.append(line)
                if "waits for" in line:
                    break
            parent = store.runs("tags.step = 'prepare_data'")[0].data.tags["mlflow.parentRunId"]
            assert f"01_prepare_data waits for pipeline run {parent}, which runs the same step" in "".join(lines)
            if killed:
                first.kill()
            else:
                go.open("w").close()
            rest = second.stdout.read()
            assert second.wait() == 0, rest
        first.communicate()
    computed = [run for run in store.runs("tags.step != ''") if "reused_from" not in run.data.tags]
    finished = [run for run in computed if run.info.status == "FINISHED"]
    assert len(finished) == 5, rest
    assert len(store.client.search_model_versions("")) == 1
    if not killed:
        assert first.returncode == 0
        assert rest.count("reused (unchanged)") >= 1, rest


def test_four_equal_pipelines_at_once_train_and_register_one_model(small: Path, store: Store) -> None:
    drivers = [start(small, store) for _ in range(4)]
    outputs = [driver.communicate()[0] for driver in drivers]
    assert [driver.returncode for driver in drivers] == [0] * 4, "\n".join(outputs)
    computed = [run.data.tags["step"] for run in store.runs("tags.step != ''") if "reused_from" not in run.data.tags]
    assert len(computed) == len(set(computed)) == 5
    assert len(store.client.search_model_versions("")) == 1
