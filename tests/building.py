"""Helpers that build the wheel from a copy of its sources."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT


def build(project: Path, folder: Path) -> Path:
    """Build the wheel and return its path. Use uv's cache if it has the build requirements, else the network."""
    uv = shutil.which("uv", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    by_uv = [uv or "uv", "build", "--quiet", "--wheel", f"--out-dir={folder}", str(project)]
    by_pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", f"--wheel-dir={folder}", str(project)]
    for command in [[*by_uv, "--offline"], by_uv] if uv else [by_pip]:
        result = subprocess.run(command, capture_output=True, text=True, timeout=100)
        if result.returncode == 0:
            return next(folder.glob("*.whl"))
    if os.environ.get("CI") or not re.search(r"(?i)no module named pip|offline|network|connect|fetch", result.stderr):
        pytest.fail(f"the wheel can't be built: {result.stderr}")
    pytest.skip(f"no network, and nothing in a cache, to build the wheel with: {result.stderr.strip()[-200:]}")


def sources(folder: Path) -> Path:
    """Copy the sources of the wheel, and return the copy's folder."""
    project = folder / "project"
    for name in ("ml_pipelines", "steps", "conf"):
        shutil.copytree(ROOT / name, project / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, project)
    return project
