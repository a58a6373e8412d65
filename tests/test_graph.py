"""The graph of steps: an edge is an input named like another step's output."""

import pytest

from ml_pipelines import graph
from ml_pipelines.errors import ConfigError
from ml_pipelines.graph import Node

DIAMOND = {
    "report": Node(("scores", "ranks"), ("page",)),
    "load": Node((), ("table",)),
    "score": Node(("table",), ("scores",)),
    "rank": Node(("table",), ("ranks",)),
}


def refusal(nodes: graph.Graph) -> str:
    with pytest.raises(ConfigError) as caught:
        graph.check(nodes)
    return str(caught.value)


def test_a_step_stands_after_those_it_needs_and_otherwise_as_declared() -> None:
    assert graph.order(DIAMOND) == ["load", "score", "rank", "report"]


def test_an_input_makes_its_writer_an_upstream_step() -> None:
    assert graph.upstream(DIAMOND)["report"] == {"score", "rank"}
    assert graph.upstream(DIAMOND)["load"] == set()


def test_two_writers_of_one_output_are_refused_by_name() -> None:
    message = refusal({"a": Node((), ("x",)), "b": Node((), ("x",))})
    assert "steps.b.outputs: x" in message and "output of a" in message


def test_an_input_that_nobody_writes_is_refused_with_the_outputs_there_are() -> None:
    message = refusal({"a": Node((), ("x", "y")), "b": Node(("z",), ())})
    assert "steps.b.inputs" in message and "no step has an output z" in message and "x, y" in message


def test_a_cycle_is_shown_as_the_way_round() -> None:
    assert "a -> b -> a is a cycle" in refusal({"a": Node(("y",), ("x",)), "b": Node(("x",), ("y",))})


def test_a_step_that_reads_its_own_output_is_a_cycle() -> None:
    assert "a -> a is a cycle" in refusal({"a": Node(("x",), ("x",))})


def test_the_arrows_of_a_cycle_point_from_a_writer_to_its_reader() -> None:
    nodes = {"a": Node(("z",), ("x",)), "b": Node(("x",), ("y",)), "c": Node(("y",), ("z",))}
    message = refusal(nodes)
    assert any(way in message for way in ("a -> b -> c -> a", "b -> c -> a -> b", "c -> a -> b -> c")), message


@pytest.mark.parametrize(
    ("only", "start", "end", "chosen"),
    [
        ((), None, None, ["load", "score", "rank", "report"]),
        (("rank",), None, None, ["rank"]),
        (("rank", "load"), None, None, ["load", "rank"]),
        ((), "score", None, ["score", "report"]),
        ((), None, "score", ["load", "score"]),
        ((), "load", "rank", ["load", "rank"]),
        (("report", "rank"), None, "score", None),
        ((), "rank", "score", None),
    ],
)
def test_only_from_and_to_choose_steps(
    only: tuple[str, ...], start: str | None, end: str | None, chosen: list[str] | None
) -> None:
    if chosen is None:
        with pytest.raises(ConfigError, match="leave no step"):
            graph.select(DIAMOND, only, start, end)
    else:
        assert graph.select(DIAMOND, only, start, end) == chosen


@pytest.mark.parametrize("choice", [{"only": ["x"]}, {"start": "x"}, {"end": "x"}])
def test_an_unknown_step_is_answered_with_the_known_ones(choice: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="no step x: the steps are report, load, score, rank"):
        graph.select(DIAMOND, **choice)  # type: ignore[arg-type]
