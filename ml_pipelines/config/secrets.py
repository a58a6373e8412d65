"""Values of the configuration that must not leave the process: values of environment variables, and credentials."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from typing import Any

from ml_pipelines.errors import ConfigError, SecretGiven
from ml_pipelines.text import credentials, shown

# A value of an environment variable is not hidden if it begins like a path, or is a number or a switch.
_PLAIN = re.compile(r"(?i)[/.~]|([-+\d.e]{1,9}|true|false|null|none)$")
_VARIABLE = re.compile(r"oc\.env:\s*([^},\s]+)")
# The values of these keys are not hidden, because paths, addresses and commands show them.
_NAMES = ("env_name", "experiment_name", "registry.model", "data.source.table", "data.volume_name", "compute.")


def hidden_values(written: Mapping[str, Any], resolved: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the texts to hide in messages, tags and artifacts.

    The texts are every password or token in an address, and the values that the configuration takes from environment
    variables, except names, paths, numbers and switches.

    Args:
        written: the configuration before interpolation.
        resolved: the configuration after interpolation.
    """
    variables = [
        os.environ.get(name, "")
        for key, text in texts_of(written)
        if not key.startswith(_NAMES)
        for name in _VARIABLE.findall(text)
    ]
    values = {value for value in variables if not _PLAIN.match(value) and "://" not in value}
    return tuple(sorted(values | {secret for _, text in texts_of(resolved) for secret in credentials(text)} - {""}))


def refuse_credentials(values: Mapping[str, Any], given: bool = False) -> None:
    """Refuse an address with a password or a token. `${oc.env:NAME}` in place of the password is allowed.

    Args:
        values: the configuration before interpolation.
        given: whether the values come from the command line.

    Raises:
        SecretGiven: an address has credentials, and `given` is true.
        ConfigError: an address has credentials, and `given` is false; or `data.delta_prefix` has credentials,
            even as `${oc.env:NAME}`.
    """
    for key, text in texts_of(values):
        secrets = credentials(text)
        if key.startswith("data.delta_prefix") and secrets:
            raise ConfigError(
                f"{key}: the paths of tables become tags, so they can't have credentials. "
                "Give the credentials in the variables of the object store, for example AWS_SECRET_ACCESS_KEY."
            )
        if any("${" not in secret for secret in secrets):
            kind = SecretGiven if given else ConfigError
            raise kind(
                f"{shown(key)}: the address has a password or a token, which would be logged. In a profile, write "
                "${oc.env:NAME} instead of the password or token, and set the environment variable NAME."
            )


def texts_of(node: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Yield (dotted key, text) for each text in nested mappings and lists, and for the keys of the mappings."""
    if isinstance(node, str):
        yield key, node
    elif isinstance(node, Mapping):
        for name, value in node.items():
            yield key, str(name)
            yield from texts_of(value, f"{key}.{name}" if key else str(name))
    elif isinstance(node, list | tuple):
        for item in node:
            yield from texts_of(item, key)
