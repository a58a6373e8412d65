"""The fork server: what a child gets, and that nothing of it outlives its driver."""

import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import ROOT, Result

Drive = Callable[..., Result]
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the fork server is for Linux")


def script(tmp_path: Path, body: str) -> Path:
    """Write a program that uses ml_pipelines.forking as a driver does, from a file of its own."""
    path = tmp_path / "caller.py"
    path.write_text(f"import sys\nsys.path.insert(0, {str(ROOT)!r})\n" + textwrap.dedent(body))
    return path


def python(path: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, path], env={**os.environ, **environment}, capture_output=True, text=True, timeout=100
    )


def test_a_child_never_imports_the_callers_main(tmp_path: Path) -> None:
    marker = tmp_path / "imported"
    body = f"""
    import os
    open({str(marker)!r}, "a").write(f"{{__name__}}\\n")
    from ml_pipelines import forking
    if __name__ == "__main__":
        child = forking.Child(os.getpid.__call__ and print, ("hello",), os.environ, print, lambda code: None)
        child.wait()
    """
    done = python(script(tmp_path, body))
    assert "hello" in done.stdout, done.stderr
    assert marker.read_text() == "__main__\n"


def test_a_child_has_exactly_the_environment_it_was_given(tmp_path: Path) -> None:
    body = """
    import json, os
    from ml_pipelines import forking
    if __name__ == "__main__":
        os.environ["MLFLOW_RUN_ID"] = "the callers own"
        os.environ["LATER"] = "1"
        forking.start()
        given = {"PATH": os.environ["PATH"], "GIVEN": "yes"}
        show = "import json, os; print(json.dumps(dict(os.environ)))"
        forking.Child(exec, (show,), given, print, lambda code: None).wait()
    """
    done = python(script(tmp_path, body), EARLIER="1")
    assert done.stdout.strip() == f'{{"PATH": "{os.environ["PATH"]}", "GIVEN": "yes"}}', done.stderr
