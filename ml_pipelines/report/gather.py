"""Gather the contents of a report from the tags, metrics and artifacts of a pipeline run.

If a pipeline run is incomplete (a failed step, a part of the pipeline), the page leaves out what is missing.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from ml_pipelines.config import graph
from ml_pipelines.config.schema import NONE, Pipeline, ProblemKind
from ml_pipelines.data.tables import Table
from ml_pipelines.errors import ConfigError
from ml_pipelines.planning.resuming import resume_command
from ml_pipelines.problems.problem import Problem, problem_of
from ml_pipelines.report.changes import champion_runs, changes, written_tables
from ml_pipelines.report.contents import Metric, Report, StepView, Verdict
from ml_pipelines.report.render import format_number
from ml_pipelines.report.run_reader import RunReader
from ml_pipelines.text import shown
from ml_pipelines.tracking import records
from ml_pipelines.tracking.store import PIPELINE, PROJECT_RUN

if TYPE_CHECKING:
    from mlflow.entities import Run


SHOWN = 40  # number of columns that the page shows: those with the largest drift
SHOWN_IMPORTANCES = 20
SHOWN_WARNINGS = 20
TRACEBACK_LINES = 30
WARNING_LENGTH = 400  # the page shows at most this many characters of a warning
OVERRIDES_SHOWN = 1_000  # the page shows at most this many characters of the overrides


def gather(reader: RunReader, parent: Run) -> Report:
    """Return the contents of the report of a pipeline run.

    Raises:
        ConfigError: the run is not a pipeline run.
    """
    tags, run_id = parent.data.tags, str(parent.info.run_id)
    if "profile" not in tags:
        raise ConfigError(f"Run {run_id} is not a pipeline run. Use the id of a parent run, such as a {PROJECT_RUN}.")
    config = reader.json(parent, "config.json") or {}
    declared, overrides = _declared(parent, config), _overrides(parent, config)
    step_runs = {run.data.tags["step"]: run for run in reader.store.children(run_id) if "step" in run.data.tags}
    kept = records.steps_in(parent, records.KEPT)
    kept_runs = {name: reader.store.get_run(kept_run) for name, kept_run in kept.items()}
    origins = {name: reader.origin(run) for name, run in {**kept_runs, **step_runs}.items()}

    def artifact(step: str, name: str) -> Any:
        return (reader.json(origins[step], name) if step in origins else None) or {}

    qa, drift = artifact("model_qa", "qa_report.json"), artifact("model_qa", "drift.json")
    table = artifact("feature_importance", "feature_importance.json")
    champion_drift = {row["column"]: row for row in drift.get("champion") or []}
    drifted = sorted(drift.get("train_test") or [], key=lambda row: _size(row, champion_drift), reverse=True)
    steps = [_step(reader, name, declared, parent, step_runs.get(name), name in kept_runs) for name in declared]
    failed = [run for run in step_runs.values() if run.info.status == "FAILED"]
    failures = [(records.exit_code(run), run.data.tags.get("cause", "")) for run in failed]
    warned_step = "score" if "score" in declared else "prepare_data"
    warnings = _warnings(artifact(warned_step, "data_warnings.json"))
    scoring = artifact("score", "scoring.json")
    needs = _needs(declared)
    champion = champion_runs(reader.store, qa) if "train" in needs else {}
    evaluated = origins["evaluate"].data.metrics if "evaluate" in origins else {}
    columns = artifact("prepare_data", "columns.json")
    kind = (
        columns.get("problem") or scoring.get("problem") or ProblemKind.binary.value
    )  # earlier releases knew no other kind
    problem = problem_of(kind)
    return Report(
        run=reader.link(parent),
        facts={
            **_scoring_facts(scoring, problem),
            **_facts(reader, parent, origins, _predicted(config, columns), overrides),
        },
        verdict=_verdict(parent, steps, qa),
        steps=steps,
        needs=needs,
        resume=resume_command(tags["profile"], run_id, overrides, failures),
        metrics=_metrics(problem, origins, champion, qa.get("intervals", {})),
        counts={name: evaluated.get(f"test_{name}") for name in problem.COUNTS},
        threshold=_threshold(origins),
        champion_run=reader.link(champion["train"]) if champion else None,
        changes=changes(reader, champion, origins, {"train", *graph.closure("train", needs)}) if champion else [],
        problem=kind,
        qa=qa,
        scoring=scoring,
        curves=artifact("evaluate", "curves.json"),
        importances=[
            dict(zip(table["columns"], row, strict=True)) for row in table.get("data", [])[:SHOWN_IMPORTANCES]
        ],
        drift=drifted[:SHOWN],
        champion_drift=champion_drift,
        champion_columns={name: drift.get(name, []) for name in ("only_before", "only_now")},
        hidden=max(0, len(drifted) - SHOWN),
        warnings=warnings[:SHOWN_WARNINGS],
        more_warnings=max(0, len(warnings) - SHOWN_WARNINGS),
        warned_step=warned_step,
    )


def _size(row: Mapping[str, Any], champion_drift: Mapping[str, Mapping[str, Any]]) -> tuple[bool, bool, float]:
    """Return by what the drift of columns is sorted: what moved since the champion, what moved, and the larger PSI."""
    since = champion_drift.get(row["column"], {})
    return bool(since.get("moved")), bool(row.get("moved")), max(drift.get("psi") or 0.0 for drift in (row, since))


def _threshold(origins: Mapping[str, Run]) -> float | None:
    """Return the model's threshold: a param of the train run."""
    threshold = origins["train"].data.params.get("threshold") if "train" in origins else None
    return None if threshold is None else float(threshold)


def _declared(parent: Run, config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the steps of the run's pipeline, as its config.json declares them."""
    train = Pipeline.train.value
    pipeline = parent.data.tags.get(PIPELINE, train)
    return {name: step for name, step in config.get("steps", {}).items() if step.get("pipeline", train) == pipeline}


def _overrides(parent: Run, config: Mapping[str, Any]) -> str:
    """Return the --set overrides of a pipeline run, from config.json if it has them, else from the param `set`.

    config.json has all overrides, but MLflow's param is cut after 6,000 characters.
    """
    overrides = config.get("set")
    return overrides if isinstance(overrides, str) else str(parent.data.params.get("set", NONE))


def _warnings(table: Mapping[str, Any]) -> list[str]:
    """Return the messages of the artifact data_warnings.json."""
    rows = (dict(zip(table["columns"], row, strict=True)) for row in table.get("data", []))
    return [shown(row["message"], WARNING_LENGTH) for row in rows]


def _needs(declared: Mapping[str, Any]) -> dict[str, frozenset[str]]:
    nodes = {
        name: graph.Node(tuple(step.get("inputs", ())), tuple(step.get("outputs", ())))
        for name, step in declared.items()
    }
    return {name: frozenset(needed) for name, needed in graph.upstream(nodes).items()}


def _step(
    reader: RunReader, name: str, declared: Mapping[str, Any], parent: Run, run: Run | None, is_kept: bool
) -> StepView:
    """Return what happened to a step; `run` is its run in this pipeline run, if it has one."""
    tags, step_name = parent.data.tags, declared[name]["step_name"]
    if run is None:
        root = records.steps_in(parent, records.SKIPPED).get(name)
        if is_kept:
            return StepView(name, step_name, "kept", why=f"reused from pipeline run {tags.get('inputs_from', '')[:8]}")
        if root:
            why = f"{declared[root]['step_name']} failed" if root in declared else root
            return StepView(name, step_name, "skipped", why=why)
        return StepView(name, step_name, "left", why="not part of this pipeline run")
    step_tags, origin = run.data.tags, run.data.tags.get("reused_from")
    parent_start, parent_end = parent.info.start_time, parent.info.end_time or _now()
    end = run.info.end_time or _now()
    state = {"FINISHED": "reused" if origin else "done", "FAILED": "failed", "KILLED": "killed"}
    trace = reader.text(run, "traceback.txt") if run.info.status == "FAILED" else None
    return StepView(
        name,
        step_name,
        state.get(run.info.status, "running"),
        why=step_tags.get("reason", "") + (f", attempt {step_tags['attempt']}" if "attempt" in step_tags else ""),
        message=step_tags.get("cause") or step_tags.get("summary", ""),
        seconds=None if origin else (end - run.info.start_time) / 1000,
        start=(run.info.start_time - parent_start) / max(1, parent_end - parent_start),
        share=(end - run.info.start_time) / max(1, parent_end - parent_start),
        run=reader.link(run),
        origin=reader.link(run, origin) if origin else None,
        traceback="\n".join((trace or "").splitlines()[-TRACEBACK_LINES:]),
    )


def _now() -> int:
    return int(time.time() * 1000)


def _predicted(config: Mapping[str, Any], columns: Mapping[str, Any]) -> dict[str, str]:
    """Return what the model predicts, as a fact: the value in the source that means class 1, or the label."""
    for entry, name in (("class_1", "Class 1"), ("target", "Predicted number")):
        if entry in columns:
            return {name: str(columns[entry])}
    values = [value for value, number_of in columns.get("label", {}).items() if number_of == 1]
    return {"Class 1": f"{config['data']['label']} = {values[0]}"} if values and config else {}


def _scoring_facts(scoring: Mapping[str, Any], problem: Problem) -> dict[str, str]:
    """Return name -> text: which model scored which batch, and how fast. It is empty if no batch was scored."""
    if not scoring:
        return {}
    facts = {"Model": model_text(scoring["model"])}
    if problem.HAS_CLASSES:
        facts["Threshold"] = f"{scoring['model']['threshold']:g}"
    if scoring["shadow"]:
        facts["Shadow model"] = model_text(scoring["shadow"]["model"])
    speed = f"{scoring['rows'] / scoring['seconds']:,.0f} rows per second"
    return {**facts, "Speed, with writing": speed, "Batch": shown(scoring["batch_id"])}


def model_text(model: Mapping[str, Any]) -> str:
    """Return which model scored, and how old it was: `loans, version 3, of 2026-11-18 09:12 UTC (12 days old)`."""
    which = f"version {model['version']}" if model["version"] else f"train run {model['run_id'][:8]}"
    days = f"{model['days']} day{'s' if model['days'] != 1 else ''}"
    return f"{model['name']}, {which}, of {model['created']} ({days} old)"


def _facts(
    reader: RunReader, parent: Run, origins: Mapping[str, Run], predicted: Mapping[str, str], overrides: str
) -> dict[str, str]:
    """Return name -> text: what ran, when, and who ran it. Unknown facts are left out."""
    tags = parent.data.tags
    commit = tags.get("mlflow.source.git.commit", "")[:10]
    seconds = ((parent.info.end_time or _now()) - parent.info.start_time) / 1000
    rows = {name: table.rows for name, table in written_tables(origins.values()).items()}
    train = origins["train"].data.params if "train" in origins else {}
    facts = {
        "Data": ", ".join(f"{format_number(count)} {name.removesuffix('_uri')} rows" for name, count in rows.items()),
        **predicted,
        "Model": train.get("estimator", "").rpartition(".")[2],
        "Started": datetime.fromtimestamp(parent.info.start_time / 1000, UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "Duration": f"{seconds:.1f} s" if parent.info.end_time else "",
        "Profile": tags["profile"],
        "Experiment": reader.store.experiment_name(parent.info.experiment_id),
        "Engine and backend": f"{tags.get('engine')}, {tags.get('backend')}",
        "Commit": f"{commit}, with uncommitted changes" if commit and tags.get("git.dirty") == "true" else commit,
        "User": tags.get("mlflow.user", ""),
        "Overrides (--set)": shown("" if overrides == NONE else overrides, OVERRIDES_SHOWN),
    }
    return {name: text for name, text in facts.items() if text}


def _verdict(parent: Run, steps: Sequence[StepView], qa: Mapping[str, Any]) -> Verdict:
    """Return the verdict of the quality gate, or the status of the pipeline run if the gate gave no verdict."""
    status, tags = parent.info.status, parent.data.tags
    verdicts = [check["verdict"] for check in qa.get("checks", [])]
    words = ("passed", "failed", "undecided", "warned", "not compared")
    counts = ((verdicts.count(verdict), verdict) for verdict in words)
    counted = ", ".join(f"{count} {verdict}" for count, verdict in counts if count)
    conclusion = f"; {tags['conclusion']}" if "conclusion" in tags else ""
    if status == "FAILED" and tags.get("verdict") == "refused":
        return Verdict("Refused", "bad", f"The quality gate refused the model: {counted}. Nothing was registered.")
    if status == "FAILED":
        failed = [f"{step.step_name}: {step.message}" for step in steps if step.state == "failed"]
        return Verdict("Failed", "bad", "; ".join(failed) or tags.get("cause", ""))
    if status == "KILLED":
        return Verdict("Stopped", "bad", tags.get("cause", ""))
    if status != "FINISHED":
        return Verdict("Running", "none", "The pipeline run has not ended.")
    if not verdicts:
        done = [f"{step.step_name}: {step.message}." for step in steps if step.state in ("done", "reused")]
        is_scoring = tags.get(PIPELINE) == Pipeline.score.value
        sentence = " ".join(done) if is_scoring else "No step of this pipeline run checked the model."
        return Verdict("Finished", "none", sentence)
    if qa["verdict"] == "passed":
        return Verdict("Passed", "good", f"Checks: {counted}{conclusion}.")
    if qa["verdict"] == "undecided":
        why = "The model is not champion, because the test table has too little evidence"
        return Verdict("Undecided", "warn", f"Checks: {counted}. {why}{conclusion}.")
    return Verdict("Warned", "warn", f"Checks: {counted}. The gate only warns (on_failure: warn){conclusion}.")


def _metrics(
    problem: Problem,
    origins: Mapping[str, Run],
    champion: Mapping[str, Run],
    intervals: Mapping[str, Mapping[str, float | None]],
) -> list[Metric]:
    """Return the metrics on the test table, with the champion's values if the champion was tested on the same rows."""
    values, training = (
        _values(problem, origins, step, prefix) for step, prefix in (("evaluate", "test"), ("train", "train"))
    )
    digests = [(written_tables(runs.values()).get("test_uri") or Table("", 0)).digest for runs in (origins, champion)]
    champion_values = _values(problem, champion, "evaluate", "test") if digests[0] and digests[0] == digests[1] else {}
    metrics = []
    for name, (label, higher_is_better) in problem.METRICS.items():
        if name in values:
            low, high = (intervals.get(name, {}).get(end) for end in ("low", "high"))
            others = training.get(name), champion_values.get(name)
            metrics.append(Metric(label, values[name], low, high, *others, higher_is_better))
    return metrics


def _values(problem: Problem, runs: Mapping[str, Run], step: str, prefix: str) -> dict[str, float]:
    """Return the step's metrics `<prefix>_<metric>` as a dict, metric -> value. It is empty if the step has no run."""
    metrics = runs[step].data.metrics if step in runs else {}
    values = {name.removeprefix(f"{prefix}_"): float(value) for name, value in metrics.items()}
    return problem.add_derived(values)
