"""Tests of the graph of steps: an edge is an input with the name of another step's output."""

import pytest

from ml_pipelines.config import graph
from ml_pipelines.config.graph import Node
from ml_pipelines.errors import ConfigError

DIAMOND = {
    "report": Node(("scores", "ranks"), ("page",)),
    "load": Node((), ("table",)),
    "score": Node(("table",), ("scores",)),
    "rank": Node(("table",), ("ranks",)),
}


def refusal(nodes: graph.Graph) -> str:
    with pytest.raises(ConfigError) as error:
        graph.check_graph(nodes)
    return str(error.value)


def test_steps_come_after_their_upstream_steps_and_otherwise_as_declared() -> None:
    assert graph.step_order(DIAMOND) == ["load", "score", "rank", "report"]


def test_an_input_makes_its_writer_an_upstream_step() -> None:
    assert graph.upstream(DIAMOND)["report"] == {"score", "rank"}
    assert graph.upstream(DIAMOND)["load"] == set()


def test_two_steps_that_write_one_output_are_refused_by_name() -> None:
    message = refusal({"a": Node((), ("x",)), "b": Node((), ("x",))})
    assert "steps.b.outputs: x" in message and "output of a" in message


def test_the_error_for_an_input_without_a_writer_lists_the_outputs() -> None:
    message = refusal({"a": Node((), ("x", "y")), "b": Node(("z",), ())})
    assert "steps.b.inputs" in message and "no step has an output z" in message and "x, y" in message


def test_the_error_for_a_cycle_shows_its_steps_in_order() -> None:
    assert "a -> b -> a is a cycle" in refusal({"a": Node(("y",), ("x",)), "b": Node(("x",), ("y",))})


def test_a_step_that_reads_its_own_output_is_a_cycle() -> None:
    assert "a -> a is a cycle" in refusal({"a": Node(("x",), ("x",))})


def test_the_arrows_of_a_cycle_point_from_a_writer_to_its_reader() -> None:
    nodes = {"a": Node(("z",), ("x",)), "b": Node(("x",), ("y",)), "c": Node(("y",), ("z",))}
    message = refusal(nodes)
    assert any(way in message for way in ("a -> b -> c -> a", "b -> c -> a -> b", "c -> a -> b -> c")), message


@pytest.mark.parametrize(
    ("only", "start", "end", "selection"),
    [
        ((), None, None, ["load", "score", "rank", "report"]),
        (("rank",), None, None, ["rank"]),
        (("rank", "load"), None, None, ["load", "rank"]),
        ((), "score", None, ["score", "report"]),
        ((), None, "score", ["load", "score"]),
        ((), "load", "rank", ["load", "rank"]),
        ((), None, "report", ["load", "score", "rank", "report"]),
        ((), "load", None, ["load", "score", "rank", "report"]),
        (("report", "rank"), None, "score", None),
        ((), "rank", "score", None),
    ],
)
def test_only_from_and_to_select_steps(
    only: tuple[str, ...], start: str | None, end: str | None, selection: list[str] | None
) -> None:
    if selection is None:
        with pytest.raises(ConfigError, match="leave no step"):
            graph.select_steps(DIAMOND, only, start, end)
    else:
        assert graph.select_steps(DIAMOND, only, start, end) == selection


@pytest.mark.parametrize("selection", [{"only": ["x"]}, {"start": "x"}, {"end": "x"}])
def test_the_error_for_an_unknown_step_lists_the_steps(selection: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=r"Step x doesn't exist\. The steps are: report, load, score, rank"):
        graph.select_steps(DIAMOND, **selection)  # type: ignore[arg-type]
