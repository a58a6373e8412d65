"""What steps hand on and what they read: as tags, and as inputs, of their MLflow runs.

Outputs travel as tags `output.<name>` of the step's run: the one channel that works in every mode.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from ml_pipelines import tracking
from ml_pipelines.errors import ConfigError
from ml_pipelines.models import Logged
from ml_pipelines.tables import Table

if TYPE_CHECKING:
    from mlflow.entities import Run

OUTPUT = "output."
NEWEST_FIRST = ["attributes.start_time DESC"]
# What a reused step's run says of itself again.
KEPT = (
    *("step", "summary", "mlflow.note.content", "fingerprint", "fingerprint.parts"),
    *("verdict", "failed_checks", "conclusion", "external.champion"),
)


def outputs(run: Run) -> dict[str, str]:
    """Return the outputs that a step's run handed on."""
    tags = run.data.tags.items()
    return {
        tag.removeprefix(OUTPUT): value
        for tag, value in tags
        if tag.startswith(OUTPUT) and "." not in tag[len(OUTPUT) :]
    }


def producers(run_id: str) -> dict[str, Run]:
    """Return output -> the finished step run that handed it on, below this pipeline run or kept from an earlier one."""
    run = tracking.get_run(run_id)
    runs = tracking.children(run_id)
    if kept := kept_steps(run):
        ids = ", ".join(f"'{step_run}'" for step_run in kept)
        runs = [*tracking.client().search_runs([run.info.experiment_id], f"attributes.run_id IN ({ids})"), *runs]
    return {name: run for run in runs if run.info.status == "FINISHED" for name in outputs(run)}


def kept_steps(run: Run) -> list[str]:
    """Return the ids of the step runs that a pipeline run kept from an earlier one."""
    return list(json.loads(run.data.tags.get("kept", "{}")).values())


def outputs_of_pipeline(run_id: str) -> dict[str, str]:
    """Return all outputs that the finished steps of a pipeline run, and those it kept, handed on."""
    return {name: outputs(run)[name] for name, run in producers(run_id).items()}


def finished_steps(experiment: str, step: str, fingerprint: str | None = None) -> list[Run]:
    """Return finished runs of a step that bear a fingerprint (this one, where given), the newest first."""
    wanted = f"tags.step = '{step}' and attributes.status = 'FINISHED' and tags.fingerprint "
    wanted += f"= '{fingerprint}'" if fingerprint else "!= ''"
    return list(tracking.client().search_runs([experiment], wanted, max_results=3, order_by=NEWEST_FIRST))


def table_of(run: Run, name: str) -> Table | None:
    """Return the table that is the run's output `name`, as recorded, or None where that is something else."""
    tags, tag = run.data.tags, f"{OUTPUT}{name}"
    if f"{tag}.version" not in tags:
        return None
    return Table(tags[tag], int(tags[f"{tag}.version"]), int(tags[f"{tag}.rows"]), tags[f"{tag}.digest"])


def model_of(run: Run, name: str) -> Logged | None:
    """Return the model that is the run's output `name`, or None where that is something else."""
    tags, tag = run.data.tags, f"{OUTPUT}{name}"
    return (
        Logged(tags[tag], tags[f"{tag}.digest"]) if f"{tag}.digest" in tags and f"{tag}.version" not in tags else None
    )


def take(run: Run, parent: str, step_name: str, tags: Mapping[str, str]) -> Run:
    """Let a finished run stand below another parent: a run with its outputs and metrics, that says whose they are."""
    kept = {key: value for key, value in run.data.tags.items() if key.startswith(OUTPUT) or key in KEPT}
    origin = run.data.tags.get("reused_from", run.info.run_id)
    taken = tracking.create_step_run(run.info.experiment_id, kept["step"], parent)
    everything = {**kept, **tags, "reused_from": origin, "mlflow.runName": step_name, "exit_code": "0"}
    tracking.set_tags(taken, everything)
    tracking.log_metrics(taken, run.data.metrics)
    tracking.client().set_terminated(taken, "FINISHED")
    return tracking.get_run(taken)


def find_pipeline_run(run_id: str, experiment: str) -> str:
    """Return the full id of a run of the experiment, given whole or by its first characters.

    Raises:
        ConfigError: none, or several, begin so.
    """
    if len(run_id) == 32:
        return run_id
    runs = [run.info.run_id for run in tracking.client().search_runs([experiment], max_results=5000)]
    matches = [found for found in runs if found.startswith(run_id)]
    if len(matches) != 1:
        raise ConfigError(f"{len(matches)} runs of this experiment begin with {run_id!r}. Give the whole id.")
    return str(matches[0])


def latest_with(names: set[str], experiment: str, profile: str) -> str:
    """Return the newest pipeline run of the profile whose steps handed on all of `names`.

    Raises:
        ConfigError: there is none among the last hundred.
    """
    query = f"tags.profile = '{profile}'"
    for run in tracking.client().search_runs([experiment], query, max_results=100, order_by=NEWEST_FIRST):
        if names <= outputs_of_pipeline(run.info.run_id).keys():
            return str(run.info.run_id)
    missing = f" has {', '.join(sorted(names))}" if names else ""
    raise ConfigError(f"No earlier pipeline run of profile {profile}{missing}. Run the whole pipeline once.")


def table_tags(name: str, table: Table) -> dict[str, str]:
    """Return what is recorded of a table that is the output `name`."""
    prefix = f"{OUTPUT}{name}"
    return {
        f"{prefix}.version": str(table.version),
        f"{prefix}.rows": str(table.rows),
        f"{prefix}.digest": str(table.digest),
    }


def find_table(uri: str, names: Iterable[str], experiment: str) -> Table | None:
    """Return the table at `uri` as the step of the experiment recorded it that wrote it as one of `names`."""
    quoted = uri.replace("'", "")
    for tag in (f"{OUTPUT}{name}" for name in names if name.endswith("_uri")):
        for run in tracking.client().search_runs([experiment], f"tags.`{tag}` = '{quoted}'", max_results=1):
            table = table_of(run, tag.removeprefix(OUTPUT))
            return table if table is None or digests_compare(run) else replace(table, digest=None)
    return None


def digests_compare(run: Run) -> bool:
    """Return whether the run recorded digests by this version of Polars: each has its own."""
    installed = version("polars")
    return bool(json.loads(run.data.tags.get("fingerprint.parts", "{}")).get("library polars", installed) == installed)


def log_delta_input(run_id: str, table: Table, context: str) -> None:
    """Log a Delta table as the run's input: its lineage, without loading it. An own table's name is its folder's.

    The source is written here, as MLflow's DeltaDatasetSource reads it: its own writer leaves out version 0.
    """
    source = {"path": table.uri, "delta_table_version": table.version}
    name = table.uri.rstrip("/").rsplit("/", 1)[-1]
    tags = {"dataset_path": table.uri, "dataset_version": str(table.version)}
    _log_input(run_id, context, name, source, tags, table.digest, json.dumps({"num_rows": table.rows}))


def log_named_input(run_id: str, name: str, version: int | None, context: str) -> None:
    """Log a table of a catalog as the run's input, by its name: what MLflow links to where it is Unity Catalog's."""
    tags = {"dataset_path": name, "dataset_version": "unknown" if version is None else str(version)}
    source: dict[str, Any] = {"delta_table_name": name}
    source |= {} if version is None else {"delta_table_version": version}
    if name.count(".") == 2 and name.partition(".")[0] not in ("hive_metastore", "spark_catalog", "samples"):
        source["is_databricks_uc_table"] = True
    _log_input(run_id, context, name, source, tags)


def _log_input(
    run_id: str,
    context: str,
    name: str,
    source: Mapping[str, Any],
    tags: Mapping[str, str],
    digest: str | None = None,
    profile: str | None = None,
) -> None:
    from mlflow.entities import Dataset, DatasetInput, InputTag

    content = json.dumps(source)
    digest = (digest or hashlib.sha256(content.encode()).hexdigest())[:8]
    dataset = Dataset(name=name, digest=digest, source_type="delta_table", source=content, profile=profile)
    given = {"mlflow.data.context": context, **tags}
    tracking.client().log_inputs(run_id, [DatasetInput(dataset, [InputTag(k, v) for k, v in given.items()])])
