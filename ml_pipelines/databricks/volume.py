"""The Volume that clusters and this machine share: tables below it, and the code, once for each content."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path, PurePosixPath

from ml_pipelines import paths, wheel
from ml_pipelines.config import Config
from ml_pipelines.databricks import workspace
from ml_pipelines.errors import ConfigError
from ml_pipelines.terminal import say

NEEDS = "READ VOLUME and WRITE VOLUME on it, with USE CATALOG and USE SCHEMA above it,"


def root(config: Config) -> str:
    """Return the Volume of the profile: `<data.delta_prefix.databricks>/<env_name>/<volume_name>`.

    Raises:
        ConfigError: that names no Volume.
    """
    data = config.data
    path = f"{data.delta_prefix.databricks.rstrip('/')}/{paths.slug(config.env_name)}/{paths.slug(data.volume_name)}"
    if not re.fullmatch(r"/Volumes/[\w.-]+/[\w.-]+/[\w.-]+(/[\w.-]+)*", path):
        raise ConfigError(
            f"data.delta_prefix.databricks: {path} is no Volume, which is /Volumes/<catalog>/<schema>/<volume>: "
            "delta_prefix.databricks, env_name and data.volume_name together."
        )
    return path


def check(config: Config) -> None:
    """Raise ConfigError unless the Volume is there, and may be looked into."""
    path = root(config)
    with workspace.asking(f"Volume {path}", NEEDS):
        workspace.client().files.get_directory_metadata(path)


def wheel_path(config: Config) -> str:
    """Return where the wheel of this code stands on the Volume: below a digest of its content.

    Raises:
        ConfigError: this is no checkout, so that there is nothing to build from.
    """
    version = _version()
    digest = re.split(r"[+.]", version)[-1]
    return f"{root(config)}/code/{digest}/ml_pipelines-{version}-py3-none-any.whl"


@cache
def _version() -> str:
    """Return the version as it is at first: a file edited meanwhile, or a commit, is for the next pipeline run."""
    checkout = paths.checkout()
    if checkout is None:
        raise ConfigError(
            "backend databricks-jobs builds the wheel from a checkout, and here only the wheel is installed. "
            "Run driver.py in the project's folder."
        )
    return wheel.version(checkout)


@cache
def upload(path: str) -> None:
    """Build the wheel and put it at `path`, unless it is there already.

    Raises:
        ConfigError: it can't be built, or not be written there.
    """
    name, folder = PurePosixPath(path).name, str(PurePosixPath(path).parent)
    files = workspace.client().files
    if _exists(path):
        return
    with tempfile.TemporaryDirectory() as built:
        content = _build(Path(built))
        if content.name != name:
            raise ConfigError(f"The wheel is {content.name}, not {name}: the code changed meanwhile. Try again.")
        with workspace.asking(f"Volume folder {folder}", NEEDS), content.open("rb") as stream:
            files.create_directory(folder)
            files.upload(path, stream, overwrite=True)
    say(f"  {name} is now in {folder}")


def _exists(path: str) -> bool:
    from databricks.sdk.errors import NotFound

    with workspace.asking(f"Volume file {path}", NEEDS):
        try:
            workspace.client().files.get_metadata(path)
        except NotFound:
            return False
    return True


def _build(folder: Path) -> Path:
    """Build the wheel into `folder`: by uv from its cache, else with the network, and by pip where there is no uv."""
    project = str(paths.root())
    uv = shutil.which("uv", path=str(Path(sys.executable).parent)) or shutil.which("uv")
    by_uv = [uv or "", "build", "--quiet", "--wheel", f"--out-dir={folder}", project]
    by_pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", f"--wheel-dir={folder}", project]
    said = ""
    for command in ([*by_uv, "--offline"], by_uv) if uv else (by_pip,):
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)  # noqa: S603
        if done.returncode == 0:
            return next(folder.glob("*.whl"))
        said = " ".join(done.stderr.split())[-200:]
    raise ConfigError(f"The wheel can't be built ({'uv' if uv else 'pip'}): {said}. `make setup` brings uv.")
