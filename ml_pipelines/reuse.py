"""Whether a step need not run again, and if it must, why.

A finished step's run bears its fingerprint as a tag: MLflow is the index. It is taken when the fingerprint is the
same, its tables stand below this profile's own prefix, and what it wrote is still what it recorded.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from ml_pipelines import fingerprint, lineage, models, paths, tables, tracking
from ml_pipelines.config import Config, Step
from ml_pipelines.errors import PipelineError
from ml_pipelines.fingerprint import Parts
from ml_pipelines.plan import DATABRICKS, DATABRICKS_JOBS, Decision, Plan, Reason

if TYPE_CHECKING:
    from mlflow.entities import Run


def decide(plan: Plan, step: Step, producers: Mapping[str, Run], experiment: str) -> Decision:
    """Return whether `step` must run, given the runs that handed on its inputs."""
    config = plan.config
    parts = fingerprint.parts(config, step, producers)
    if step.key in plan.forced:
        return Decision(plan.forced[step.key], parts=parts)
    if not config.reuse:
        return Decision(Reason.off, parts=parts)
    if plan.backend in (DATABRICKS, DATABRICKS_JOBS):
        return Decision(Reason.elsewhere, parts=parts)
    if "source" in parts and not fingerprint.knowable(config):
        return Decision(Reason.unknowable, parts=parts)
    twins = lineage.finished_steps(experiment, step.key, fingerprint.digest(parts))
    for twin in twins:
        if _intact(config, step, twin):
            return Decision(Reason.unchanged, run=twin, parts=parts)
    if twins:
        return Decision(Reason.outputs, parts=parts)
    earlier = lineage.finished_steps(experiment, step.key)
    if not earlier:
        return Decision(Reason.first_run, parts=parts)
    return _difference(json.loads(earlier[0].data.tags["fingerprint.parts"]), parts)


# The kinds of parts, what a person changes before what follows from it.
KINDS = {
    "code": Reason.code,
    "param": Reason.param,
    "source": Reason.source,
    "external": Reason.external,
    "engine": Reason.engine,
    "seed": Reason.setting,
    "data": Reason.setting,
    "contract": Reason.setting,
    "model": Reason.setting,
    "library": Reason.library,
    "input": Reason.input,
}
CONTENT = (
    Reason.code,
    Reason.source,
    Reason.external,
    Reason.input,
)  # whose values are digests, which tell nobody anything


def _difference(old: Parts, new: Parts) -> Decision:
    """Return the first part that differs, in the order of KINDS."""

    def kind(part: str) -> str:
        return part.replace(".", " ").split()[0]

    changed = (part for part in {**old, **new} if old.get(part) != new.get(part))
    part = min(changed, key=lambda part: (list(KINDS).index(kind(part)), part))
    reason, name = KINDS[kind(part)], part.partition(" ")[2]
    if reason in CONTENT:
        return Decision(reason, f"({name})" if name else "", parts=new)
    name = part if reason is Reason.setting else name
    return Decision(reason, f"{name} {old.get(part, 'none')} -> {new.get(part, 'none')}".strip(), parts=new)


def _intact(config: Config, step: Step, run: Run) -> bool:
    """Return whether the run handed on all outputs, and they are still there, below our own prefix, as recorded."""
    if not set(step.outputs) <= lineage.outputs(run).keys():
        return False
    for name in lineage.outputs(run):
        try:
            if table := lineage.table_of(run, name):
                own = paths.absolute(config.table_prefix)
                if not table.uri.startswith(f"{own}/") or tables.measure(table.uri, table.version) != (
                    table.rows,
                    table.digest,
                ):
                    return False
            elif logged := lineage.model_of(run, name):
                models.check(logged)
        except PipelineError:
            return False
    return True


def preview(plan: Plan, producers: Mapping[str, Run], experiment: str) -> dict[str, Decision]:
    """Return what would be done with each step, without doing it: behind a step that runs, nothing can be known."""
    known = dict(producers)
    decisions: dict[str, Decision] = {}
    for step in plan.steps:
        if waits := [
            need for need in plan.config.steps if need in plan.needs[step.key] and decisions[need].run is None
        ]:
            decision = Decision(plan.forced.get(step.key, Reason.upstream), f"({', '.join(waits)})")
        else:
            decision = decide(plan, step, known, experiment)
        decisions[step.key] = decision
        if decision.run:
            known |= dict.fromkeys(step.outputs, decision.run)
    return decisions


def current(plan: Plan, producers: Mapping[str, Run], experiment: str) -> str | None:
    """Return the pipeline run whose steps stand for all of the plan's, or None where something must run."""
    decisions = preview(plan, producers, experiment)
    runs = [decision.run for decision in decisions.values() if decision.run]
    parents = {tracking.parent_of(run) for run in runs}
    if len(runs) < len(plan.steps) or len(parents) != 1 or not (parent := parents.pop()):
        return None
    return parent if tracking.get_run(parent).info.status == "FINISHED" else None  # not one that was killed at its end


def tags(decision: Decision) -> dict[str, str]:
    """Return what a step's run says of why it ran, and of what its result depends."""
    found = {"reason": str(decision)}
    if decision.parts is not None:
        parts = json.dumps(dict(decision.parts), separators=(",", ":"))
        found |= {"fingerprint": fingerprint.digest(decision.parts), "fingerprint.parts": parts}
    return found


def settled(decision: Decision, run: Run) -> Decision:
    """Return the decision as it stands at a step's end, when it has said how it left its external state.

    A model that became champion was judged beside another: that alone is no reason to judge it again.
    """
    own = {tag.replace(".", " ", 1): value for tag, value in run.data.tags.items() if tag.startswith("external.")}
    return replace(decision, parts={**(decision.parts or {}), **own})


def explain(plan: Plan) -> dict[str, Decision]:
    """Return, for a dry run, what would be done with each step; nothing where there is no store to look into yet."""
    fingerprint.forget()
    if not tracking.has_store(plan.config):
        return {}
    tracking.connect(plan.config)
    found = tracking.client().get_experiment_by_name(plan.config.experiment_name)
    if found is None:
        return {}
    experiment = str(found.experiment_id)
    source = lineage.latest_with(plan.missing, experiment, plan.config.profile) if plan.missing else None
    return preview(plan, lineage.producers(source) if source else {}, experiment)
