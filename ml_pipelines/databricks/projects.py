"""Adds to MLflow's own backend `databricks`: a small archive of the project, and checks of what the backend accepts."""

from __future__ import annotations

import shlex
import subprocess
import tempfile
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZipFile

from ml_pipelines.databricks import specs
from ml_pipelines.errors import ConfigError, one_line
from ml_pipelines.system import paths


@cache
def project_archive() -> str:
    """Return the path of a zip of the project. Each process writes the zip only once.

    The zip replaces MLflow's own tarball, which would contain .venv, data and .git too.
    """
    return str(archive(Path(tempfile.mkdtemp(prefix="ml-pipelines-"), "project.zip")))


def archive(path: Path) -> Path:
    """Write a zip of the files that git does not ignore, as they are in the working tree, and return its path.

    Raises:
        ConfigError: the project is not in a git repository.
    """
    try:
        command = ["git", "-C", str(paths.root()), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        listing = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout  # noqa: S603
    except (OSError, subprocess.SubprocessError) as error:
        raise ConfigError(
            f"{paths.root()} is not a git repository, so nothing says which files belong in {path.name}. "
            "Run `git init`, or use --backend databricks-jobs."
        ) from error
    with ZipFile(path, "w", ZIP_DEFLATED) as zipped:
        for name in sorted(filter(None, listing.split("\0"))):
            if (file := paths.root() / name).is_file() and file.resolve() != path.resolve():
                zipped.write(file, name)
    return path


def check_mlflow_backend(computes: Iterable[specs.Compute], overrides: str) -> None:
    """Refuse settings that MLflow's backend accepts at first, and that make its run fail later.

    Raises:
        ConfigError: a compute is not a new cluster, or a --set value needs quotes.
    """
    for compute in computes:
        if compute.new_cluster is None:
            raise ConfigError(
                f"{compute.where}: backend databricks needs a new cluster, and this compute is not one. Use backend "
                "databricks-jobs."
            )
    if overrides != shlex.quote(overrides):
        raise ConfigError(
            "--set: MLflow's backend databricks breaks values that a shell would need in quotes. Use letters, digits "
            f"and @%+=:,./_-, write the value in a profile, or use the backend databricks-jobs. The value: {overrides}"
        )


def explain_permission(error: Exception) -> ConfigError | None:
    """Return an error that says which permission is missing, on DBFS root or the experiment; None for other errors.

    New workspaces have DBFS root turned off.
    """
    if "PERMISSION_DENIED" not in str(error):
        return None
    if "dbfs" not in str(error).lower():
        message = one_line(error).partition(" Config: ")[0]
        return ConfigError(f"The MLflow store: no permission. You need CAN EDIT on the experiment ({message}).")
    return ConfigError(
        "DBFS root is disabled in this workspace, and MLflow's backend databricks puts the project on it. "
        "Use --backend databricks-jobs, which uses the Volume."
    )
