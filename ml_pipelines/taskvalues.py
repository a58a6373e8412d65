"""What a step hands on, shown as task values of the job that it is a task of.

In memory it is the mapping that `run` returns, in MLflow the tags `output.<name>`: these are what the next step takes.
Databricks documents task values for notebooks only, so this is a mirror, and nothing depends on it.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping

from ml_pipelines.context import Output


def mirror(outputs: Mapping[str, Output]) -> None:
    """Set each output as a task value where this is a cluster of Databricks; elsewhere do nothing."""
    if "DATABRICKS_RUNTIME_VERSION" not in os.environ:
        return
    try:
        from databricks.sdk.runtime import dbutils

        for name, value in outputs.items():
            dbutils.jobs.taskValues.set(key=name, value=value)
    except Exception as error:  # whatever the runtime says of it: a task of a wheel may have none
        logging.getLogger(__name__).debug("no task values: %s", error)
