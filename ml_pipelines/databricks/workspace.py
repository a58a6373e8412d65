"""The client of the Databricks workspace (databricks-sdk). Turns its errors into messages that say what to do."""

from __future__ import annotations

import configparser
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from ml_pipelines.errors import ConfigError, PipelineError, StepFailed, message_of
from ml_pipelines.system import events
from ml_pipelines.tracking import opening

if TYPE_CHECKING:
    from databricks.sdk import WorkspaceClient

    from ml_pipelines.config.schema import Config as Settings

RETRY_S = 20  # seconds in which the SDK repeats a request after 429, 503 or a lost connection
SIGN_IN = "`databricks auth login --host <workspace>`, or set DATABRICKS_HOST and DATABRICKS_TOKEN"


class NoAnswer(StepFailed):
    """The workspace does not answer, or is too busy. The same request may succeed later."""


def select(config: Settings) -> None:
    """Make MLflow, jobs and files use one workspace.

    It is the tracking URI's workspace, or the registry URI's workspace if the tracking URI is not on Databricks.

    A variable such as DATABRICKS_HOST overrules the profile of `databricks://<profile>` in some places of the SDK and
    of MLflow, but not in all. So this function refuses a variable that names another workspace.

    Raises:
        ConfigError: a variable or the registry's URI names another workspace.
    """
    source = "MLFLOW_TRACKING_URI" if os.environ.get("MLFLOW_TRACKING_URI") else "mlflow.tracking_uri"
    chosen = {"MLFLOW_TRACKING_URI": opening.store_uri(config), "MLFLOW_REGISTRY_URI": opening.registry_uri(config)}
    os.environ.update(chosen)  # MLflow and client() read these variables
    uri, registry = _uri(), chosen["MLFLOW_REGISTRY_URI"]
    if ":" in (profile := _profile_of(uri)):
        raise ConfigError(f"{source}: {uri} names a secret scope, which only MLflow can read. Name a profile.")
    if not profile and (profile := os.environ.get("DATABRICKS_CONFIG_PROFILE", "")):
        source = "DATABRICKS_CONFIG_PROFILE"
    for variable, (given, declared) in _overruled(profile).items():
        if variable == "DATABRICKS_HOST":
            raise ConfigError(
                f"{source} names the profile {profile} of {declared}, but DATABRICKS_HOST is {given}. MLflow, jobs and "
                f"files must use one workspace: unset DATABRICKS_HOST, or the profile."
            )
        events.report(events.Notice(f"{variable} overrules the profile {profile}, which {source} names."))
    other = _profile_of(registry) if registry.startswith("databricks") else ""
    if other and other != profile and (there := _host_of(other)) != host():
        raise ConfigError(
            f"The registry {registry} is in {there}, but runs and jobs are in {host()}. They must be in one workspace: "
            "set mlflow.registry_uri to databricks-uc."
        )


def _uri() -> str:
    """Return the URI of the workspace: the tracking URI, else the registry URI; "" if neither is on Databricks."""
    uris = (os.environ.get(name, "") for name in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI"))
    return next((uri for uri in uris if uri.startswith("databricks")), "")


def _profile_of(uri: str) -> str:
    return uri.partition("://")[2].strip("/")


def _overruled(profile: str) -> dict[str, tuple[str, str]]:
    """Return variable -> its value and the profile's value, for variables that overrule the sign-in profile."""
    from databricks.sdk.core import Config

    values = _profiles().get(profile, {})
    pairs = {
        str(attribute.env): (os.environ[attribute.env], values[attribute.name])
        for attribute in Config.attributes()
        if attribute.env and os.environ.get(attribute.env) and attribute.name in values
    }
    return {variable: pair for variable, pair in pairs.items() if _address(pair[0]) != _address(pair[1])}


def _profiles() -> dict[str, dict[str, str]]:
    """Return the profiles of ~/.databrickscfg."""
    file = configparser.ConfigParser(interpolation=None, default_section="")
    try:
        file.read(Path(os.environ.get("DATABRICKS_CONFIG_FILE") or "~/.databrickscfg").expanduser())
    except (configparser.Error, UnicodeDecodeError) as error:
        raise ConfigError(f"The sign-in profiles can't be read: {message_of(error)}") from error
    return {name: dict(file[name]) for name in file.sections()}


def _host_of(profile: str) -> str:
    if "host" not in _profiles().get(profile, {}):
        raise ConfigError(f"The registry's sign-in profile {profile} is not in ~/.databrickscfg, or has no host.")
    return _address(_profiles()[profile]["host"])


def _address(text: str) -> str:
    """Return the name of a host as the SDK writes it, with https://. Any other text only loses a slash at its end."""
    text = text.strip().rstrip("/")
    return f"https://{text}" if re.fullmatch(r"[\w-]+(\.[\w-]+)+(:\d+)?", text) else text


def client() -> WorkspaceClient:
    """Return the client of the workspace that `select` has chosen.

    If the URI names no profile, the SDK's own rules find the workspace.

    Raises:
        ConfigError: no workspace or no way to sign in is configured.
    """
    return _client(_profile_of(_uri()))


@cache
def _client(profile: str) -> WorkspaceClient:
    from databricks.sdk import WorkspaceClient
    from databricks.sdk.core import Config

    from ml_pipelines.databricks.bounded_http import BoundedAdapter

    try:
        config = Config(
            profile=profile or None, http_timeout_seconds=30, retry_timeout_seconds=RETRY_S, product="ml-pipelines"
        )
        opened = WorkspaceClient(config=config)
    except (ValueError, configparser.Error) as error:
        message = message_of(error, None).partition(" Config: ")[0].rstrip(".")
        raise ConfigError(f"Can't sign in to Databricks: {message}. Run {SIGN_IN}.") from error
    session = opened.api_client._api_client._session  # private, but the SDK offers no public way to set an adapter
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
    except (AttributeError, KeyError, TypeError, ValueError) as error:  # the SDK expects another type in the answer
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
    if isinstance(error, errors.BadRequest | errors.ResourceConflict | errors.NotImplemented):
        return ConfigError(f"{what}: {message}.")
    return NoAnswer(  # all other errors: too many requests, a fault of the workspace, a lost connection, a time-out
        f"{host()} doesn't answer a request for {what}: {message}. "
        "Check the host's name, the VPN and the network, and try again."
    )
