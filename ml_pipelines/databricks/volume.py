"""The Volume that clusters and this machine share. It holds tables, and a wheel for each version of the code."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path, PurePosixPath

from ml_pipelines.config.schema import Config
from ml_pipelines.databricks import workspace
from ml_pipelines.errors import ConfigError, message_of
from ml_pipelines.system import events, paths, wheel_version

PRIVILEGES = "READ VOLUME and WRITE VOLUME on it, with USE CATALOG and USE SCHEMA above it"


def volume_path(config: Config) -> str:
    """Return the path of the profile's Volume: `<data.delta_prefix.databricks>/<env_name>/<volume_name>`.

    Raises:
        ConfigError: the three settings do not give the path of a Volume.
    """
    data = config.data
    path = f"{data.delta_prefix.databricks.rstrip('/')}/{paths.slug(config.env_name)}/{paths.slug(data.volume_name)}"
    if not re.fullmatch(r"/Volumes/[\w.-]+/[\w.-]+/[\w.-]+(/[\w.-]+)*", path):
        raise ConfigError(
            f"data.delta_prefix.databricks: {path} is not a Volume. delta_prefix.databricks, env_name and "
            "data.volume_name together must give /Volumes/<catalog>/<schema>/<volume>."
        )
    return path


def check_volume(config: Config) -> None:
    """Check that the Volume exists and that the user may read it.

    Raises:
        ConfigError: the Volume does not exist, or the user lacks a privilege.
    """
    path = volume_path(config)
    with workspace.explaining_errors(f"Volume {path}", PRIVILEGES):
        workspace.client().files.get_directory_metadata(path)


def wheel_path(config: Config) -> str:
    """Return the path of this code's wheel on the Volume, in a folder named after the digest of its content.

    Raises:
        ConfigError: only the wheel is installed, and another wheel can't be built without a checkout.
    """
    version = _version()
    digest = re.split(r"[+.]", version)[-1]
    return f"{volume_path(config)}/code/{digest}/ml_pipelines-{version}-py3-none-any.whl"


@cache
def _version() -> str:
    """Return the wheel's version. The cached version stays the same if a person edits code during a pipeline run."""
    checkout = paths.checkout()
    if checkout is None:
        raise ConfigError(
            "Backend databricks-jobs builds the wheel from the project's files, but this is an installed wheel. "
            "Run driver.py in the project's folder."
        )
    return wheel_version.version(checkout)


@cache
def upload_wheel(path: str) -> None:
    """Build the wheel and upload it to `path`, unless that file exists.

    Raises:
        ConfigError: the wheel can't be built, or `path` can't be written.
    """
    name, folder = PurePosixPath(path).name, str(PurePosixPath(path).parent)
    files = workspace.client().files
    if _exists(path):
        return
    with tempfile.TemporaryDirectory() as build_folder:
        built = _build(Path(build_folder))
        if built.name != name:
            raise ConfigError(f"The wheel is {built.name}, not {name}: the code changed during the build. Try again.")
        with workspace.explaining_errors(f"Volume folder {folder}", PRIVILEGES), built.open("rb") as stream:
            files.create_directory(folder)
            files.upload(path, stream, overwrite=True)
    events.report(events.Notice(f"  uploaded {name} to {folder}"))


def _exists(path: str) -> bool:
    from databricks.sdk.errors import NotFound

    with workspace.explaining_errors(f"Volume file {path}", PRIVILEGES):
        try:
            workspace.client().files.get_metadata(path)
        except NotFound:
            return False
    return True


def _build(folder: Path) -> Path:
    """Build the wheel into `folder`: with uv, first offline and then online; with pip if uv is not installed."""
    project = str(paths.root())
    uv = shutil.which("uv", path=str(Path(sys.executable).parent)) or shutil.which("uv")
    uv_build = [uv or "", "build", "--quiet", "--wheel", f"--out-dir={folder}", project]
    pip_build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", f"--wheel-dir={folder}", project]
    message = ""
    for command in ([*uv_build, "--offline"], uv_build) if uv else (pip_build,):
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)  # noqa: S603
        if done.returncode == 0:
            return next(folder.glob("*.whl"))
        message = message_of(done.stderr, None)[-200:]
    raise ConfigError(f"The wheel can't be built ({'uv' if uv else 'pip'}): {message}. `make setup` installs uv.")
