"""Who ran which code: tags for runs and registered models."""

from __future__ import annotations

import getpass
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, version

from ml_pipelines.system import paths, processes


@cache
def provenance_tags() -> Mapping[str, str]:
    """Return the tags of a run: user, process, version, git commit, and whether there are uncommitted changes."""
    tags = {
        "mlflow.source.type": "PROJECT",
        "mlflow.source.name": str(paths.checkout() or "ml-pipelines"),
        **processes.process_tag(),
    }
    with suppress(KeyError, OSError, ImportError):  # in some containers the user has no name
        tags["mlflow.user"] = getpass.getuser()
    try:
        tags["package_version"] = version("ml-pipelines")
    except PackageNotFoundError:  # the project is not installed
        tags["package_version"] = "unknown"
    if paths.checkout() and (commit := _git("rev-parse", "HEAD")):  # a wheel has the commit in its version
        tags["mlflow.source.git.commit"] = commit
        tags["git.dirty"] = str(bool(_git("status", "--porcelain"))).lower()
    return tags


def commit_tags() -> dict[str, str]:
    """Return the tags of a registered model: the git commit, and whether there were uncommitted changes."""
    names = {"mlflow.source.git.commit": "git_commit", "git.dirty": "git_dirty"}
    return {names[tag]: value for tag, value in provenance_tags().items() if tag in names}


def _git(*arguments: str) -> str:
    try:
        done = subprocess.run(  # noqa: S603
            ["git", "-C", str(paths.root()), *arguments],  # noqa: S607
            capture_output=True,
            text=True,
            check=True,
            timeout=20,
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()
