"""The outputs and inputs of steps, recorded on their MLflow runs.

An output is a tag `output.<name>` of the step's run, because tags work on every backend.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, NamedTuple

from ml_pipelines.data.tables import Table
from ml_pipelines.errors import ConfigError
from ml_pipelines.text import listed, quoted
from ml_pipelines.tracking import records
from ml_pipelines.tracking.store import INPUT_TAG_LENGTH, OUTPUT, Store, shortened

if TYPE_CHECKING:
    from mlflow.entities import Run

ARTIFACT = f"{OUTPUT}artifact."  # beginning of a tag; an artifact's name follows. Value: the artifact's digest
PARTS = "fingerprint.json"  # artifact: the parts of a step's fingerprint, which can be too long for a tag
DECLARED = "fingerprint.declared"  # tag: a digest of the parts that are known before the step runs
OBSERVED = "observed"  # tag: the number of files and modules in the artifact observed.json
OBSERVED_PARTS = "observed.json"
POLARS = "polars"  # tag: the version of Polars that computed the digests of a step's tables
ID_LENGTH = 32  # characters of the whole id of a run
LATEST = 5  # a message lists this many of the latest pipeline runs
NEWEST_FIRST = ["attributes.start_time DESC"]
# Tags that the copy of a reused run keeps.
COPIED_TAGS = (
    *("step", "summary", "mlflow.note.content", "fingerprint", DECLARED, OBSERVED, POLARS),
    *("verdict", "failed_checks", "undecided_checks", "conclusion", "external.champion"),
)


class LoggedModel(NamedTuple):
    """A model in the store, and the SHA-256 of its files."""

    uri: str
    digest: str  # of the skops file
    facts_digest: str | None = None  # of model.json; None: an earlier release logged the model


def outputs(run: Run) -> dict[str, str]:
    """Return the outputs of a step's run: name -> value."""
    tags = run.data.tags.items()
    return {
        tag.removeprefix(OUTPUT): value
        for tag, value in tags
        if tag.startswith(OUTPUT) and "." not in tag[len(OUTPUT) :]
    }


def producers_of(store: Store, run_id: str) -> dict[str, Run]:
    """Return a dict: output of a pipeline run -> the finished step run that wrote it.

    Steps that the pipeline run kept from an earlier pipeline run are included.
    """
    run = store.get_run(run_id)
    runs = store.children(run_id)
    if run_ids := records.steps_in(run, records.KEPT).values():
        ids = ", ".join(f"'{step_run}'" for step_run in run_ids)
        runs = [*store.client.search_runs([run.info.experiment_id], f"attributes.run_id IN ({ids})"), *runs]
    return {name: run for run in runs if run.info.status == "FINISHED" for name in outputs(run)}


def outputs_of_pipeline(store: Store, run_id: str) -> dict[str, str]:
    """Return all outputs of a pipeline run: of its finished steps, and of steps kept from an earlier pipeline run."""
    return {name: outputs(run)[name] for name, run in producers_of(store, run_id).items()}


def finished_steps(store: Store, experiment: str, step: str, declared: str | None = None) -> list[Run]:
    """Return the newest finished runs of a step, at most ten.

    If `declared` is given, only runs with this digest of the fingerprint's declared parts are returned.
    """
    query = f"tags.step = '{step}' and attributes.status = 'FINISHED' and tags."
    query += f"`{DECLARED}` = '{declared}'" if declared else "fingerprint != ''"
    return list(store.client.search_runs([experiment], query, max_results=10, order_by=NEWEST_FIRST))


def log_observed(store: Store, run_id: str, parts: Mapping[str, str]) -> dict[str, str]:
    """Log which modules a step imported and which files it opened (name -> digest). Return a tag with their number."""
    if not parts:
        return {}
    store.client.log_dict(run_id, dict(parts), OBSERVED_PARTS)
    return {OBSERVED: str(len(parts))}


def observed_parts(store: Store, run: Run) -> dict[str, str]:
    """Return the modules and files that a step used to compute the results of a run: name -> digest.

    For a reused run, return the modules and files of the run that computed the reused results.
    """
    if OBSERVED not in run.data.tags:
        return {}
    parts = load_own_json(store, run, OBSERVED_PARTS)
    return parts if isinstance(parts, dict) else {"file observed.json is missing": "lost"}


def table_of(run: Run, name: str) -> Table | None:
    """Return the table that a run recorded as its output `name`, or None if that output is not a table.

    Raises:
        OddRecord: the record is not complete, or has no numbers where the pipeline writes numbers.
    """
    tags, tag = run.data.tags, f"{OUTPUT}{name}"
    if f"{tag}.version" not in tags:
        return None
    if f"{tag}.digest" not in tags:
        raise records.odd_record(run, f"{tag}.digest")
    version_number, rows = (records.whole_number(run, f"{tag}.{name}") for name in ("version", "rows"))
    return Table(tags[tag], version_number, rows, tags[f"{tag}.digest"])


def model_of(run: Run, name: str) -> LoggedModel | None:
    """Return the model that is the run's output `name`, or None if the output is not a model."""
    tags, tag = run.data.tags, f"{OUTPUT}{name}"
    if f"{tag}.digest" not in tags or f"{tag}.version" in tags:
        return None
    return LoggedModel(tags[tag], tags[f"{tag}.digest"], tags.get(f"{tag}.facts"))


def model_of_train_run(store: Store, run_id: str) -> LoggedModel:
    """Return the model that a train run logged. A model without a recorded digest has the digest `none`.

    Raises:
        ConfigError: the run logged no model, or does not exist.
    """
    tags, tag = store.get_run(run_id).data.tags, f"{OUTPUT}model_uri"
    if tag not in tags:
        raise ConfigError(f"train_run_id: run {run_id} has no output model_uri. Use the id of a finished train run.")
    return LoggedModel(tags[tag], tags.get(f"{tag}.digest", "none"), tags.get(f"{tag}.facts"))


def copy_run(store: Store, run: Run, parent: str, step_name: str, tags: Mapping[str, str]) -> Run:
    """Copy a finished run under another parent and record where it came from.

    The copy has the outputs, params, metrics and dataset inputs of `run`. Its tag `reused_from` names the run that
    computed these outputs.
    """
    copied = {tag: value for tag, value in run.data.tags.items() if tag.startswith(OUTPUT) or tag in COPIED_TAGS}
    origin = run.data.tags.get("reused_from", run.info.run_id)
    copy = store.create_step_run(run.info.experiment_id, copied["step"], parent)
    all_tags = {**copied, **tags, "reused_from": origin, "mlflow.runName": step_name, "exit_code": "0"}
    store.log(copy, metrics=run.data.metrics, params=run.data.params, tags=all_tags)
    if run.inputs and run.inputs.dataset_inputs:
        store.client.log_inputs(copy, list(run.inputs.dataset_inputs))
    store.client.set_terminated(copy, "FINISHED")
    return store.get_run(copy)


def check_run_id(run_id: str, where: str = "") -> None:
    """Raise ConfigError if a text can't be the id of a run or its first characters. The message begins with `where`."""
    if not re.fullmatch(f"[0-9a-f]{{1,{ID_LENGTH}}}", run_id):
        raise ConfigError(
            f"{where}{quoted(run_id)} is not the id of a run: an id has {ID_LENGTH} characters, 0 to 9 and a to f, and "
            "its first ones are enough. `ml-pipelines runs` lists the pipeline runs."
        )


def find_pipeline_run(store: Store, run_id: str, experiment: str) -> str:
    """Return the full id of a pipeline run of the experiment; `run_id` is the id or its first characters.

    Raises:
        ConfigError: no pipeline run of the experiment, or more than one, has an id that begins with `run_id`.
    """
    check_run_id(run_id)
    if len(run_id) == ID_LENGTH:
        return run_id
    runs = pipeline_runs(store, experiment, most=5000)
    matches = [str(run.info.run_id) for run in runs if run.info.run_id.startswith(run_id)]
    if len(matches) != 1:
        problem = "No pipeline run" if not matches else f"{len(matches)} pipeline runs"
        latest = [run.info.run_id[:8] for run in runs[:LATEST]]
        advice = (
            f"Use more of the id: {listed(matches)}." if matches else f"The latest are: {listed(latest) or 'none'}."
        )
        name = store.experiment_name(experiment)
        raise ConfigError(f"{problem} of experiment {name} begins with {quoted(run_id)}. {advice}")
    return matches[0]


def pipeline_runs(store: Store, experiment: str, query: str = "", most: int = 100) -> list[Run]:
    """Return the pipeline runs of an experiment that match a query of MLflow, the newest first, at most `most`."""
    every = "tags.profile != ''" + (f" and {query}" if query else "")
    return list(store.client.search_runs([experiment], every, max_results=most, order_by=NEWEST_FIRST))


def step_runs(store: Store, experiment: str, since_ms: int) -> list[Run]:
    """Return the runs of steps that started at `since_ms` or later, the earliest first, at most 5,000."""
    query = f"tags.step != '' and attributes.start_time >= {since_ms}"
    return list(store.client.search_runs([experiment], query, max_results=5000, order_by=["attributes.start_time ASC"]))


def choose_pipeline_run(store: Store, run: str | None, names: set[str], experiment_name: str, profile: str) -> str:
    """Return the full id of a pipeline run: `run` is the id or its first characters, or None for the newest.

    The newest pipeline run is that of `latest_with`. A whole id is returned as it is, whatever its experiment.

    Raises:
        ConfigError: the experiment does not exist or is deleted, or has no such pipeline run.
    """
    if run and len(run) == ID_LENGTH:
        return run
    experiment = store.existing_experiment(experiment_name)
    return find_pipeline_run(store, run, experiment) if run else latest_with(store, names, experiment, profile)


def latest_with(store: Store, names: set[str], experiment: str, profile: str) -> str:
    """Return the id of the newest pipeline run of the profile that has all the outputs in `names`.

    Raises:
        ConfigError: none of the profile's last hundred pipeline runs has all these outputs.
    """
    query = f"tags.profile = '{profile}'"
    for run in pipeline_runs(store, experiment, query):
        with suppress(records.OddRecord):  # skip a run with a damaged record: its outputs are unknown
            if names <= outputs_of_pipeline(store, run.info.run_id).keys():
                return str(run.info.run_id)
    missing = f" has {', '.join(sorted(names))}" if names else ""
    raise ConfigError(f"No earlier pipeline run of profile {profile}{missing}. Run the whole pipeline once.")


def table_tags(name: str, table: Table) -> dict[str, str]:
    """Return the tags that record a table as the output `name`."""
    prefix = f"{OUTPUT}{name}"
    return {
        f"{prefix}.version": str(table.version),
        f"{prefix}.rows": str(table.rows),
        f"{prefix}.digest": str(table.digest),
    }


def find_table(store: Store, uri: str, names: Iterable[str], experiment: str) -> Table | None:
    """Return the table at `uri` with the version, rows and digest that a step recorded, or None if no step did.

    Only steps of `experiment` count, and only tables that were recorded as one of the outputs `names`. The digest is
    None if another version of Polars than the installed one computed it.
    """
    writer = find_writer(store, uri, names, experiment)
    table = table_of(*writer) if writer else None
    return table if writer is None or table is None or digests_compare(writer[0]) else replace(table, digest=None)


def find_writer(store: Store, uri: str, names: Iterable[str], experiment: str) -> tuple[Run, str] | None:
    """Return a run of `experiment` that recorded a table at `uri` as one of the outputs `names`, and that output."""
    quoted = uri.replace("'", "")
    for name in (name for name in names if name.endswith("_uri")):
        for run in store.client.search_runs([experiment], f"tags.`{OUTPUT}{name}` = '{quoted}'", max_results=1):
            return run, name
    return None


def digests_compare(run: Run) -> bool:
    """Return whether the installed version of Polars computed the run's digests. Other versions hash differently."""
    installed = version("polars")
    return bool(run.data.tags.get(POLARS, installed) == installed)


def recorded_parts(store: Store, run: Run) -> dict[str, Any] | None:
    """Return the parts of the fingerprint of a step's run, or None if the artifact with the parts is lost."""
    parts = load_own_json(store, run, PARTS)
    return parts if isinstance(parts, dict) else None


def load_own_json(store: Store, run: Run, name: str) -> Any:
    """Return a JSON artifact of the run that computed this run's results, or None if the artifact is lost."""
    return store.load_json(run.data.tags.get("reused_from", run.info.run_id), name)


def log_delta_input(store: Store, run_id: str, table: Table, context: str) -> None:
    """Log a Delta table as an input of the run, under the name of its folder, without loading the table.

    This function writes the source itself, in the format of MLflow's DeltaDatasetSource, because that class drops
    version 0 of a table.
    """
    source = {"path": table.uri, "delta_table_version": table.version}
    name = table.uri.rstrip("/").rsplit("/", 1)[-1]
    tags = {"dataset_path": table.uri, "dataset_version": str(table.version)}
    _log_input(store, run_id, context, name, source, tags, table.digest, json.dumps({"num_rows": table.rows}))


def log_named_input(store: Store, run_id: str, name: str, version: int | None, context: str) -> None:
    """Log a table of a catalog as an input of the run: its name and, for a table of Unity Catalog, also its id.

    MLflow links a table to a model only if the run trained the model, and the input has the table's name and id.
    """
    tags = {"dataset_path": name, "dataset_version": "unknown" if version is None else str(version)}
    source: dict[str, Any] = {"delta_table_name": name}
    source |= {} if version is None else {"delta_table_version": version}
    if name.count(".") == 2 and name.partition(".")[0] not in ("hive_metastore", "spark_catalog", "samples"):
        from mlflow.data.delta_dataset_source import DeltaDatasetSource

        known = DeltaDatasetSource(delta_table_name=name).to_dict()  # asks Unity Catalog for the id
        source |= {"is_databricks_uc_table": True} | {key: known[key] for key in ("delta_table_id",) if known[key]}
    _log_input(store, run_id, context, name, source, tags)


def _log_input(
    store: Store,
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
    all_tags = {"mlflow.data.context": context, **tags}
    input_tags = [InputTag(key, shortened(value, INPUT_TAG_LENGTH)) for key, value in all_tags.items()]
    store.client.log_inputs(run_id, [DatasetInput(dataset, input_tags)])


def input_uris(run: Run) -> Iterator[str]:
    """Yield the paths or URIs of a run's input tables.

    Both the tag `dataset_path` and the source of a dataset have the URI. A long tag is cut, but the source never is.
    """
    for logged in run.inputs.dataset_inputs:
        yield from (tag.value for tag in logged.tags if tag.key == "dataset_path")
        source = records.parse_json(logged.dataset.source)  # None or another type if a step logged this input itself
        if isinstance(source, dict) and isinstance(uri := source.get("path"), str):
            yield uri
