"""The plan of a pipeline run: which steps run and in which order. It is made before any step runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

from ml_pipelines.config import graph
from ml_pipelines.config.compute import cluster_spec
from ml_pipelines.config.schema import NONE, Config, Pipeline, Step
from ml_pipelines.data import header
from ml_pipelines.errors import ConfigError
from ml_pipelines.planning.backend import Backend
from ml_pipelines.planning.reasons import Decision, Reason
from ml_pipelines.text import did_you_mean, listed, shown

if TYPE_CHECKING:
    from ml_pipelines.planning.resuming import Resumed

EVERYTHING = "all"  # the value of --force for all steps


@dataclass(frozen=True)
class Plan:
    """The steps to run, in order, with the backend that runs them and the configuration."""

    config: Config
    backend: Backend
    steps: tuple[Step, ...]
    needs: Mapping[str, frozenset[str]]  # step -> the steps of this plan that it waits for
    forced: Mapping[str, Reason]  # step -> why it runs even if nothing changed
    resumed: Resumed | None = None  # the pipeline run that this plan continues

    @property
    def missing(self) -> set[str]:
        """The inputs that no step of this plan writes. They come from an earlier pipeline run."""
        written = {name for step in self.steps for name in step.outputs}
        return {name for step in self.steps for name in step.inputs} - written

    @property
    def kept(self) -> list[str]:
        """The steps whose earlier outputs stay valid: neither they nor their upstream steps run in this plan."""
        running = {step.name for step in self.steps}
        needs = graph.upstream(graph_of(self.config))
        return [name for name in needs if not running & {name, *graph.closure(name, needs)}]

    def without_finished(self, outputs: Mapping[str, str]) -> Plan:
        """Return the plan without the steps whose outputs are all in `outputs`."""
        steps = tuple(step for step in self.steps if not set(step.outputs) <= outputs.keys())
        names = {step.name for step in steps}
        return replace(self, steps=steps, needs={name: self.needs[name] & names for name in names})

    def parameters(self, step: Step, outputs: Mapping[str, str]) -> dict[str, str]:
        """Return the parameters of the step's entry point; `outputs` has the outputs of the earlier steps."""
        settings = {"profile": self.config.profile, "set": self.config.overrides}
        return settings | {name: outputs.get(name, NONE) for name in step.inputs}

    def describe(self, decisions: Mapping[str, Decision]) -> str:
        """Return the plan as text: for each step its inputs, params and compute, and why it would run or be reused."""
        config = self.config
        label, key = (shown(name) for name in (config.data.label, config.data.key or "(the whole row)"))
        lines = [
            f"profile {config.profile} · env {config.env_name} · engine {config.spark.engine}"
            f" · backend {self.backend.name}",
            f"experiment {config.experiment_name}",
            f"source {_source(config)} · label {label} · key {key} · test fraction {config.data.test_fraction}",
            *(self.resumed.describe(config) if self.resumed else ()),
            "",
        ]
        for step in self.steps:
            where = _compute(config, step)
            waits = ", ".join(name for name in config.steps if name in self.needs[step.name]) or "nothing"
            lines.append(f"  {step.step_name:<24}waits for {waits} · compute {step.compute} ({where})")
            lines.append(
                f"  {'':<24}inputs {', '.join(step.inputs) or 'the source'} · outputs {', '.join(step.outputs)}"
            )
            if decision := decisions.get(step.name):
                lines.append(f"  {'':<24}{'reused' if decision.run else 'runs'}: {decision}")
            params = asdict(step.params)
            if params:
                lines.append(f"  {'':<24}{' · '.join(f'{name}={shown(value)}' for name, value in params.items())}")
        lines += self.backend.describe(config, self.steps, self.needs)
        if self.missing:
            which = f"pipeline run {self.resumed.run_id[:8]}" if self.resumed else "an earlier pipeline run"
            lines.append(f"\nFrom {which}: {', '.join(sorted(self.missing))}")
        return "\n".join(lines)


def make_plan(
    config: Config,
    backend: Backend,
    resumed: Resumed | None = None,
    only: Iterable[str] = (),
    start: str | None = None,
    end: str | None = None,
    force: Iterable[str] = (),
) -> Plan:
    """Return the plan for the selected steps; `resumed` is the pipeline run that the plan continues.

    Raises:
        ConfigError: a step is unknown, no step is selected, or a cluster spec does not exist.
        BadData: the source lacks a column that the configuration names. Not every source is checked this early.
    """
    only, forced = list(only), set(force) - {NONE}
    for step in (config.steps[name] for name in [*only, start, end, *forced] if name in config.steps):
        if step.pipeline is not config.pipeline:
            raise ConfigError(f"Step {step.name} belongs to another pipeline. Add --pipeline {step.pipeline.value}.")
    chosen = graph.select_steps(graph_of(config), only, start, end)
    upstream = graph.upstream(graph_of(config))
    if unknown := forced - {EVERYTHING, *upstream}:
        near = did_you_mean(min(unknown), upstream)
        raise ConfigError(
            f"--force: no step is named {listed(sorted(unknown))}.{near} The steps are {', '.join(upstream)}."
        )
    selected = dict.fromkeys(chosen if only or start else (), Reason.selected)
    plan = Plan(
        config,
        backend,
        tuple(config.steps[name] for name in chosen),
        {name: frozenset(upstream[name] & set(chosen)) for name in chosen},
        selected | dict.fromkeys(chosen if EVERYTHING in forced else forced, Reason.forced),
        resumed,
    )
    for step in plan.steps:  # raises if the cluster spec is wrong
        cluster_spec(config, step)
    reads_source = config.pipeline is Pipeline.train and any(not step.inputs for step in plan.steps)
    if reads_source and not resumed and not backend.reads_tables_elsewhere:
        header.check_header(config.data)
    return plan


def graph_of(config: Config) -> graph.Graph:
    """Return the graph of the pipeline's steps: step -> its inputs and outputs."""
    return {name: graph.Node(tuple(step.inputs), tuple(step.outputs)) for name, step in config.pipeline_steps.items()}


def _source(config: Config) -> str:
    source = config.data.source
    detail = {
        "synthetic": f"{source.rows} rows x {source.features} features",
        "file": source.path,
        "table": source.table,
    }
    return f"{source.kind.name} {detail.get(source.kind.name) or ''}".strip()


def _compute(config: Config, step: Step) -> str:
    """Return what a step runs on, as text."""
    spec, where = cluster_spec(config, step), config.compute[step.compute]
    if spec is None:
        return "this machine"
    if len(spec) == 1:  # a running cluster, or serverless
        return where
    size = spec.get("autoscale") or {"workers": spec.get("num_workers")}
    sizes = ", ".join(f"{key} {value}" for key, value in size.items())
    return f"{where}: {spec.get('node_type_id')}, {sizes}, {spec.get('spark_version')}"
