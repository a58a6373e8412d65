"""The graph of steps: an edge is an input named like another step's output. Knows nothing of config or MLflow."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from graphlib import CycleError, TopologicalSorter
from typing import NamedTuple

from ml_pipelines.errors import ConfigError


class Node(NamedTuple):
    """What one step takes and gives, by name."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


Graph = Mapping[str, Node]


def producers(graph: Graph) -> dict[str, str]:
    """Return output -> the step that writes it.

    Raises:
        ConfigError: two steps write the same output.
    """
    found: dict[str, str] = {}
    for key, node in graph.items():
        for output in node.outputs:
            if output in found:
                raise ConfigError(
                    f"steps.{key}.outputs: {output} is already an output of {found[output]}. Rename one of them."
                )
            found[output] = key
    return found


def upstream(graph: Graph) -> dict[str, set[str]]:
    """Return step -> the steps whose outputs it takes.

    Raises:
        ConfigError: an input that no step writes, or two writers of one output.
    """
    writers = producers(graph)
    for key, node in graph.items():
        for name in node.inputs:
            if name not in writers:
                raise ConfigError(
                    f"steps.{key}.inputs: no step has an output {name}. Outputs are: {', '.join(sorted(writers))}."
                )
    return {key: {writers[name] for name in node.inputs} for key, node in graph.items()}


def order(graph: Graph) -> list[str]:
    """Return the steps so that each stands after those it needs, otherwise as declared.

    Raises:
        ConfigError: the steps form a cycle.
    """
    needs = upstream(graph)
    try:
        sorter = TopologicalSorter(needs)
        sorter.prepare()
    except CycleError as error:
        cycle = " -> ".join(error.args[1])
        raise ConfigError(f"steps: {cycle} is a cycle. Take one of these outputs out of the other's inputs.") from error
    done: list[str] = []
    while sorter.is_active():
        ready = sorted(sorter.get_ready(), key=list(graph).index)
        done += ready
        sorter.done(*ready)
    return done


def check(graph: Graph) -> None:
    """Raise ConfigError unless producers are unique, inputs produced, and there is no cycle."""
    order(graph)


def select(graph: Graph, only: Iterable[str] = (), start: str | None = None, end: str | None = None) -> list[str]:
    """Return the steps to run, in order: `only` these; or `start` and all that needs it; up to `end` and its needs.

    Raises:
        ConfigError: an unknown step, or nothing left.
    """
    only = list(only)
    for name in [*only, *(n for n in (start, end) if n)]:
        if name not in graph:
            raise ConfigError(f"There is no step {name}: the steps are {', '.join(graph)}.")
    needs = upstream(graph)
    kept = set(only or graph)
    if start:
        kept &= {start} | {key for key in graph if start in closure(key, needs)}
    if end:
        kept &= {end} | closure(end, needs)
    if not kept:
        raise ConfigError("--only, --from and --to together leave no step to run.")
    return [key for key in order(graph) if key in kept]


def closure(key: str, needs: Mapping[str, AbstractSet[str]]) -> set[str]:
    """Return every step that `key` needs, directly or not."""
    return set(needs[key]) | {deeper for near in needs[key] for deeper in closure(near, needs)}
