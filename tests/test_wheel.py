"""The wheel: what a cluster gets. It must not require Spark, which would replace the cluster's own."""

import os
import re
import shutil
import subprocess
import sys
from configparser import ConfigParser
from email import message_from_string
from email.message import Message
from pathlib import Path
from zipfile import ZipFile

import pytest
from conftest import ROOT

pytestmark = pytest.mark.slow

SPARK = {"pyspark", "delta-spark", "pysail"}


def build(project: Path, folder: Path) -> Path:
    """Build the wheel and return it: from uv's cache where that has what hatchling needs, else by the network."""
    uv = shutil.which("uv", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    by_uv = [uv or "uv", "build", "--quiet", "--wheel", f"--out-dir={folder}", str(project)]
    by_pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", f"--wheel-dir={folder}", str(project)]
    for command in [[*by_uv, "--offline"], by_uv] if uv else [by_pip]:
        done = subprocess.run(command, capture_output=True, text=True, timeout=100)
        if done.returncode == 0:
            return next(folder.glob("*.whl"))
    if os.environ.get("CI") or not re.search(r"(?i)no module named pip|offline|network|connect|fetch", done.stderr):
        pytest.fail(f"the wheel can't be built: {done.stderr}")
    pytest.skip(f"no network, and nothing in a cache, to build the wheel with: {done.stderr.strip()[-200:]}")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> ZipFile:
    folder = tmp_path_factory.mktemp("wheel")
    project = folder / "project"
    for name in ("ml_pipelines", "steps"):
        shutil.copytree(ROOT / name, project / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, project)
    return ZipFile(build(project, folder))


@pytest.fixture(scope="module")
def metadata(wheel: ZipFile) -> Message:
    return message_from_string(text(wheel, "METADATA"))


def text(wheel: ZipFile, name: str) -> str:
    return wheel.read(next(entry for entry in wheel.namelist() if entry.endswith(f".dist-info/{name}"))).decode()


def required(metadata: Message, extra: str | None) -> set[str]:
    """Return the names of what the package requires by itself, or with an extra only."""
    found = set()
    for line in metadata.get_all("Requires-Dist", []):
        requirement, _, marker = line.partition(";")
        if re.findall(r"extra *== *['\"](\w+)['\"]", marker) == ([extra] if extra else []):
            found.add(re.split(r"[\[<>=!~ ]", requirement.strip())[0])
    return found


def test_the_wheel_itself_requires_no_spark(metadata: Message) -> None:
    base = required(metadata, None)
    assert base & SPARK == set()
    assert base >= {"mlflow", "polars", "deltalake", "scikit-learn", "skops", "omegaconf", "click", "databricks-sdk"}


def test_the_extra_local_brings_the_engines(metadata: Message) -> None:
    assert metadata.get_all("Provides-Extra") == ["local"]
    assert required(metadata, "local") >= SPARK


def test_commands_and_backends_are_entry_points(wheel: ZipFile) -> None:
    points = ConfigParser()
    points.read_string(text(wheel, "entry_points.txt"))
    assert points["console_scripts"]["ml-pipelines"] == "ml_pipelines.cli:main"
    assert dict(points["mlflow.project_backend"]) == {
        "inline": "ml_pipelines.backends:InlineBackend",
        "forkserver": "ml_pipelines.backends:ForkServerBackend",
    }


def test_the_wheel_holds_the_library_and_the_steps_and_nothing_else(wheel: ZipFile) -> None:
    held = {name for name in wheel.namelist() if ".dist-info/" not in name}
    sources = {
        str(path.relative_to(ROOT)) for name in ("ml_pipelines", "steps") for path in (ROOT / name).rglob("*.py")
    }
    assert held == sources | {"ml_pipelines/report.html.j2"}
