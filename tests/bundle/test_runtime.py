"""What an install on a cluster replaces: as little as possible of the runtime's own libraries."""

import json
import re
import subprocess
import sysconfig
import tomllib
from importlib.metadata import requires, version
from pathlib import Path

import pytest
from conftest import ROOT
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from ml_pipelines.bundle import sync

SHIPPED = dict(line.split("==") for line in (ROOT / sync.RUNTIME).read_text().splitlines() if "==" in line)
# docs/databricks.md names them. The last two follow from typeguard and prettytable, which the runtime doesn't have.
REPLACED = {"click", "mlflow-skinny", "scikit-learn", "typing-extensions", "wcwidth"}
ON_RUNTIME = {"python_version": "3.12", "python_full_version": "3.12.3", "sys_platform": "linux", "extra": ""}
DEPENDENCIES = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
PINNED = (ROOT / "resources" / "requirements.txt").read_text().splitlines()
PINS = {canonicalize_name(Requirement(line).name): Requirement(line) for line in PINNED if line[:1] not in ("#", "")}


def test_the_list_is_that_of_the_runtime_of_all_clusters() -> None:
    specs = [json.loads(path.read_text()) for path in ROOT.glob("resources/clusters/*/*.json")]
    assert {spec["spark_version"] for spec in specs} == {Path(sync.RUNTIME).stem}


def test_only_what_must_change_is_pinned() -> None:
    """The runtime's own pandas, pyarrow, matplotlib and databricks-sdk, and so its protobuf, stay."""
    assert PINS.keys() & SHIPPED.keys() == {"click", "scikit-learn"}
    assert PINS.keys() >= {"mlflow", "polars", "deltalake", "skops"}


def test_no_locked_library_of_a_cluster_refuses_what_the_runtime_ships() -> None:
    """Follow the requirements of everything that a cluster must install, offline, by the installed metadata.

    A library that the runtime ships and that fits stays; its own requirements are met there already.
    """
    todo, seen, refused = [*PINS.values(), *map(Requirement, DEPENDENCIES)], set(), set()
    while todo:
        one = todo.pop()
        name = canonicalize_name(one.name)
        if one.marker and not one.marker.evaluate(ON_RUNTIME):
            continue
        if name in SHIPPED and name not in REPLACED:
            refused |= set() if SHIPPED[name] in one.specifier else {f"{one} (the runtime has {SHIPPED[name]})"}
        elif name not in seen:
            seen.add(name)
            todo += map(Requirement, requires(name) or [])
    assert not refused
    assert seen >= {"mlflow-skinny", "mlflow-tracing", "polars-runtime-32"}


@pytest.mark.slow
def test_the_index_resolves_the_pins_against_the_runtime(tmp_path: Path) -> None:
    """uv asks the package index for the requirements of the very versions that the runtime has."""
    constraints, requirements = tmp_path / "runtime.txt", tmp_path / "requirements.txt"
    constraints.write_text("\n".join(f"{name}=={shipped}" for name, shipped in SHIPPED.items() if name not in REPLACED))
    requirements.write_text("\n".join([*PINNED, *DEPENDENCIES]))
    uv = [Path(sysconfig.get_path("scripts"), "uv"), "pip", "compile", "--quiet", "--no-header", "--no-annotate"]
    target = ["--python-version=3.12", "--python-platform=x86_64-manylinux_2_28", f"--constraint={constraints}"]
    command = [*map(str, uv), *target, str(requirements)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    if re.search(r"(?i)failed to fetch|error sending request|dns error|connection refused|timed out", done.stderr):
        pytest.skip(f"the package index can't be reached: {done.stderr.strip()[:200]}")
    assert done.returncode == 0, done.stderr
    resolved = dict(line.split("==") for line in done.stdout.splitlines())
    moved = {name: resolved[name] for name in resolved.keys() & SHIPPED.keys() if resolved[name] != SHIPPED[name]}
    assert moved.keys() == REPLACED
    assert {name: resolved[name] for name in ("protobuf", "numpy", "pandas", "pyarrow")} == {
        name: SHIPPED[name] for name in ("protobuf", "numpy", "pandas", "pyarrow")
    }
    assert {name: moved[name] for name in ("scikit-learn", "mlflow-skinny")} == {
        name: version(name) for name in ("scikit-learn", "mlflow-skinny")
    }  # a model is fitted on a laptop and on a cluster by the same version
