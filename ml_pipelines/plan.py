"""What a pipeline run will do, resolved before anything is executed."""

from __future__ import annotations

import enum
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

from ml_pipelines import forking, graph, paths
from ml_pipelines.config import NONE, Config, Step, cluster_spec
from ml_pipelines.errors import ConfigError

if TYPE_CHECKING:
    from mlflow.entities import Run

EVERYTHING = "all"  # what --force means without a step
DATABRICKS, DATABRICKS_JOBS = "databricks", "databricks-jobs"  # MLflow's own backend for a workspace, and ours


class Reason(enum.Enum):
    """Why a step runs, or that it needn't."""

    unchanged = "unchanged"
    off = "reuse is off"
    elsewhere = "what is on a Volume can't be verified from this machine"
    forced = "forced"
    asked = "asked for"
    first_run = "first run"
    code = "code changed"
    param = "param"
    input = "input changed"
    source = "source changed"
    external = "external changed"
    engine = "engine"
    library = "library"
    setting = "setting"
    outputs = "outputs are gone or damaged"
    unknowable = "the source's content can't be known without reading it"
    upstream = "upstream runs"


@dataclass(frozen=True)
class Decision:
    """What is done with a step: `run` is the finished run that stands for it, where there is one."""

    reason: Reason
    detail: str = ""
    run: Run | None = None
    parts: Mapping[str, str] | None = None

    def __str__(self) -> str:
        """Say it in words: `param options.max_iter 100 -> 200`."""
        return f"{self.reason.value} {self.detail}".strip()


@dataclass(frozen=True)
class Plan:
    """The steps to run, in order, with where and on what."""

    config: Config
    backend: str
    steps: tuple[Step, ...]
    needs: Mapping[str, frozenset[str]]  # step -> those of `steps` that it waits for
    forced: Mapping[str, Reason]  # steps that run though nothing changed, and who says so

    @property
    def missing(self) -> set[str]:
        """The inputs that no step of this plan writes: they come from an earlier pipeline run."""
        written = {name for step in self.steps for name in step.outputs}
        return {name for step in self.steps for name in step.inputs} - written

    @property
    def fitting_first(self) -> bool:
        """Whether no step reads the source, which takes Spark."""
        return all(step.inputs for step in self.steps)

    @property
    def kept(self) -> list[str]:
        """The steps that this plan neither runs nor makes out of date: what they handed on stays true beside it."""
        running = {step.key for step in self.steps}
        needs = graph.upstream(nodes(self.config))
        return [key for key in self.config.steps if not running & {key, *graph.closure(key, needs)}]

    def without_finished(self, outputs: Mapping[str, str]) -> Plan:
        """Return the plan without the steps whose every output is already there."""
        steps = tuple(step for step in self.steps if not set(step.outputs) <= outputs.keys())
        kept = {step.key for step in steps}
        return replace(self, steps=steps, needs={key: self.needs[key] & kept for key in kept})

    def parameters(self, step: Step, outputs: Mapping[str, str]) -> dict[str, str]:
        """Return the parameters of the step's entry point."""
        known = {"profile": self.config.profile, "set": self.config.overrides}
        return known | {name: outputs.get(name, NONE) for name in step.inputs}

    def backend_config(self, step: Step) -> dict[str, object]:
        """Return the step's cluster spec, afresh since MLflow writes into it; for this machine, our configuration."""
        return cluster_spec(self.config, step) or {"config": self.config}

    def project(self) -> str:
        """Return what `mlflow.projects.run` is to run: this folder, or an archive where all of it is uploaded."""
        if self.backend != DATABRICKS:
            return str(paths.root())
        from ml_pipelines.databricks import projects

        return projects.archived()

    def describe(self, decisions: Mapping[str, Decision]) -> str:
        """Return the plan as text: steps, order, parameters, compute, backend, and why each step would run or not."""
        config = self.config
        lines = [
            f"profile {config.profile} · env {config.env_name} · engine {config.spark.engine} · backend {self.backend}",
            f"experiment {config.experiment_name}",
            f"source {_source(config)} · label {config.data.label} · key {config.data.key or '(the whole row)'}"
            f" · test fraction {config.data.test_fraction}",
            "",
        ]
        for step in self.steps:
            where = _compute(self, step) if cluster_spec(config, step) else "this machine"
            waits = ", ".join(key for key in config.steps if key in self.needs[step.key]) or "nothing"
            lines.append(f"  {step.step_name:<24}waits for {waits} · compute {step.compute} ({where})")
            lines.append(f"  {'':<24}takes {', '.join(step.inputs) or 'the source'} · gives {', '.join(step.outputs)}")
            if decision := decisions.get(step.key):
                lines.append(f"  {'':<24}{'reused' if decision.run else 'runs'}: {decision}")
            params = asdict(step.params)
            if params:
                lines.append(f"  {'':<24}{' · '.join(f'{name}={value}' for name, value in params.items())}")
        if self.backend == DATABRICKS_JOBS:
            from ml_pipelines.databricks import submissions

            lines += ["", submissions.describe(config, self.steps, self.needs)]
        if self.missing:
            lines.append(f"\nFrom an earlier pipeline run: {', '.join(sorted(self.missing))}")
        return "\n".join(lines)


def make(
    config: Config,
    backend: str | None = None,
    only: Iterable[str] = (),
    start: str | None = None,
    end: str | None = None,
    force: Iterable[str] = (),
) -> Plan:
    """Return the plan for the selected steps.

    Raises:
        ConfigError: an unknown step, an empty selection, or a cluster spec that isn't there.
    """
    chosen = graph.select(nodes(config), only, start, end)
    upstream = graph.upstream(nodes(config))
    forced = set(force) - {NONE}
    if unknown := forced - {EVERYTHING, *config.steps}:
        raise ConfigError(f"--force: there is no step {', '.join(unknown)}: the steps are {', '.join(config.steps)}.")
    asked = dict.fromkeys(chosen if only or start else (), Reason.asked)
    plan = Plan(
        config,
        _here(backend or config.backend),
        tuple(config.steps[key] for key in chosen),
        {key: frozenset(upstream[key] & set(chosen)) for key in chosen},
        asked | dict.fromkeys(chosen if EVERYTHING in forced else forced, Reason.forced),
    )
    for step in plan.steps:
        cluster_spec(config, step)
    return plan


def nodes(config: Config) -> graph.Graph:
    """Return what each step takes and gives."""
    return {key: graph.Node(tuple(step.inputs), tuple(step.outputs)) for key, step in config.steps.items()}


def _here(backend: str) -> str:
    """Return the backend, or what stands for it here: the platform has no fork server; this is a cluster already."""
    if backend in (DATABRICKS, DATABRICKS_JOBS) and "DATABRICKS_RUNTIME_VERSION" in os.environ:
        return "inline"
    return "local" if backend == "forkserver" and not forking.supported() else backend


def _source(config: Config) -> str:
    source = config.data.source
    detail = {
        "synthetic": f"{source.rows} rows x {source.features} features",
        "file": source.path,
        "table": source.table,
    }
    return f"{source.kind.name} {detail.get(source.kind.name) or ''}".strip()


def _compute(plan: Plan, step: Step) -> str:
    spec = plan.backend_config(step)
    if len(spec) == 1:  # a running cluster, or serverless
        return plan.config.compute[step.compute]
    size = spec.get("autoscale") or {"workers": spec.get("num_workers")}
    sizes = ", ".join(f"{key} {value}" for key, value in dict(size).items())  # type: ignore[call-overload]
    return f"{plan.config.compute[step.compute]}: {spec.get('node_type_id')}, {sizes}, {spec.get('spark_version')}"
