"""The compute of a step: this machine, a new cluster from a spec, a running cluster, or serverless compute."""

from __future__ import annotations

import json
import re
from typing import Any

from ml_pipelines.config.schema import LOCAL, Config, Step
from ml_pipelines.errors import ConfigError, message_of
from ml_pipelines.system import paths
from ml_pipelines.text import shown

SERVERLESS = {"environment_version": "4"}  # the spec for `serverless`; version 4 has Python 3.12


def cluster_spec(config: Config, step: Step) -> dict[str, Any] | None:
    """Return a new copy of the step's cluster spec, or None if the step runs on this machine.

    The id of a running cluster gives a spec with `existing_cluster_id`, and `serverless` gives `SERVERLESS`.
    If only the wheel is installed, the result is None too: the wheel has no cluster specs, and submits no jobs.

    Raises:
        ConfigError: the file of the cluster spec doesn't exist, or isn't a JSON object.
    """
    value = config.compute[step.compute]
    if value == LOCAL or paths.checkout() is None:
        return None
    if value == "serverless":
        return dict(SERVERLESS)
    if re.fullmatch(r"\d{4}-\d{6}-\w+", value):
        return {"existing_cluster_id": value}
    try:
        return dict(json.loads((paths.root() / value).read_text(encoding="utf-8")))
    except OSError as error:
        raise ConfigError(
            f"compute.{step.compute}: the file {shown(value)} can't be read. Set it to a file in "
            "resources/clusters/, the id of a running cluster, serverless or local."
        ) from error
    except (ValueError, TypeError, RecursionError) as error:
        raise ConfigError(
            f"compute.{step.compute}: {shown(value)} is not a JSON object: {message_of(error)}."
        ) from error
