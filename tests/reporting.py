"""Pipeline runs written directly into the store, without running any step: for tests of the report."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

import mlflow
import numpy as np
import polars as pl
from mlflow.entities import Metric, RunTag

from ml_pipelines.authoring.context import NewRows, ScoringModel, Version
from ml_pipelines.backends.inline import InlineBackend
from ml_pipelines.checks import batch_facts
from ml_pipelines.config.loading import load
from ml_pipelines.data.features import Recipe
from ml_pipelines.modelling.score_bins import ScoreBins
from ml_pipelines.modelling.scored_rows import Tally
from ml_pipelines.problems import binary
from ml_pipelines.report import gather
from ml_pipelines.report.contents import Report
from ml_pipelines.report.run_reader import RunReader
from ml_pipelines.tracking import run_page
from ml_pipelines.tracking.store import PARENT, PIPELINE, Store

STEPS = ("prepare_data", "train", "evaluate", "feature_importance", "model_qa")
COLUMNS = ("income", "amount", "age_years", "purpose")


def judged(rows: int = 2000) -> tuple[pl.Series, np.ndarray]:
    """Return labels and scores of a useful, well-calibrated model."""
    draw = np.random.default_rng(3)
    chance = draw.beta(0.7, 0.7, rows)
    return pl.Series((draw.random(rows) < chance).astype(int)), np.clip(chance + draw.normal(0, 0.08, rows), 0, 1)


LABEL, SCORE = judged()


def check(name: str, value: object, threshold: object, verdict: str = "passed", reason: str = "") -> dict[str, Any]:
    return {
        "check": name,
        "value": value,
        "threshold": threshold,
        "verdict": verdict,
        "reason": reason or f"{name} holds",
    }


def slice_row(name: str, rows: int, auc: float | None, **changed: Any) -> dict[str, Any]:
    """Return a slice of qa_report.json."""

    def interval(value: float, reach: float, level: float) -> dict[str, float]:
        return {"value": value, "low": value - reach, "high": value + reach, "level": level}

    judged = {
        "auc": auc and interval(auc, 0.03, 0.95),
        "difference": auc and interval(auc - 0.88, 0.05, 0.99),
        "against": "version 3",
        "factor": auc and interval(1.02, 0.2, 0.99),
    }
    counts = {"positives": rows // 4, "false_negatives": rows // 20, "false_positives": rows // 10}
    return {"name": name, "rows": rows, "problem": "", **judged, **counts, **changed}


def qa_report(verdict: str = "passed", champion: Mapping[str, Any] | None = None, **changed: Any) -> dict[str, Any]:
    """Return qa_report.json, in the form that model_qa writes."""
    bad = verdict in ("warned", "refused")
    auc_check = check("min_auc", 0.8841, 0.7, reason="AUC 0.884 (0.870 to 0.898) is at least 0.7")
    if verdict == "undecided":
        auc_check = check("min_auc", 0.71, 0.7, "undecided", "about 800 test rows would be enough")
    checks = [
        check("signature", None, None, reason="the model says what columns it takes"),
        auc_check,
        check("train_test_gap", 0.101, 0.25, reason="AUC falls by 0.101 from training to test, at most by 0.25"),
        check(
            "calibration", 0.98, 1.43, reason="calibration slope is 0.98 (95% interval 0.9 to 1.06), from 0.7 to 1.43"
        ),
        check("drift", 0.31 if bad else 0.012, 0.25, "failed" if bad else "passed", "income has moved most"),
        check("champion", None, 0.05, "not compared", "there is no champion"),
    ]
    slices = [
        slice_row(f"purpose={value}", rows, auc)
        for value, rows, auc in (("house", 812, 0.891), ("car", 640, 0.874), ("other", 240, 0.832))
    ]
    slices.append(
        slice_row("purpose is missing", 52, None, problem="52 rows; about 100 rows of this slice would be enough")
    )
    auc = {"value": 0.8841, "low": 0.8702, "high": 0.8979, "level": 0.95}
    numbers = binary.intervals(LABEL.to_numpy(), SCORE, SCORE >= 0.5, 0.95)
    report = {"verdict": verdict, "checks": checks, "auc": auc, "slices": slices, "champion": champion, "judged": {}}
    report["intervals"] = {**{name: dataclasses.asdict(number) for name, number in numbers.items()}, "auc": auc}
    return {**report, **changed}


def drift_row(column: str, psi: float, moved: float = 0.0) -> dict[str, Any]:
    """Return a row of drift.json: the values of a category, or the deciles of a number, the last with `moved` more."""
    if column == "purpose":
        shares = [("house", 0.42, 0.40), ("car", 0.33, 0.36), ("other", 0.2, 0.19), ("(missing)", 0.05, 0.05)]
    else:
        edges = [round(18 * 1.35**i, 1) for i in range(9)]
        inner = [f"{low:g} to {high:g}" for low, high in pairwise(edges)]
        labels = [f"up to {edges[0]:g}", *inner, f"above {edges[-1]:g}", "(missing)"]
        parts = [0.1 - moved / 9] * 9 + [0.1 + moved]
        shares = list(zip(labels, [0.1] * 10 + [0.0], [*parts, 0.0], strict=True))
    return {
        "column": column,
        "kind": "category" if column == "purpose" else "number",
        "psi": psi,
        "statistic": 0.02,
        "p_value": 0.4 if psi < 0.1 else 1e-9,
        "bins": [dict(zip(("label", "reference", "current"), share, strict=True)) for share in shares],
        "missing_reference": shares[-1][1],
        "missing_current": shares[-1][2],
        "missing_p_value": 1.0,
        "moved": ["values"] if psi > 0.1 else [],
    }


def drift(columns: Sequence[str] = COLUMNS, champion: bool = True) -> dict[str, Any]:
    rows = [drift_row(column, 0.31 / (i + 1) ** 2, 0.2 / (i + 1)) for i, column in enumerate(columns)]
    return {
        "train_test": rows,
        "champion": [drift_row(row["column"], row["psi"] / 2) for row in rows] if champion else None,
        "only_before": ["region"],
        "only_now": [],
        "problem": "",
    }


def importances(columns: Sequence[str] = COLUMNS) -> dict[str, Any]:
    return {
        "columns": ["feature", "importance", "std"],
        "data": [[c, 0.2 / (i + 1), 0.01] for i, c in enumerate(columns)],
    }


def scoring_facts(columns: Sequence[str] = COLUMNS, *, is_tested: bool = True, is_shadowed: bool = True) -> Any:
    """Return scoring.json, in the form that the step score writes."""
    bins = dict(enumerate((12, 20, 8, 0)))
    pairs = {("no", "no"): 30, ("no", "yes"): 4, ("yes", "yes"): 6}
    recipe = Recipe({name: name for name in columns}, {}, "label", ("no", "yes"), None, (), (), {})
    counts = {
        name: {"missing": i, "unseen": 40 - i, "outside": 0}
        if i
        else dict.fromkeys(("missing", "unseen", "outside"), 0)
        for i, name in enumerate(columns)
    }
    test = ScoreBins([0.1, 0.25, 0.5], [30, 30, 30, 10], [60, 40]) if is_tested else None
    now = datetime(2026, 11, 30, 12, tzinfo=UTC)
    created = int(datetime(2026, 11, 18, 9, 12, tzinfo=UTC).timestamp() * 1000)
    model, shadow = (
        ScoringModel(Version("loans", i, "a" * 32, created, {}), None, "", "", [], recipe, 0.5, test) for i in (3, 4)
    )
    facts = batch_facts.batch_facts(
        model,
        shadow if is_shadowed else None,
        NewRows(None, 40, "2026-11-30"),  # type: ignore[arg-type]
        recipe,
        counts,
        Tally(bins, {"no": 34, "yes": 6}, {0: 10, 1: 20, 2: 10}, pairs, -0.02, 0.1234, 0.4),
        now,
    )
    return {**facts, "seconds": 0.5}


def scoring_run(**facts: Any) -> Made:
    """Return a scoring run with these facts."""
    return Made(
        status={"score": "FINISHED"},
        artifacts={"score": {"scoring.json": scoring_facts(**facts)}},
        tags={"": {PIPELINE: "score", "mlflow.runName": "scoring_run"}},
    )


METRICS = {
    "train": {"train_auc": 0.985, "train_log_loss": 0.21, "train_rows": 8012},
    "evaluate": {
        **binary.score_metrics(LABEL, SCORE, "test"),
        **binary.class_metrics(LABEL, SCORE >= 0.5, "test"),
        "test_rows": len(LABEL),
    },
}
PARTS = {
    "code steps.train": "0a1b",
    "param options.max_iter": 100,
    "library scikit-learn": "1.9.1",
    "seed": 42,
    "source": f"csv , {'a' * 64}",
    "data.positive": None,
}


@dataclass
class Made:
    """A pipeline run to write into the store; a step that isn't in `status` has no run."""

    status: Mapping[str, str] = field(default_factory=lambda: dict.fromkeys(STEPS, "FINISHED"))
    artifacts: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # step -> name -> content
    tags: Mapping[str, Mapping[str, str]] = field(default_factory=dict)  # step -> tags; "" is the parent
    experiment: str = "local_pipeline_experiment"
    parent_status: str = "FINISHED"

    def log(self) -> tuple[str, dict[str, str]]:
        """Write the run into the store, and return the parent's id and step -> run id."""
        client = mlflow.MlflowClient()
        experiment = Store.inherited().experiment_id(self.experiment)
        tags = {"profile": "local", "engine": "sail", "backend": "forkserver", "mlflow.runName": "pipeline_run"}
        tags |= {"mlflow.source.git.commit": "0123456789abcdef", "git.dirty": "false"} | dict(self.tags.get("", {}))
        parent = client.create_run(experiment, tags=tags).info.run_id
        client.log_param(parent, "set", "none")
        client.log_dict(parent, run_page.config_json(load("local")), "config.json")
        runs = {}
        for step, status in self.status.items():
            runs[step] = client.create_run(experiment, tags={"step": step, PARENT: parent}).info.run_id
            step_tags = {"reason": "first run", "summary": f"{step} is done", f"output.{step}_run_id": "1"} | dict(
                self.tags.get(step, {})
            )
            if step == "train":
                client.log_dict(runs[step], PARTS, "fingerprint.json")
                client.log_param(runs[step], "estimator", "sklearn.ensemble.HistGradientBoostingClassifier")
            if step == "prepare_data":
                step_tags = {**table_tags("train", 8012), **table_tags("test", 2000), **step_tags}
            metrics = [Metric(name, value, 1, 0) for name, value in METRICS.get(step, {}).items()]
            client.log_batch(runs[step], metrics, tags=[RunTag(*tag) for tag in step_tags.items()])
            for name, content in self.artifacts.get(step, {}).items():
                client.log_text(runs[step], content if isinstance(content, str) else json.dumps(content), name)
            client.set_terminated(runs[step], status)
        client.set_terminated(parent, self.parent_status)
        return parent, runs


def read(run_id: str) -> Report:
    """Return the contents of a pipeline run's page."""
    store = Store.inherited()
    return gather.gather(RunReader(store, InlineBackend().page_address), store.get_run(run_id))


def table_tags(name: str, rows: int, digest: str = "d1") -> dict[str, str]:
    tag = f"output.{name}_uri"
    return {tag: f"/tables/{name}", f"{tag}.version": "0", f"{tag}.rows": str(rows), f"{tag}.digest": digest}


def everything(qa: Mapping[str, Any] | None = None, columns: Sequence[str] = COLUMNS) -> dict[str, Mapping[str, Any]]:
    """Return the artifacts of a whole pipeline run."""
    return {
        "evaluate": {"curves.json": binary.curves(LABEL, SCORE)},
        "feature_importance": {"feature_importance.json": importances(columns)},
        "model_qa": {"qa_report.json": qa or qa_report(), "drift.json": drift(columns)},
    }
