"""Show the outputs of a step as task values of its Databricks job.

Databricks documents task values for notebooks only. So task values are a copy for people, and no code depends on them:
the next step reads the tags `output.<name>` in MLflow.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping

from ml_pipelines.authoring.context import Output
from ml_pipelines.system import processes


def set_task_values(outputs: Mapping[str, Output]) -> None:
    """Set each output as a task value if this is a Databricks cluster."""
    if not processes.on_databricks():
        return
    try:
        from databricks.sdk.runtime import dbutils

        for name, value in outputs.items():
            dbutils.jobs.taskValues.set(key=name, value=value)
    except Exception as error:  # the runtime can raise any error, for example if a wheel task has no task values
        logging.getLogger(__name__).debug("no task values: %s", error)
