"""Tests of what modules import, read from the sources: they keep the steps simple and `driver.py --help` fast.

import-linter checks which packages of the library may import which: see pyproject.toml.
"""

import ast
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import ROOT, Result

STEPS = sorted(path for path in (ROOT / "steps").glob("*.py") if path.stem != "__init__")
LIBRARY = sorted((ROOT / "ml_pipelines").rglob("*.py"))
SOURCES = [ROOT / "driver.py", *LIBRARY, *STEPS]

LIBRARIES = {"polars", "numpy", "scipy", "sklearn", "matplotlib", "pyspark"}
FOR_STEPS = {f"ml_pipelines.{name}" for name in ("authoring", "checks", "errors", "modelling", "problems", "text")}
ONLY_WHERE_USED = {"databricks", "pyspark", "sklearn", "scipy", "matplotlib", "pysail", "pandera"}


def imports(node: ast.AST, at_runtime: bool) -> Iterator[str]:
    """Yield the modules imported below `node`; with at_runtime, only those imported when the module is imported."""
    for child in ast.iter_child_nodes(node):
        if at_runtime and isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if at_runtime and isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING":
            continue
        if isinstance(child, ast.Import):
            yield from (alias.name for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            assert child.level == 0, "imports are absolute"
            module = str(child.module)
            whole = {"steps", "ml_pipelines"}  # `from steps import train` imports steps.train
            yield from (f"{module}.{alias.name}" if module in whole else module for alias in child.names)
        yield from imports(child, at_runtime)


def imported_modules(path: Path, at_runtime: bool = False) -> set[str]:
    return set(imports(ast.parse(path.read_text()), at_runtime))


def within(module: str, allowed: set[str]) -> bool:
    return any(module == name or module.startswith(f"{name}.") for name in allowed)


@pytest.mark.parametrize("path", STEPS, ids=lambda path: path.stem)
def test_a_step_imports_only_data_science_libraries_and_packages_for_steps(path: Path) -> None:
    allowed = LIBRARIES | FOR_STEPS | set(sys.stdlib_module_names)
    allowed |= {"steps.prepare_data"} if path.stem == "score" else set()  # features are made in one way
    assert {module for module in imported_modules(path) if not within(module, allowed)} == set()


@pytest.mark.parametrize("path", LIBRARY, ids=lambda path: path.stem)
def test_the_library_does_not_import_steps_driver_or_tests(path: Path) -> None:
    assert {module for module in imported_modules(path) if within(module, {"steps", "driver", "tests"})} == set()


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: f"{path.parent.name}.{path.stem}")
def test_heavy_libraries_are_imported_only_where_they_are_used(path: Path) -> None:
    assert {module for module in imported_modules(path, at_runtime=True) if within(module, ONLY_WHERE_USED)} == set()


def test_the_driver_does_not_import_steps() -> None:
    assert {module for module in imported_modules(ROOT / "driver.py") if within(module, {"steps"})} == set()


WATCH = """
import importlib, os, pkgutil, sys, threading
import mlflow.projects, omegaconf, click, yaml, ruamel.yaml, polars  # side effects of other libraries do not count
import ml_pipelines, steps

def happened(event, arguments):
    writes = event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax+")
    if (writes and "__pycache__" not in str(arguments[0])) or event in (
        "subprocess.Popen", "os.fork", "os.system", "os.mkdir", "os.putenv", "socket.connect", "socket.bind",
        "sqlite3.connect", "signal.signal",
    ):
        print(event, arguments)

before = set(threading.enumerate())
sys.addaudithook(happened)
for package in (ml_pipelines, steps):
    for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        importlib.import_module(module.name)
        if not module.ispkg:
            print("imported", module.name)
assert set(threading.enumerate()) == before
"""


def test_importing_a_module_has_no_side_effects(shell: Callable[..., Result]) -> None:
    result = shell("python", "-c", WATCH, PYTHONDONTWRITEBYTECODE="1")
    assert result.code == 0, result.err
    modules = [path for path in [*LIBRARY, *STEPS] if path.stem != "__init__"]
    assert [line for line in result.out.splitlines() if not line.startswith("imported ")] == []
    assert result.out.count("imported ") == len(modules)
