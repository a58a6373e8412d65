"""The workspace: one client of databricks-sdk, signed in as the SDK does it, and what its errors mean to a person."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING

from ml_pipelines.errors import ConfigError, PipelineError, StepFailed

if TYPE_CHECKING:
    from databricks.sdk import WorkspaceClient

RETRY_S = 20  # the SDK tries again so long after 429, 503 and lost connections; whoever polls goes on after that
SIGN_IN = "`databricks auth login --host <workspace>`, or set DATABRICKS_HOST and DATABRICKS_TOKEN"


class Away(StepFailed):
    """The workspace doesn't answer, or says that it is busy: the same request may well succeed later."""


@cache
def client() -> WorkspaceClient:
    """Return the client of the workspace that MLFLOW_TRACKING_URI (`databricks://<profile>`) or the SDK's rules name.

    Raises:
        ConfigError: nothing says which workspace, or how to sign in.
    """
    from databricks.sdk import WorkspaceClient
    from databricks.sdk.core import Config

    profile = os.environ.get("MLFLOW_TRACKING_URI", "").partition("databricks://")[2].partition(":")[0]
    try:
        config = Config(
            profile=profile or None, http_timeout_seconds=30, retry_timeout_seconds=RETRY_S, product="ml-pipelines"
        )
        return WorkspaceClient(config=config)
    except ValueError as error:
        said = str(error).partition(" Config: ")[0].rstrip(".")
        raise ConfigError(f"Signing in to Databricks: {said}. Run {SIGN_IN}.") from error


def host() -> str:
    """Return the workspace's address."""
    return str(client().config.host).rstrip("/")


@contextmanager
def asking(what: str, privilege: str) -> Iterator[None]:
    """Turn what the SDK raises inside into one line.

    Args:
        what: the object that is asked for.
        privilege: what a person needs on it.

    Raises:
        ConfigError: signed in wrongly, not permitted, not there, or refused.
        Away: no answer.
    """
    from databricks.sdk.errors.base import DatabricksError

    try:
        yield
    except (DatabricksError, OSError) as error:  # a TimeoutError is an OSError, as are those of requests
        raise explained(error, what, privilege) from error


def explained(error: Exception, what: str, privilege: str) -> PipelineError:
    """Return an error of the SDK as one of ours."""
    from databricks.sdk import errors

    said = " ".join(str(error.__cause__ or error).split()).partition(" Config: ")[0].rstrip(".")[:200]
    if isinstance(error, errors.Unauthenticated):
        config = client().config
        how = f"{config.auth_type} of profile {config.profile}" if config.profile else str(config.auth_type)
        return ConfigError(f"{host()} doesn't accept the sign-in ({how}): expired or wrong. Run {SIGN_IN}.")
    if isinstance(error, errors.PermissionDenied):
        return ConfigError(f"{what}: no permission. {privilege} is needed ({said}).")
    if isinstance(error, errors.NotFound):
        return ConfigError(f"{what}: not in {host()} ({said}). {privilege} is needed on one that is there.")
    if isinstance(error, OSError | errors.TooManyRequests | errors.TemporarilyUnavailable | errors.InternalError):
        return Away(f"{host()} doesn't answer for {what}: {said}. Check the host's name, VPN and network; try again.")
    return ConfigError(f"{what}: {said}.")
