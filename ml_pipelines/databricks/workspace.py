"""The client of the Databricks workspace (databricks-sdk). Turns its errors into messages that say what to do."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING

from ml_pipelines.errors import ConfigError, PipelineError, StepFailed, message_of

if TYPE_CHECKING:
    from databricks.sdk import WorkspaceClient

RETRY_S = 20  # seconds in which the SDK repeats a request after 429, 503 or a lost connection
SIGN_IN = "`databricks auth login --host <workspace>`, or set DATABRICKS_HOST and DATABRICKS_TOKEN"


class NoAnswer(StepFailed):
    """The workspace does not answer, or is too busy. The same request may succeed later."""


@cache
def client() -> WorkspaceClient:
    """Return the client of the workspace that MLFLOW_TRACKING_URI (`databricks://<profile>`) names.

    If the variable names no profile, the SDK's own rules find the workspace.

    Raises:
        ConfigError: no workspace or no way to sign in is configured.
    """
    from databricks.sdk import WorkspaceClient
    from databricks.sdk.core import Config

    from ml_pipelines.databricks.bounded_http import BoundedAdapter

    profile = os.environ.get("MLFLOW_TRACKING_URI", "").partition("databricks://")[2].partition(":")[0]
    try:
        config = Config(
            profile=profile or None, http_timeout_seconds=30, retry_timeout_seconds=RETRY_S, product="ml-pipelines"
        )
        opened = WorkspaceClient(config=config)
    except ValueError as error:
        message = str(error).partition(" Config: ")[0].rstrip(".")
        raise ConfigError(f"Can't sign in to Databricks: {message}. Run {SIGN_IN}.") from error
    session = opened.api_client._api_client._session  # the SDK has no public place for an adapter
    for scheme in ("https://", "http://"):
        session.mount(scheme, BoundedAdapter())
    return opened


def host() -> str:
    """Return the workspace's address."""
    return str(client().config.host).rstrip("/")


@contextmanager
def explaining_errors(what: str, privilege: str) -> Iterator[None]:
    """Turn errors of the SDK, raised inside the block, into errors with one line of explanation.

    Args:
        what: the object that the block requests.
        privilege: the privilege that a person needs on this object.

    Raises:
        ConfigError: the sign-in is wrong, a privilege is missing, the object does not exist, or the request is refused.
        NoAnswer: the workspace does not answer, or not as its API promises.
    """
    from databricks.sdk.errors.base import DatabricksError

    try:
        yield
    except (DatabricksError, OSError) as error:  # TimeoutError and the errors of requests are OSErrors
        raise explain_error(error, what, privilege) from error
    except (AttributeError, KeyError, TypeError, ValueError) as error:  # the SDK finds another type than it expects
        message = message_of(f"{type(error).__name__}: {error}", 100)
        raise NoAnswer(f"{host()} answers a request for {what} with something unreadable ({message}).") from error


def explain_error(error: Exception, what: str, privilege: str) -> PipelineError:
    """Return a PipelineError that explains an error of the SDK to a person."""
    from databricks.sdk import errors

    from ml_pipelines.databricks.bounded_http import OddAnswer

    message = message_of(error.__cause__ or error, None).partition(" Config: ")[0].rstrip(".")[:200]
    if isinstance(error, errors.Unauthenticated):
        config = client().config
        how = f"{config.auth_type} of profile {config.profile}" if config.profile else str(config.auth_type)
        return ConfigError(f"{host()} doesn't accept the sign-in ({how}): expired or wrong. Run {SIGN_IN}.")
    if isinstance(error, errors.PermissionDenied):
        return ConfigError(f"{what}: no permission. You need {privilege} ({message}).")
    if isinstance(error, errors.NotFound):
        return ConfigError(
            f"{what}: not found in {host()} ({message}). Create it, or name an existing one. You need {privilege}."
        )
    if isinstance(error, OddAnswer):
        return NoAnswer(f"{host()}: a request for {what} failed, because {message_of(error)}")
    if isinstance(error, OSError | errors.TooManyRequests | errors.TemporarilyUnavailable | errors.InternalError):
        return NoAnswer(
            f"{host()} doesn't answer a request for {what}: {message}. "
            "Check the host's name, the VPN and the network, and try again."
        )
    return ConfigError(f"{what}: {message}.")
