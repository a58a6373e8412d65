"""MLflow's own backend `databricks`: a project as a tarball on DBFS. What it lacks is added around it, not in it."""

from __future__ import annotations

import shlex
import subprocess
import tempfile
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZipFile

from ml_pipelines import paths
from ml_pipelines.databricks import specs
from ml_pipelines.errors import ConfigError, one_line
from ml_pipelines.plan import DATABRICKS_JOBS


@cache
def archived() -> str:
    """Return a zip of the project, made once a process: MLflow's own tarball takes .venv, data and .git along."""
    return str(archive(Path(tempfile.mkdtemp(prefix="ml-pipelines-"), "project.zip")))


def archive(path: Path) -> Path:
    """Write a zip of the files that git tracks, as they are in the working tree, and return its path.

    Raises:
        ConfigError: this is no git repository.
    """
    try:
        command = ["git", "-C", str(paths.root()), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        listed = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout  # noqa: S603
    except (OSError, subprocess.SubprocessError) as error:
        raise ConfigError(
            f"{paths.root()} is no git repository, so what belongs into {path.name} isn't known."
        ) from error
    with ZipFile(path, "w", ZIP_DEFLATED) as zipped:
        for name in sorted(filter(None, listed.split("\0"))):
            if (file := paths.root() / name).is_file() and file.resolve() != path.resolve():
                zipped.write(file, name)
    return path


def check(computes: Iterable[specs.Compute], overrides: str) -> None:
    """Raise ConfigError for what MLflow's backend takes, and then fails with."""
    for compute in computes:
        if compute.new_cluster is None:
            raise ConfigError(f"{compute.where}: backend databricks starts a new cluster only. Use {DATABRICKS_JOBS}.")
    if overrides != shlex.quote(overrides):
        raise ConfigError(
            "MLflow's backend databricks passes its quotes on, so that a value of --set may hold letters, digits and "
            f"@%+=:,./_- only. Write it in a profile, or use {DATABRICKS_JOBS}: {overrides}"
        )


def explained(error: Exception) -> ConfigError | None:
    """Return what to do about a permission that MLflow lacks: DBFS root's, off in new workspaces, or another."""
    if "PERMISSION_DENIED" not in str(error):
        return None
    if "dbfs" not in str(error).lower():
        said = one_line(error).partition(" Config: ")[0]
        return ConfigError(f"The MLflow store: no permission. CAN EDIT on the experiment is needed ({said}).")
    return ConfigError(
        "DBFS root is disabled in this workspace, and MLflow's backend databricks puts the project there. "
        f"Use --backend {DATABRICKS_JOBS}, which uses the Volume."
    )
