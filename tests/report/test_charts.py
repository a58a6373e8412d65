"""Tests of the report's charts: where they draw a number."""

import re

import pytest

from ml_pipelines.report import charts

DIAMOND = {
    "prepare": frozenset[str](),
    "train": frozenset({"prepare"}),
    "evaluate": frozenset({"prepare", "train"}),
    "explain": frozenset({"prepare", "train"}),
    "judge": frozenset({"prepare", "train", "evaluate", "explain"}),
}


def bins(*shares: tuple[str, float, float]) -> list[dict[str, object]]:
    return [dict(zip(("label", "reference", "current"), share, strict=True)) for share in shares]


def test_a_line_path_starts_at_the_origin_and_goes_up_and_to_the_right() -> None:
    assert charts.line_path([0, 0.5, 1], [0.0, 1.0, 1.0]) == "M48.0,210.0L179.0,10.0L310.0,10.0"
    assert charts.line_path([0, 0.05], [0.0, 1.0], end=0.1) == "M48.0,210.0L179.0,10.0"


def test_a_value_beyond_an_axis_is_drawn_at_its_end() -> None:
    assert (charts.x_of(-1), charts.x_of(2), charts.y_of(2)) == (charts.LEFT, charts.RIGHT, charts.TOP)


def test_nearest_y_returns_the_value_of_the_nearest_point() -> None:
    assert charts.nearest_y(0.24, [0, 0.2, 0.3, 1], [0.0, 0.4, 0.6, 1.0]) == 0.4


def test_the_axis_range_just_covers_all_intervals() -> None:
    assert charts.axis_range([0.861, None, 0.832], [0.921, None, 0.862]) == pytest.approx((0.8, 0.95))
    assert charts.axis_range([0.9], [0.9]) == pytest.approx((0.9, 0.95))
    assert charts.axis_range([None], [None]) == (0, 1)
    assert charts.axis_range([52.1, 61.0], [58.3, 66.4]) == (50, 70)
    assert charts.axis_range([0.00012], [0.00014]) == pytest.approx((0.00012, 0.000145), abs=6e-6)
    assert charts.axis_range([56_970.1], [56_970.1]) == (55_000, 60_000)


def test_the_area_of_a_decile_s_bar_is_its_share() -> None:
    bars = charts.histogram(
        bins(
            ("up to 1", 0.2, 0.1),
            ("1 to 2", 0.2, 0.3),
            ("2 to 6", 0.4, 0.4),
            ("above 6", 0.2, 0.2),
            ("(missing)", 0, 0),
        )
    )
    widths = [bar.width / bars[1].width for bar in bars]
    assert widths == pytest.approx([charts.OUTER, 1, 4, 4 * charts.OUTER])
    assert sum(bar.width for bar in bars) == pytest.approx(1)
    areas = [bar.width * bar.reference for bar in bars]
    assert [area / areas[0] for area in areas] == pytest.approx([1, 1, 2, 1])
    assert max(bar.current for bar in bars) == 1  # 0.3 on the narrowest bin


@pytest.mark.parametrize(
    "labels", [("0", "1", "7"), ("up to 3", "3 to 3", "above 3"), ("up to 3", "above 3", "(other)")]
)
def test_bins_without_edges_have_equal_widths(labels: tuple[str, ...]) -> None:
    bars = charts.histogram(bins(*((label, 0.25, 0.5) for label in labels)))
    assert [bar.width for bar in bars] == pytest.approx([1 / 3] * 3)
    assert [(bar.reference, bar.current) for bar in bars] == [(0.5, 1)] * 3


def test_a_column_without_values_has_no_bars() -> None:
    assert charts.histogram(bins(("(missing)", 1, 1))) == []
    assert charts.histogram(bins(("0", 0, 0))) == [charts.Bar(0, 1, 0, 0)]


def test_a_step_is_drawn_below_its_upstream_steps_and_beside_its_siblings() -> None:
    boxes = charts.boxes(DIAMOND)
    assert boxes["prepare"].y < boxes["train"].y < boxes["evaluate"].y == boxes["explain"].y < boxes["judge"].y
    assert boxes["evaluate"].x + boxes["evaluate"].width < boxes["explain"].x
    assert all(box.x >= 0 and box.x + box.width <= charts.GRAPH_WIDTH for box in boxes.values())


def test_many_siblings_share_the_width() -> None:
    boxes = charts.boxes({f"s{i}": frozenset() for i in range(9)})
    assert max(box.x + box.width for box in boxes.values()) <= charts.GRAPH_WIDTH + 1e-9
    assert len({box.x for box in boxes.values()}) == 9


def test_arrows_leave_out_the_edges_that_follow_from_others() -> None:
    paths, boxes = charts.arrows(DIAMOND), charts.boxes(DIAMOND)
    assert len(paths) == 5  # prepare to evaluate, for example, follows from two others
    ends = [re.fullmatch(r"M\S+,(\S+)C.* \S+,(\S+)", path).groups() for path in paths]  # type: ignore[union-attr]
    assert ends[0] == (str(boxes["prepare"].y + charts.BOX_HEIGHT), str(boxes["train"].y))
