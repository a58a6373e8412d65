"""Continues an earlier pipeline run: runs the steps that remain, with the earlier settings and those of the command."""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ml_pipelines.config import graph, loading
from ml_pipelines.config.overrides import split_overrides
from ml_pipelines.config.schema import LOCAL, NONE, Config
from ml_pipelines.errors import ConfigError
from ml_pipelines.planning import fingerprint
from ml_pipelines.planning.memory import Memory
from ml_pipelines.planning.outputs import are_intact
from ml_pipelines.planning.plan import Plan, graph_of
from ml_pipelines.system import paths
from ml_pipelines.text import HIDDEN, listed, without_secrets
from ml_pipelines.tracking import lineage, opening, records, run_page
from ml_pipelines.tracking.store import PARAM_LENGTH, PROJECT_RUN, Store, flatten, shortened

if TYPE_CHECKING:
    from mlflow.entities import Run

LAST = "last"  # the value of --resume for the latest pipeline run that failed or was stopped
OPENED = ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI")  # the variables that `open_store` sets
MOST = 30  # the most settings that are shown one by one; config.json of both runs has all of them
PLACE = ("experiment_name=", "mlflow.")  # the beginnings of the settings that decide where a run is found
SETTING = re.compile(r"([a-z_]+(?:\.\w+)+): ")  # the beginning of a message about a wrong setting
TAKEN = 300  # the most characters that are shown of the overrides


@dataclass(frozen=True)
class Resumed:
    """The pipeline run to continue, its overrides that the command does not replace, and its settings by dotted key."""

    run_id: str
    overrides: Sequence[str]
    settings: Mapping[str, Any] | None  # None: the artifact with the settings is lost

    def describe(self, config: Config) -> list[str]:
        """Return lines that show the overrides of the pipeline run, and each setting that differs from the run's."""
        own, run = ",".join(self.overrides), f"pipeline run {self.run_id[:8]}"
        taken = [f"Settings of {run}: --set {shortened(own, TAKEN)}"] if own else []
        if self.settings is None:
            return [*taken, f"config.json of {run} is missing or damaged: settings that differ can't be shown."]
        new = settings_of(without_secrets(run_page.config_json(config)))
        changed = [key for key in {**self.settings, **new} if fingerprint.differs(self.settings, new, key)]
        if not changed:
            return taken
        pairs = ((key, *fingerprint.readable(self.settings, new, key, absent="(absent)")) for key in changed[:MOST])
        more = [f"    and {len(changed) - MOST} more"] if len(changed) > MOST else []
        return [
            *taken,
            f"Settings changed since {run}, for the remaining steps:",
            *(f"    {key} {before} -> {after}" for key, before, after in pairs),
            *more,
        ]


def load(
    overrides: Iterable[str],
    may_migrate: bool,
    profile: str | None,
    pipeline: str | None = None,
    run: str | None = None,
) -> tuple[Config, Resumed | None]:
    """Return the configuration, and the pipeline run to continue, if `run` names one.

    A resumed run has the profile and the overrides of the run that it continues; `overrides` come on top. The files in
    conf/ are read again, so a changed file counts, and so does the present value of `${oc.env:NAME}`.

    Args:
        overrides: texts such as `key=value` from the command line.
        may_migrate: whether the store of an older MLflow may be migrated.
        profile: the profile on the command line. None means the run's own profile, or `local` if `run` is None.
        pipeline: the pipeline on the command line, which sets the key `pipeline`. None and NONE set nothing.
        run: the id of a pipeline run or its first characters, LAST for the latest run that failed or was stopped, or
            None.

    Raises:
        ConfigError: the configuration is wrong, the store has no such pipeline run, or the run's overrides are lost or
            contained a secret.
    """
    overrides = [*overrides, *([f"pipeline={pipeline}"] if pipeline not in (None, NONE) else [])]
    config = loading.load(profile or LOCAL, overrides)
    if run is None:
        return config, None
    if run != LAST:
        lineage.check_run_id(run, "--resume: ")
    if (uri := opening.store_uri(config)).startswith("sqlite:") and not opening.has_store(config):
        raise ConfigError(f"--resume: there is no run to continue, because the MLflow store {uri} does not exist.")
    with _same_environment():
        store = opening.open_store(config, may_migrate)
        earlier, content = _find(store, config, run)
    run_id = str(earlier.info.run_id)
    stored, given = _overrides(earlier, content), split_overrides(config.overrides)
    hidden = [text for text in stored if HIDDEN in text]
    if lost := [key for key in (text.partition("=")[0] for text in hidden) if not _sets(given, key)]:
        raise ConfigError(
            f"--resume: the value of {listed(lost)} in pipeline run {run_id} contained a secret, which was not stored. "
            f"Give it again: {' '.join(f'--set {key}=...' for key in lost)}"
        )
    own = [text for text in stored if text not in (*hidden, *given)]
    settings = settings_of(content) if isinstance(content, dict) else None
    return loading.load(profile or earlier.data.tags["profile"], [*own, *given]), Resumed(run_id, own, settings)


def resume_command(profile: str, run_id: str, overrides: str, failures: Iterable[tuple[int, str]]) -> str:
    """Return the command that continues a pipeline run, or "" if continuing can't help.

    The pipeline run keeps its settings, so the command has only those needed to find the run: its experiment and its
    store. If a wrong setting stopped a step, the command has the key of this setting, and `...` for its new value.

    Args:
        profile: the profile of the pipeline run.
        run_id: the id of the pipeline run.
        overrides: its overrides.
        failures: the exit code and the cause of each failed step.
    """
    failures = list(failures)
    if not records.resuming_can_help(code for code, _ in failures):
        return ""
    place = [text for text in split_overrides(overrides) if text.startswith(PLACE)]
    wrong = [match[1] for code, cause in failures if code == ConfigError.exit_code and (match := SETTING.match(cause))]
    changes = [f" --set {shlex.quote(text)}" for text in place] + [f" --set {key}=..." for key in wrong]
    command = "python driver.py" if paths.checkout() else "local-pipeline"
    return f"{command} --profile {profile} --resume {run_id[:8]}{''.join(changes)}"


def _sets(assignments: list[str], key: str) -> bool:
    return any(text.startswith(f"{key}=") for text in assignments)


@contextmanager
def _same_environment() -> Iterator[None]:
    """Restore the variables that name the store, because the pipeline run's settings may name another registry."""
    before = {name: os.environ[name] for name in OPENED if name in os.environ}
    try:
        yield
    finally:
        for name in OPENED:
            os.environ.pop(name, None)
        os.environ.update(before)


def _find(store: Store, config: Config, run: str) -> tuple[Run, Any]:
    """Return the pipeline run, and the content of its artifact config.json (None if it can't be read)."""
    from mlflow.exceptions import MlflowException

    try:
        experiment, name = store.find_experiment(config.experiment_name), config.experiment_name
        if experiment is None and len(run) != lineage.ID_LENGTH:
            raise ConfigError(f"--resume: there is no run to continue: the store has no experiment {name}.")
        if run == LAST:
            run_id = _last_failed(store, config, experiment or "")
        else:
            run_id = lineage.find_pipeline_run(store, run, experiment or "")
        earlier = store.get_run(run_id)
        content = store.load_json(run_id, "config.json")
    except MlflowException as error:
        raise store.failed(error) from error
    if earlier.info.lifecycle_stage != "active":
        raise ConfigError(
            f"--resume: pipeline run {run_id} is deleted. Restore it: mlflow runs restore --run-id {run_id}"
        )
    return earlier, content


def _last_failed(store: Store, config: Config, experiment: str) -> str:
    query = f"tags.profile = '{config.profile}'"
    for run in lineage.pipeline_runs(store, experiment, query):
        if run.info.status in ("FAILED", "KILLED"):
            return str(run.info.run_id)
    raise ConfigError(
        f"--resume: none of the last pipeline runs of profile {config.profile} failed. `ml-pipelines runs` lists them."
    )


def _overrides(earlier: Run, content: Any) -> list[str]:
    """Return the overrides of a pipeline run, from its param `set`.

    Nobody can change a param through MLflow. If the overrides are too long for a param, they are read from config.json,
    and compared with the digest at the end of the param.

    Raises:
        ConfigError: the run is not a pipeline run, or its overrides are lost.
    """
    param, run_id = earlier.data.params.get("set"), earlier.info.run_id
    if param is None or "profile" not in earlier.data.tags:
        raise ConfigError(
            f"--resume: run {run_id} is not a pipeline run. Use the id of a parent run, such as a {PROJECT_RUN}."
        )
    if len(param) < PARAM_LENGTH:
        return split_overrides(param)
    whole = content.get("set") if isinstance(content, dict) else None
    if not isinstance(whole, str) or shortened(whole, PARAM_LENGTH) != param:
        raise ConfigError(
            f"--resume: the overrides of pipeline run {run_id} are lost, because its artifact config.json is missing "
            "or was changed. Start a new run: it reuses finished steps if nothing they depend on has changed."
        )
    return split_overrides(whole)


def settings_of(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a config.json by dotted key, as JSON values."""
    settings = {key: value for key, value in content.items() if key != "set"}
    return flatten(json.loads(json.dumps(settings)))


def _intact(plan: Plan, producers: Mapping[str, Run], store: Store, memory: Memory) -> Mapping[str, Run]:
    """Return the intact outputs of finished steps. Leave out outputs that were computed from lost outputs."""
    if plan.backend.reads_tables_elsewhere:
        return producers
    steps, needs = plan.config.pipeline_steps, graph.upstream(graph_of(plan.config))
    writers = {run.data.tags.get("step", ""): run for run in producers.values()}
    lost = {name for name in steps if name in writers and not are_intact(memory, store, steps[name], writers[name])}
    again = {name for name in steps if lost & {name, *graph.closure(name, needs)}}
    return {output: run for output, run in producers.items() if run.data.tags.get("step") not in again}


def choose_inputs(plan: Plan, store: Store, experiment: str, memory: Memory) -> tuple[Plan, dict[str, Run], str | None]:
    """Return the plan, its inputs from an earlier pipeline run (output -> the run that wrote it), and that run's id.

    If the plan resumes an earlier run, the returned plan lacks the steps that the earlier run finished. A finished step
    whose outputs are lost runs again, and so do the steps that need it.

    Without a run to resume, the earlier run is the newest run that has all `plan.missing`: the inputs that no step of
    the plan writes. If no input is missing, the returned id is None.

    Raises:
        ConfigError: no earlier run has the inputs.
    """
    if plan.resumed:
        source = plan.resumed.run_id
    elif plan.missing:
        source = lineage.latest_with(store, plan.missing, experiment, plan.config.profile)
    else:
        return plan, {}, None
    producers = lineage.producers_of(store, source)
    if plan.resumed:
        plan = plan.without_finished(_intact(plan, producers, store, memory))
    if lost := plan.missing - producers.keys():
        raise ConfigError(f"Pipeline run {source} has no {', '.join(sorted(lost))}. Run the whole pipeline once.")
    needed = plan.missing | {name for step in plan.kept for name in plan.config.steps[step].outputs}
    return plan, {name: run for name, run in producers.items() if name in needed}, source
