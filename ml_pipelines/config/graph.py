"""The graph of steps. Step B depends on step A if an input of B has the name of an output of A."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from graphlib import CycleError, TopologicalSorter
from typing import NamedTuple

from ml_pipelines.errors import ConfigError
from ml_pipelines.text import did_you_mean, listed, shown


class Node(NamedTuple):
    """The names of a step's inputs and outputs."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


Graph = Mapping[str, Node]


def output_producers(graph: Graph) -> dict[str, str]:
    """Return a dict: output -> the step that writes it.

    Raises:
        ConfigError: two steps write the same output.
    """
    writers: dict[str, str] = {}
    for step, node in graph.items():
        for output in node.outputs:
            if output in writers:
                raise ConfigError(
                    f"steps.{step}.outputs: {output} is already an output of {writers[output]}. Rename one of them."
                )
            writers[output] = step
    return writers


def upstream(graph: Graph) -> dict[str, set[str]]:
    """Return a dict: step -> the steps that write its inputs.

    Raises:
        ConfigError: an input is not the output of any step, or two steps write the same output.
    """
    writers = output_producers(graph)
    for step, node in graph.items():
        for name in node.inputs:
            if name not in writers:
                raise ConfigError(
                    f"steps.{step}.inputs: no step has an output {name}. Use one of: {', '.join(sorted(writers))}."
                )
    return {step: {writers[name] for name in node.inputs} for step, node in graph.items()}


def step_order(graph: Graph) -> list[str]:
    """Return the steps, each after its upstream steps. Steps that become ready at the same time keep conf's order.

    Raises:
        ConfigError: the steps form a cycle.
    """
    needs = upstream(graph)
    try:
        sorter = TopologicalSorter(needs)
        sorter.prepare()
    except CycleError as error:
        cycle = " -> ".join(error.args[1])
        raise ConfigError(
            f"steps: {cycle} is a cycle. Remove one of these outputs from the next step's inputs."
        ) from error
    ordered: list[str] = []
    while sorter.is_active():
        ready = sorted(sorter.get_ready(), key=list(graph).index)
        ordered += ready
        sorter.done(*ready)
    return ordered


def check_graph(graph: Graph) -> None:
    """Raise ConfigError if two steps write one output, an input is no step's output, or the steps form a cycle."""
    step_order(graph)


def select_steps(graph: Graph, only: Iterable[str] = (), start: str | None = None, end: str | None = None) -> list[str]:
    """Return the steps to run, in order.

    Args:
        graph: the graph of all steps.
        only: the steps to run; empty means all.
        start: run only this step and the steps that depend on it.
        end: run only this step and its upstream steps.

    Raises:
        ConfigError: a step doesn't exist, or the arguments leave no step to run.
    """
    only = list(only)
    for name in [*only, *(n for n in (start, end) if n)]:
        if name not in graph:
            near = did_you_mean(name, graph)
            raise ConfigError(f"Step {shown(name)} doesn't exist.{near} The steps are: {listed(graph)}.")
    needs = upstream(graph)
    selected = set(only or graph)
    if start:
        selected &= {start} | {step for step in graph if start in closure(step, needs)}
    if end:
        selected &= {end} | closure(end, needs)
    if not selected:
        raise ConfigError("--only, --from and --to together leave no step to run. Leave out one of them.")
    return [step for step in step_order(graph) if step in selected]


def closure(step: str, needs: Mapping[str, AbstractSet[str]]) -> set[str]:
    """Return all upstream steps of `step`, direct and indirect. `needs` is step -> its direct upstream steps."""
    return set(needs[step]) | {further for direct in needs[step] for further in closure(direct, needs)}
