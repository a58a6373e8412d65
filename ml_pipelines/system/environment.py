"""The environment that a process starts with: variables that would break a run are corrected or refused."""

from __future__ import annotations

import os
import sys
import tempfile
import warnings
from collections.abc import MutableMapping
from pathlib import Path

from ml_pipelines.errors import ConfigError
from ml_pipelines.system import terminal

LOOPBACK = ("127.0.0.1", "localhost", "::1")
PROXIES = ("http_proxy", "https_proxy", "all_proxy", "grpc_proxy")


def prepare() -> None:
    """Correct the environment of this process and its children. Call this before MLflow is imported.

    Raises:
        ConfigError: no temporary folder can be used.
    """
    terminal.silence_mlflow()
    reach_loopback_directly(os.environ)
    if any(_is_error(option) for option in sys.warnoptions):
        _let_warnings_pass()
    check_temporary_folder()


def reach_loopback_directly(environment: MutableMapping[str, str]) -> None:
    """Add the addresses of this machine to `no_proxy`: Sail and a local MLflow server are never behind a proxy.

    Python's libraries read `no_proxy` first and then `NO_PROXY`. gRPC reads `no_grpc_proxy` first and then `no_proxy`.
    Without a proxy nothing changes: a system's own proxy settings count only while these variables are unset.
    """
    if not any(environment.get(name) or environment.get(name.upper()) for name in PROXIES):
        return
    both = [environment.get(name, "") for name in ("no_proxy", "NO_PROXY")]
    for name in ("no_proxy", "NO_PROXY"):
        environment[name] = _with_loopback(",".join(both))
    if environment.get("no_grpc_proxy"):
        environment["no_grpc_proxy"] = _with_loopback(environment["no_grpc_proxy"])


def _with_loopback(hosts: str) -> str:
    names = [name.strip() for name in hosts.split(",") if name.strip()]
    return "*" if "*" in names else ",".join(dict.fromkeys([*names, *LOOPBACK]))  # only a lone * means all hosts


def _let_warnings_pass() -> None:
    """Drop `error` from the warning options: importing MLflow and SQLAlchemy raises warnings of their own."""
    warnings.filters[:] = [entry for entry in warnings.filters if entry[0] != "error"]  # type: ignore[index]
    sys.warnoptions[:] = [option for option in sys.warnoptions if not _is_error(option)]  # the fork server gets them
    options = os.environ.get("PYTHONWARNINGS", "").split(",")
    os.environ["PYTHONWARNINGS"] = ",".join(option for option in options if not _is_error(option))


def _is_error(option: str) -> bool:
    action = option.partition(":")[0].strip()
    return bool(action) and "error".startswith(action)  # Python accepts an abbreviation


def check_temporary_folder() -> None:
    """Check that temporary files can be written.

    Python replaces a TMPDIR that it can't use. The engines do not, and would fail as soon as they spill to disk.

    Raises:
        ConfigError: TMPDIR is not a folder that can be written, or the system has no such folder.
    """
    folder = os.environ.get("TMPDIR")
    if folder and not (Path(folder).is_dir() and os.access(folder, os.W_OK | os.X_OK)):
        raise ConfigError(f"TMPDIR: {folder} is not a folder that can be written. Create it, or unset TMPDIR.")
    try:
        tempfile.gettempdir()
    except FileNotFoundError as error:
        raise ConfigError("No temporary folder can be written. Set TMPDIR to one that can.") from error
