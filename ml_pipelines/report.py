"""report.html of a pipeline run: its runs' tags, metrics and artifacts as one page that needs nothing else.

What a run doesn't have (a part of the pipeline, a failed step) the page leaves out, and says so.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ml_pipelines import charts, graph, lineage, terminal, tracking
from ml_pipelines.errors import ConfigError
from ml_pipelines.tables import Table

if TYPE_CHECKING:
    from mlflow.entities import Run

    from ml_pipelines.config import Config

NAME = "report.html"
SHOWN = 40  # columns: the most moved
SHOWN_IMPORTANCES = 20
TRACEBACK_LINES = 30
Z95 = 1.959964  # of the normal distribution: two-sided, 95 %
COUNTS = ("true_negatives", "false_positives", "false_negatives", "true_positives")
# What a metric is called, and whether more of it is better.
METRICS = {
    "auc": ("AUC", True),
    "average_precision": ("Average precision", True),
    "log_loss": ("Log loss", False),
    "brier": ("Brier score", False),
    "accuracy": ("Accuracy", True),
    "precision": ("Precision", True),
    "recall": ("Recall", True),
    "f1": ("F1", True),
}


@dataclass(frozen=True)
class Link:
    """A run: its id, and its address where the store is a server."""

    run_id: str
    address: str | None


@dataclass(frozen=True)
class Verdict:
    """The answer, and in a sentence why. `kind` is good, warn, bad or none."""

    word: str
    kind: str
    sentence: str


@dataclass(frozen=True)
class StepView:
    """What became of a step. `state` is done, taken, kept, failed, killed, running, skipped or left."""

    key: str
    name: str
    state: str
    why: str = ""
    said: str = ""
    seconds: float | None = None
    start: float = 0.0  # share of the pipeline run's time
    share: float = 0.0  # likewise
    run: Link | None = None
    origin: Link | None = None  # the run that computed it, where that is another
    traceback: str = ""

    @property
    def mark(self) -> str:
        """The mark that the terminal shows."""
        return {"done": "✓", "taken": "=", "kept": "=", "failed": "✗", "killed": "✗", "running": "…"}.get(
            self.state, "-"
        )


@dataclass(frozen=True)
class Metric:
    """A number of the test table, beside the training table's and the champion's."""

    name: str
    value: float
    low: float | None = None
    high: float | None = None
    training: float | None = None
    champion: float | None = None
    more_is_better: bool = True


@dataclass(frozen=True)
class Change:
    """Something that differs from the champion's pipeline run."""

    what: str
    before: str
    now: str


@dataclass(frozen=True)
class Report:
    """Everything on the page."""

    run: Link
    facts: Mapping[str, str]
    verdict: Verdict
    steps: Sequence[StepView]
    needs: Mapping[str, frozenset[str]]
    resume: str
    metrics: Sequence[Metric]
    counts: Mapping[str, float | None]  # the confusion matrix
    threshold: float | None
    champion_run: Link | None
    changes: Sequence[Change]
    qa: Mapping[str, Any]
    curves: Mapping[str, Mapping[str, Sequence[float]]]
    importances: Sequence[Mapping[str, Any]]
    drift: Sequence[Mapping[str, Any]]  # of test against train, the most moved first
    champion_drift: Mapping[str, Mapping[str, Any]]  # of train against the champion's, by column
    hidden: int  # columns that the page leaves out


def again(config: Config, run: str | None) -> Path:
    """Make the report of a pipeline run (its id, its first characters, or the newest) again; return where it lies.

    Raises:
        ConfigError: there is no such run.
    """
    import mlflow.artifacts

    tracking.connect(config)
    experiment = tracking.experiment_id(config.experiment_name)
    found = run or lineage.latest_with(set(), experiment, config.profile)
    run_id = lineage.find_pipeline_run(found, experiment)
    publish(run_id)
    folder = _folder(tracking.get_run(run_id))
    return folder / NAME if folder else Path(mlflow.artifacts.download_artifacts(run_id=run_id, artifact_path=NAME))


def publish(run_id: str) -> None:
    """Make the report of a pipeline run, and log it as an artifact of that run."""
    tracking.client().log_text(run_id, render(gather(tracking.get_run(run_id))), NAME)


def render(report: Report) -> str:
    """Return the page. Every text of data is escaped."""
    from jinja2 import Environment, FileSystemLoader

    loader = FileSystemLoader(Path(__file__).parent)
    environment = Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.globals["charts"] = charts
    environment.filters |= {"number": number, "percent": percent, "probability": probability, "wilson": wilson}
    return environment.get_template(f"{NAME}.j2").render(report=report).strip()


def number(value: object, digits: int = 3) -> str:
    """Return a number as text: whole ones with marks at the thousands, others rounded; what is none as a dash."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return str(value) if value and isinstance(value, str | bool) else "-"
    if float(value).is_integer() and (isinstance(value, int) or abs(value) >= 10):
        return f"{int(value):,}"
    return f"{value:.{digits}f}"


def percent(share: object) -> str:
    """Return a share as text."""
    return f"{share:.1%}".replace(".0%", "%") if isinstance(share, int | float) and math.isfinite(share) else "-"


def probability(value: object) -> str:
    """Return a p-value as text."""
    return "p < 0.001" if isinstance(value, float) and value < 0.001 else f"p = {number(value)}"


def wilson(hits: float, rows: float) -> tuple[float, float]:
    """Return the 95 % interval of a share (Wilson 1927)."""
    share, z = hits / rows, Z95**2 / rows
    middle, half = share + z / 2, math.sqrt(z * share * (1 - share) + z * z / 4)
    return (middle - half) / (1 + z), (middle + half) / (1 + z)


# -- gathering


def gather(parent: Run) -> Report:
    """Return what the store knows of a pipeline run.

    Raises:
        ConfigError: it is the run of something else.
    """
    tags, run_id = parent.data.tags, str(parent.info.run_id)
    if "profile" not in tags:
        raise ConfigError(f"Run {run_id} is no pipeline run: those are named {tracking.PROJECT_RUN}.")
    config = _json(parent, "config.json") or {}
    declared = config.get("steps", {})
    below = {run.data.tags["step"]: run for run in tracking.children(run_id) if "step" in run.data.tags}
    kept = {key: tracking.get_run(earlier) for key, earlier in json.loads(tags.get("kept", "{}")).items()}
    made = {key: _origin(run) for key, run in {**kept, **below}.items()}

    def artifact(key: str, name: str) -> Any:
        return (_json(made[key], name) if key in made else None) or {}

    qa, drift = artifact("model_qa", "qa_report.json"), artifact("model_qa", "drift.json")
    table = artifact("feature_importance", "feature_importance.json")
    moved = sorted(drift.get("train_test") or [], key=lambda row: -row["psi"])
    steps = [_step(key, declared, parent, below.get(key), key in kept) for key in declared]
    needs = _needs(declared)
    champion = _champion(qa) if "train" in needs else {}
    evaluated = made["evaluate"].data.metrics if "evaluate" in made else {}
    return Report(
        run=_link(parent),
        facts=_facts(parent, made, _class_1(config, artifact("prepare_data", "columns.json"))),
        verdict=_verdict(parent, steps, qa),
        steps=steps,
        needs=needs,
        resume=terminal.resume_command(tags["profile"], run_id, parent.data.params.get("set", "none")),
        metrics=_metrics(made, champion, qa.get("auc")),
        counts={name: evaluated.get(f"test_{name}") for name in COUNTS},
        threshold=declared.get("evaluate", {}).get("params", {}).get("threshold"),
        champion_run=_link(champion["train"]) if champion else None,
        changes=_changes(champion, made, {"train", *graph.closure("train", needs)}) if champion else [],
        qa=qa,
        curves=artifact("evaluate", "curves.json"),
        importances=[
            dict(zip(table["columns"], row, strict=True)) for row in table.get("data", [])[:SHOWN_IMPORTANCES]
        ],
        drift=moved[:SHOWN],
        champion_drift={row["column"]: row for row in drift.get("champion") or []},
        hidden=max(0, len(moved) - SHOWN),
    )


def _folder(run: Run) -> Path | None:
    """Return the folder of the run's artifacts, where that is on this machine."""
    from mlflow.utils.file_utils import local_file_uri_to_path
    from mlflow.utils.uri import is_local_uri

    uri = run.info.artifact_uri
    return Path(local_file_uri_to_path(uri)) if is_local_uri(uri) else None


def _text(run: Run, name: str) -> str | None:
    """Return an artifact of the run, None where it has none of this name."""
    if folder := _folder(run):  # a download would ask the store, and copy
        return (folder / name).read_text(encoding="utf-8") if (folder / name).is_file() else None
    if name not in {found.path for found in tracking.client().list_artifacts(run.info.run_id)}:
        return None
    import mlflow.artifacts

    return str(mlflow.artifacts.load_text(f"{run.info.artifact_uri}/{name}"))


def _json(run: Run, name: str) -> Any:
    text = _text(run, name)
    return None if text is None else json.loads(text)


def _origin(run: Run) -> Run:
    """Return the run that computed what this one hands on, while the store has it: artifacts are there only."""
    if "reused_from" not in run.data.tags:
        return run
    try:
        return tracking.get_run(run.data.tags["reused_from"])
    except ConfigError:
        return run


def _link(run: Run, run_id: str | None = None) -> Link:
    """Return the link to a run, or to another of its experiment."""
    found = run_id or str(run.info.run_id)
    return Link(found, tracking.address(str(run.info.experiment_id), found))


def _needs(declared: Mapping[str, Any]) -> dict[str, frozenset[str]]:
    nodes = {
        key: graph.Node(tuple(step.get("inputs", ())), tuple(step.get("outputs", ()))) for key, step in declared.items()
    }
    return {key: frozenset(needed) for key, needed in graph.upstream(nodes).items()}


def _step(key: str, declared: Mapping[str, Any], parent: Run, run: Run | None, kept: bool) -> StepView:
    """Return what became of the step `key`, whose run is `run`."""
    tags, name = parent.data.tags, declared[key]["step_name"]
    if run is None:
        root = json.loads(tags.get("skipped", "{}")).get(key)
        if kept:
            return StepView(key, name, "kept", why=f"taken from pipeline run {tags.get('inputs_from', '')[:8]}")
        if root:
            return StepView(key, name, "skipped", why=f"{declared[root]['step_name']} failed")
        return StepView(key, name, "left", why="not part of this pipeline run")
    own, origin = run.data.tags, run.data.tags.get("reused_from")
    begun, ended = parent.info.start_time, parent.info.end_time or _now()
    end = run.info.end_time or _now()
    state = {"FINISHED": "taken" if origin else "done", "FAILED": "failed", "KILLED": "killed"}
    trace = _text(run, "traceback.txt") if run.info.status == "FAILED" else None
    return StepView(
        key,
        name,
        state.get(run.info.status, "running"),
        why=own.get("reason", "") + (f", attempt {own['attempt']}" if "attempt" in own else ""),
        said=own.get("cause") or own.get("summary", ""),
        seconds=None if origin else (end - run.info.start_time) / 1000,
        start=(run.info.start_time - begun) / max(1, ended - begun),
        share=(end - run.info.start_time) / max(1, ended - begun),
        run=_link(run),
        origin=_link(run, origin) if origin else None,
        traceback="\n".join((trace or "").splitlines()[-TRACEBACK_LINES:]),
    )


def _now() -> int:
    return int(time.time() * 1000)


def _class_1(config: Mapping[str, Any], decided: Mapping[str, Any]) -> str:
    """Return which rows are of class 1: label and value, as the source has them."""
    values = [value for value, number_of in decided.get("label", {}).items() if number_of == 1]
    return f"{config['data']['label']} = {values[0]}" if values and config else ""


def _facts(parent: Run, made: Mapping[str, Run], class_1: str) -> dict[str, str]:
    """Return what was run, when, and by whom: name -> text, without what isn't known."""
    tags, params = parent.data.tags, parent.data.params
    commit = tags.get("mlflow.source.git.commit", "")[:10]
    seconds = ((parent.info.end_time or _now()) - parent.info.start_time) / 1000
    rows = {name: table.rows for name, table in _tables(made.values()).items()}
    train = made["train"].data.params if "train" in made else {}
    found = {
        "Data": ", ".join(f"{number(count)} {name.removesuffix('_uri')} rows" for name, count in rows.items()),
        "Class 1": class_1,
        "Model": train.get("estimator", "").rpartition(".")[2],
        "Started": datetime.fromtimestamp(parent.info.start_time / 1000, UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "Took": f"{seconds:.1f} s" if parent.info.end_time else "",
        "Profile": tags["profile"],
        "Experiment": tracking.client().get_experiment(parent.info.experiment_id).name,
        "Engine and backend": f"{tags.get('engine')}, {tags.get('backend')}",
        "Commit": f"{commit}, with uncommitted changes" if commit and tags.get("git.dirty") == "true" else commit,
        "By": tags.get("mlflow.user", ""),
        "Set": "" if params.get("set", "none") == "none" else params["set"],
    }
    return {name: text for name, text in found.items() if text}


def _tables(runs: Iterable[Run]) -> dict[str, Table]:
    """Return output -> table, of the tables that the runs wrote."""
    found = ((name, lineage.table_of(run, name)) for run in runs for name in lineage.outputs(run))
    return {name: table for name, table in found if table}


def _verdict(parent: Run, steps: Sequence[StepView], qa: Mapping[str, Any]) -> Verdict:
    """Return the pipeline run's answer: its gate's, where it came so far."""
    status, tags = parent.info.status, parent.data.tags
    verdicts = [check["verdict"] for check in qa.get("checks", [])]
    counts = ((verdicts.count(verdict), verdict) for verdict in ("passed", "failed", "skipped"))
    counted = ", ".join(f"{count} {verdict}" for count, verdict in counts if count)
    concluded = f"; {tags['conclusion']}" if "conclusion" in tags else ""
    if status == "FAILED" and tags.get("verdict") == "refused":
        return Verdict("Refused", "bad", f"The gate said no: of its checks {counted}; nothing was registered.")
    if status == "FAILED":
        failed = [f"{step.name}: {step.said}" for step in steps if step.state == "failed"]
        return Verdict("Failed", "bad", "; ".join(failed) or tags.get("cause", ""))
    if status == "KILLED":
        return Verdict("Stopped", "bad", tags.get("cause", ""))
    if status != "FINISHED":
        return Verdict("Running", "none", "The pipeline run has not ended.")
    if not verdicts:
        return Verdict("Finished", "none", "No step of this pipeline run judged the model.")
    if qa["verdict"] == "passed":
        return Verdict("Passed", "good", f"Checks: {counted}{concluded}.")
    return Verdict("Warned", "warn", f"Checks: {counted}, which the gate is told to let through{concluded}.")


def _metrics(made: Mapping[str, Run], champion: Mapping[str, Run], auc: Mapping[str, Any] | None) -> list[Metric]:
    """Return the metrics of the test table; the champion's only where it was judged by the same rows."""
    values, training = (_values(made, key, prefix) for key, prefix in (("evaluate", "test"), ("train", "train")))
    digests = [(_tables(runs.values()).get("test_uri") or Table("", 0)).digest for runs in (made, champion)]
    beside = _values(champion, "evaluate", "test") if digests[0] and digests[0] == digests[1] else {}
    intervals = _intervals(values)
    if auc:
        intervals["auc"] = auc["low"], auc["high"]
    return [
        Metric(label, values[name], *intervals.get(name, (None, None)), training.get(name), beside.get(name), more)
        for name, (label, more) in METRICS.items()
        if name in values
    ]


def _values(runs: Mapping[str, Run], key: str, prefix: str) -> dict[str, float]:
    """Return the metrics of a step's run, without their prefix, with precision and recall from the counts."""
    found = runs[key].data.metrics if key in runs else {}
    values = {name.removeprefix(f"{prefix}_"): float(value) for name, value in found.items()}
    for name, others in (("precision", "false_positives"), ("recall", "false_negatives")):
        if all_found := values.get("true_positives", 0) + values.get(others, 0):
            values[name] = values["true_positives"] / all_found
    return values


def _intervals(values: Mapping[str, float]) -> dict[str, tuple[float | None, float | None]]:
    """Return the 95 % intervals of those metrics that are shares of rows."""
    found: dict[str, tuple[float | None, float | None]] = {}
    for name, rows in {
        "accuracy": values.get("rows", 0),
        "precision": values.get("true_positives", 0) + values.get("false_positives", 0),
        "recall": values.get("true_positives", 0) + values.get("false_negatives", 0),
    }.items():
        if name in values and rows:
            found[name] = wilson(values[name] * rows, rows)
    return found


def _champion(qa: Mapping[str, Any]) -> dict[str, Run]:
    """Return step -> run of the pipeline run that the champion comes from; nothing where the store has it no more."""
    try:
        train = tracking.get_run((qa.get("champion") or {})["run_id"])
        parent = tracking.parent_of(train)
        runs = lineage.producers(parent).values() if parent else []
    except (KeyError, ConfigError):
        return {}
    return {run.data.tags["step"]: run for run in runs} | {"train": train}


def _changes(before: Mapping[str, Run], now: Mapping[str, Run], steps: Iterable[str]) -> list[Change]:
    """Return what differs of what the model depends on: params, tables, settings, code, libraries."""
    both = sorted(key for key in steps if key in before and key in now)
    (old, old_code), (new, new_code) = (_depends(runs, both) for runs in (before, now))
    changes = [
        Change(what, old.get(what, "-"), new.get(what, "-"))
        for what in {**new, **old}
        if old.get(what) != new.get(what)
    ]
    if modules := [name for name in {**new_code, **old_code} if old_code.get(name) != new_code.get(name)]:
        changes.append(Change("code", "", ", ".join(modules)))
    return changes


def _depends(runs: Mapping[str, Run], steps: Sequence[str]) -> tuple[dict[str, str], dict[str, str]]:
    """Return what the steps' results depend on, as text that tells a person something, and their code, as digests."""
    found, code = {}, {}
    for key in steps:
        for part, value in json.loads(runs[key].data.tags.get("fingerprint.parts", "{}")).items():
            kind, _, name = part.partition(" ")
            if kind == "code":
                code[name] = value
            elif kind in ("source", "external"):
                found[part] = f"content {value[:8]}"
            elif kind != "input":  # tables are told below; a run follows from what it depends on
                found[f"{key}.{name}" if kind == "param" else part] = value
    for name, table in _tables(runs[key] for key in steps).items():
        found[name.removesuffix("_uri")] = f"{number(table.rows)} rows, content {(table.digest or '')[:8]}"
    return found, code
