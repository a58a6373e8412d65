"""Corrects or refuses environment variables that would break a run."""

from __future__ import annotations

import os
import sys
import tempfile
import warnings
from collections.abc import MutableMapping
from pathlib import Path

from ml_pipelines.errors import ConfigError
from ml_pipelines.system import shortage, terminal

LOOPBACK = ("127.0.0.1", "localhost", "::1")
PROXIES = ("http_proxy", "https_proxy", "all_proxy", "grpc_proxy")


def prepare() -> None:
    """Correct the environment of this process and its children. Call this before MLflow is imported.

    Raises:
        ConfigError: no temporary folder can be used.
        StepFailed: a limit of the system is too low for a pipeline run.
    """
    shortage.check_limits()
    terminal.silence_mlflow()
    terminal.escape_log_records()
    reach_loopback_directly(os.environ)
    if any(_is_error(option) for option in sys.warnoptions):
        _let_warnings_pass()
    check_temporary_folder()


def reach_loopback_directly(environment: MutableMapping[str, str]) -> None:
    """Add the addresses of this machine to `no_proxy`: Sail and a local MLflow server are never behind a proxy.

    Python's libraries read `no_proxy` first and then `NO_PROXY`. gRPC reads `no_grpc_proxy` first and then `no_proxy`.
    If no proxy variable is set, this changes nothing: with `no_proxy` alone, Python would ignore the proxy settings of
    the operating system.
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
    # `*` means all hosts, but only if it is the whole value. So if the list has `*`, return `*` alone.
    return "*" if "*" in names else ",".join(dict.fromkeys([*names, *LOOPBACK]))


def _let_warnings_pass() -> None:
    """Remove `error` from Python's warning options, because imports of MLflow and SQLAlchemy cause warnings."""
    warnings.filters[:] = [entry for entry in warnings.filters if entry[0] != "error"]  # type: ignore[index]
    # Python passes the options in sys.warnoptions on to a fork server.
    sys.warnoptions[:] = [option for option in sys.warnoptions if not _is_error(option)]
    options = os.environ.get("PYTHONWARNINGS", "").split(",")
    os.environ["PYTHONWARNINGS"] = ",".join(option for option in options if not _is_error(option))


def _is_error(option: str) -> bool:
    action = option.partition(":")[0].strip()
    return bool(action) and "error".startswith(action)  # Python accepts abbreviations of `error`, such as `err`


def check_temporary_folder() -> None:
    """Check that temporary files can be written.

    If TMPDIR is unusable, Python chooses another folder. The Spark engines do not: they would fail later, when they
    write temporary files.

    Raises:
        ConfigError: TMPDIR is not a writable folder, or no temporary folder of the system is writable.
    """
    folder = os.environ.get("TMPDIR")
    if folder and not (Path(folder).is_dir() and os.access(folder, os.W_OK | os.X_OK)):
        raise ConfigError(f"TMPDIR: {folder} is not a folder that can be written. Create it, or unset TMPDIR.")
    try:
        tempfile.gettempdir()
    except FileNotFoundError as error:
        raise ConfigError("No temporary folder can be written. Set TMPDIR to a folder that can be written.") from error
