"""Decides whether a finished run of a step is reused, and if not, why the step must run.

Each step run has the tag `fingerprint.declared`: the digest of the parts that are known before the step runs. A search
in MLflow by this tag finds the candidates. A candidate is reused if its whole fingerprint (see fingerprint.py) is the
step's current fingerprint, its tables are below this profile's prefix, and its outputs have not changed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from ml_pipelines.config import rules
from ml_pipelines.config.schema import Config, Step
from ml_pipelines.data import locations, source_content
from ml_pipelines.errors import ConfigError, PipelineError
from ml_pipelines.planning import resuming
from ml_pipelines.planning.fingerprint import (
    SHOWN,
    Parts,
    declared,
    differs,
    fingerprint_of,
    fingerprint_parts,
    readable,
)
from ml_pipelines.planning.memory import Memory
from ml_pipelines.planning.outputs import are_intact
from ml_pipelines.planning.plan import Plan
from ml_pipelines.planning.reasons import Decision, Reason
from ml_pipelines.system import observed
from ml_pipelines.tracking import lineage, opening
from ml_pipelines.tracking.store import Store, parent_of, shortened

if TYPE_CHECKING:
    from mlflow.entities import Run


def decide(
    plan: Plan, step: Step, producers: Mapping[str, Run], store: Store, experiment: str, memory: Memory
) -> Decision:
    """Return whether the step runs or is reused; `producers` is input -> the step run that wrote it."""
    config = plan.config
    parts = fingerprint_parts(memory, store, config, step, producers)
    if step.name in plan.forced:
        return Decision(plan.forced[step.name], parts=parts)
    if not config.reuse:
        return Decision(Reason.off, parts=parts)
    if plan.backend.reads_tables_elsewhere:
        return Decision(Reason.elsewhere, parts=parts)
    if "source" in parts and not source_content.is_known(config.data.source):
        return Decision(Reason.unknowable, parts=parts)
    is_damaged = False
    for run in lineage.finished_steps(store, experiment, step.name, fingerprint_of(parts)):
        whole = {**parts, **_observed_now(memory, store, run)}
        if fingerprint_of(whole) == run.data.tags["fingerprint"]:
            if _is_usable(memory, store, config, step, run):
                return Decision(Reason.unchanged, run=run, parts=whole)
            is_damaged = True
    if is_damaged:
        return Decision(Reason.outputs, parts=parts)
    earlier = lineage.finished_steps(store, experiment, step.name)
    if not earlier:
        return Decision(Reason.first_run, parts=parts)
    old = lineage.recorded_parts(store, earlier[0])
    if old is None:
        return Decision(Reason.unexplained, parts=parts)
    now = {name: memory.observed_now(name) for name in old if observed.is_observed(name)}
    return replace(_difference(old, {**parts, **now}), parts=parts)


def _observed_now(memory: Memory, store: Store, run: Run) -> Parts:
    """Return the observed parts of a run's fingerprint (files and modules), with the digests that they have now."""
    return {name: memory.observed_now(name) for name in lineage.observed_parts(store, run)}


OUTDATED = "edited while the step ran"  # the value of a part whose digest nobody knows; it never equals a digest

# First word of a part -> reason to run. Causes come before consequences: the first reason that applies is shown.
KINDS = {
    "code": Reason.code,
    "param": Reason.param,
    "module": Reason.code,
    "source": Reason.source,
    "file": Reason.file,
    "variable": Reason.variable,
    "external": Reason.external,
    "engine": Reason.engine,
    "seed": Reason.setting,
    "data": Reason.setting,
    "score": Reason.setting,
    "contract": Reason.setting,
    "model": Reason.setting,
    "registry": Reason.setting,
    "library": Reason.library,
    "input": Reason.input,
}
# For these reasons, the values that differ are digests. The reason shows only the name of the file, module or input.
DIGESTS = (Reason.code, Reason.source, Reason.file, Reason.variable, Reason.external, Reason.input)


def _difference(old: Parts, new: Parts) -> Decision:
    """Return the decision to run because of the first part that differs, in the order of KINDS."""

    def kind(part: str) -> str:
        return part.replace(".", " ").partition(" ")[0]

    changed = _differing(old, new)
    known = [part for part in changed if kind(part) in KINDS]
    if not known:
        return Decision(Reason.unexplained, parts=new)
    part = min(known, key=lambda part: (list(KINDS).index(kind(part)), part))
    reason, name = KINDS[kind(part)], shortened(part.partition(" ")[2], SHOWN)
    if reason in DIGESTS:
        return Decision(reason, f"({name})" if name else "", parts=new)
    name = shortened(part, SHOWN) if reason is Reason.setting else name
    before, after = readable(old, new, part)
    return Decision(reason, f"{name} {before} -> {after}".strip(), parts=new)


def _differing(old: Parts, new: Parts) -> list[str]:
    """Return the parts that differ in value or type. An empty mapping is left out if parts for its keys differ too."""
    changed = [part for part in {**old, **new} if differs(old, new, part)]
    return [part for part in changed if not any(other.startswith(f"{part}.") for other in changed)]


def _is_usable(memory: Memory, store: Store, config: Config, step: Step, run: Run) -> bool:
    """Return whether all outputs of the run are intact, and its tables are below this profile's prefix."""
    prefix = locations.absolute_prefix(config.table_prefix)
    try:
        tables = [table for name in lineage.outputs(run) if (table := lineage.table_of(run, name))]
    except PipelineError:
        return False
    return all(locations.is_below(table.uri, prefix) for table in tables) and are_intact(memory, store, step, run)


def preview(
    plan: Plan, producers: Mapping[str, Run], store: Store, experiment: str, memory: Memory
) -> dict[str, Decision]:
    """Return a dict: step -> decision, without running anything. A step runs if a step that writes its inputs runs."""
    known_producers = dict(producers)
    decisions: dict[str, Decision] = {}
    for step in plan.steps:
        if running := [
            need for need in plan.config.steps if need in plan.needs[step.name] and decisions[need].run is None
        ]:
            decision = Decision(plan.forced.get(step.name, Reason.upstream), f"({', '.join(running)})")
        else:
            decision = decide(plan, step, known_producers, store, experiment, memory)
        decisions[step.name] = decision
        if decision.run:
            known_producers |= dict.fromkeys(step.outputs, decision.run)
    return decisions


def up_to_date_run(
    plan: Plan, producers: Mapping[str, Run], store: Store, experiment: str, memory: Memory
) -> str | None:
    """Return the id of the pipeline run that has current results of all steps.

    Return None if a step must run, or if the pipeline run was killed, deleted or erased.
    """
    decisions = preview(plan, producers, store, experiment, memory)
    runs = [decision.run for decision in decisions.values() if decision.run]
    parents = {parent_of(run) for run in runs}
    if len(runs) < len(plan.steps) or len(parents) != 1 or not (parent := parents.pop()):
        return None
    try:
        info = store.get_run(parent).info
    except ConfigError:  # `mlflow gc` has erased the pipeline run
        return None
    return parent if (info.status, info.lifecycle_stage) == ("FINISHED", "active") else None


def decision_tags(decision: Decision) -> dict[str, str]:
    """Return the tags of a step's run that record why it ran and its fingerprint."""
    tags = {"reason": str(decision)}
    if decision.parts is not None:
        tags |= {
            "fingerprint": fingerprint_of(decision.parts),
            lineage.DECLARED: fingerprint_of(declared(decision.parts)),
            lineage.POLARS: str(decision.parts["library polars"]),
        }
    return tags


def record(store: Store, run_id: str, decision: Decision, more: Mapping[str, str] | None = None) -> None:
    """Record two things on a step's run: its fingerprint, and the reason why the step runs. Add the tags in `more`.

    The artifact with the fingerprint's parts is written first, so that no run has a fingerprint without its parts.
    """
    if decision.parts is not None:
        store.log_json(run_id, dict(decision.parts), lineage.PARTS)
    store.set_tags(run_id, {**decision_tags(decision), **(more or {})})


def final_decision(store: Store, memory: Memory, decision: Decision, run: Run) -> Decision:
    """Return the decision with the fingerprint as it is after the step, with the parts that the step observed.

    A step can make its own model the champion, and the champion is a part of the step's fingerprint. Without this
    correction, the step would run again the next time. If code or a file was edited after its digest was computed,
    nobody knows which version the step used, so the part gets a value that never matches.
    """
    parts = {name: OUTDATED if _is_outdated(memory, name) else value for name, value in (decision.parts or {}).items()}
    external = {tag.replace(".", " ", 1): value for tag, value in run.data.tags.items() if tag.startswith("external.")}
    return replace(decision, parts={**parts, **external, **lineage.observed_parts(store, run)})


def _is_outdated(memory: Memory, part: str) -> bool:
    """Return whether the code or the files that a part describes have changed since the driver read them."""
    kind, _, name = part.partition(" ")
    if kind == "code":
        return memory.source_code.is_outdated(name)
    return (
        kind == "source" or (kind == "external" and name not in (rules.CHAMPION, rules.SCORING_MODEL))
    ) and memory.has_outdated_files()


def explain_plan(plan: Plan) -> str:
    """Return the plan as text, for a dry run. Reuse is left out if the store or the experiment does not exist yet.

    Raises:
        ConfigError: the experiment is deleted, or no earlier pipeline run has the inputs of the plan.
    """
    if not plan.resumed and not opening.has_store(plan.config):
        return plan.describe({})
    store = opening.open_store(plan.config, may_migrate=False)
    if (experiment := store.find_experiment(plan.config.experiment_name)) is None:
        return plan.describe({})
    memory = Memory()
    plan, producers, _ = resuming.choose_inputs(plan, store, experiment, memory)
    return plan.describe(preview(plan, producers, store, experiment, memory))
