"""Adding a backend takes one module and one line. These tests add one to a copy, as docs/development.md says."""

import re
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import ROOT, Result, Store, change

pytestmark = pytest.mark.slow

PAGE = (ROOT / "docs" / "development.md").read_text(encoding="utf-8").partition("## Add a backend")[2]
(MODULE,) = re.findall(r"```python\n(.*?)```", PAGE.partition("\n## ")[0], re.DOTALL)
(LINE,) = re.findall(r'^ +("[\w-]+": "\w+:\w+",)$', PAGE, re.MULTILINE)
NAME, FILE = re.findall(r'"([\w-]+)": "(\w+):', LINE)[0]
FIRST_LINE = '    "inline": "inline:InlineBackend",\n'


@pytest.fixture
def extended(small: Path, shell: Callable[..., Result]) -> Callable[..., Result]:
    """Add the page's backend to a copy of the project, and return a function that runs commands in the copy."""
    (small / "ml_pipelines" / "backends" / f"{FILE}.py").write_text(MODULE)
    change(small / "ml_pipelines" / "backends" / "catalog.py", FIRST_LINE, f"{FIRST_LINE}    {LINE}\n")

    def run(*command: str) -> Result:
        return shell(*command, cwd=small, PYTHONPATH=str(small))

    return run


def test_driver_runs_the_pipeline_on_the_new_backend(extended: Callable[..., Result], store: Store) -> None:
    result = extended(sys.executable, "driver.py", f"--backend={NAME}")
    assert result.code == 0, result.text
    assert f" · {NAME} · " in result.out.splitlines()[0]
    assert store.parent().data.tags["backend"] == NAME
    assert len(store.below()) == 5 and set(store.statuses().values()) == {"FINISHED"}


def test_the_error_for_an_unknown_backend_lists_the_new_backend(extended: Callable[..., Result]) -> None:
    result = extended(sys.executable, "driver.py", "--backend=nothing")
    assert (result.code, result.err.count("\n")) == (2, 1)
    assert NAME in result.err


def test_sync_registers_the_new_backend_with_mlflow(extended: Callable[..., Result], small: Path) -> None:
    assert extended("ml-pipelines", "sync", "--check").code == 1
    assert extended("ml-pipelines", "sync").code == 0
    project = tomllib.loads((small / "pyproject.toml").read_text())["project"]
    entry_point = project["entry-points"]["mlflow.project_backend"][NAME]
    assert entry_point.startswith("ml_pipelines.backends.")
    assert extended("ml-pipelines", "sync", "--check").code == 0
