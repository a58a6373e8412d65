"""Where the report's drawings put a number."""

import re

import pytest

from ml_pipelines import charts

DIAMOND = {
    "prepare": frozenset[str](),
    "train": frozenset({"prepare"}),
    "evaluate": frozenset({"prepare", "train"}),
    "explain": frozenset({"prepare", "train"}),
    "judge": frozenset({"prepare", "train", "evaluate", "explain"}),
}


def bins(*shares: tuple[str, float, float]) -> list[dict[str, object]]:
    return [dict(zip(("label", "reference", "current"), share, strict=True)) for share in shares]


def test_a_line_goes_from_the_origin_up_and_to_the_right() -> None:
    assert charts.line([0, 0.5, 1], [0.0, 1.0, 1.0]) == "M48.0,210.0L179.0,10.0L310.0,10.0"
    assert charts.line([0, 0.05], [0.0, 1.0], end=0.1) == "M48.0,210.0L179.0,10.0"


def test_what_lies_beyond_an_axis_is_drawn_at_its_end() -> None:
    assert (charts.across(-1), charts.across(2), charts.up(2)) == (charts.LEFT, charts.RIGHT, charts.TOP)


def test_the_nearest_point_answers_for_a_value() -> None:
    assert charts.at(0.24, [0, 0.2, 0.3, 1], [0.0, 0.4, 0.6, 1.0]) == 0.4


def test_the_axis_of_intervals_holds_all_of_them_and_no_more_than_it_must() -> None:
    assert charts.scale([0.861, None, 0.832], [0.921, None, 0.862]) == pytest.approx((0.8, 0.95))
    assert charts.scale([0.9], [0.9]) == pytest.approx((0.9, 0.95))
    assert charts.scale([None], [None]) == (0, 1)


def test_a_decile_s_area_is_its_share() -> None:
    found = charts.histogram(
        bins(
            ("up to 1", 0.2, 0.1),
            ("1 to 2", 0.2, 0.3),
            ("2 to 6", 0.4, 0.4),
            ("above 6", 0.2, 0.2),
            ("(missing)", 0, 0),
        )
    )
    widths = [bar.width / found[1].width for bar in found]
    assert widths == pytest.approx([charts.OUTER, 1, 4, 4 * charts.OUTER])
    assert sum(bar.width for bar in found) == pytest.approx(1)
    areas = [bar.width * bar.reference for bar in found]
    assert [area / areas[0] for area in areas] == pytest.approx([1, 1, 2, 1])
    assert max(bar.current for bar in found) == 1  # 0.3 on the narrowest bin


@pytest.mark.parametrize(
    "labels", [("0", "1", "7"), ("up to 3", "3 to 3", "above 3"), ("up to 3", "above 3", "(other)")]
)
def test_bins_without_edges_are_equally_wide(labels: tuple[str, ...]) -> None:
    found = charts.histogram(bins(*((label, 0.25, 0.5) for label in labels)))
    assert [bar.width for bar in found] == pytest.approx([1 / 3] * 3)
    assert [(bar.reference, bar.current) for bar in found] == [(0.5, 1)] * 3


def test_a_column_without_values_has_no_bars() -> None:
    assert charts.histogram(bins(("(missing)", 1, 1))) == []
    assert charts.histogram(bins(("0", 0, 0))) == [charts.Bar(0, 1, 0, 0)]


def test_a_step_stands_below_what_it_needs_and_beside_its_siblings() -> None:
    found = charts.boxes(DIAMOND)
    assert found["prepare"].y < found["train"].y < found["evaluate"].y == found["explain"].y < found["judge"].y
    assert found["evaluate"].x + found["evaluate"].width < found["explain"].x
    assert all(box.x >= 0 and box.x + box.width <= charts.GRAPH_WIDTH for box in found.values())


def test_many_siblings_share_the_width() -> None:
    found = charts.boxes({f"s{i}": frozenset() for i in range(9)})
    assert max(box.x + box.width for box in found.values()) <= charts.GRAPH_WIDTH + 1e-9
    assert len({box.x for box in found.values()}) == 9


def test_arrows_are_the_needs_that_do_not_follow_from_others() -> None:
    found, placed = charts.arrows(DIAMOND), charts.boxes(DIAMOND)
    assert len(found) == 5  # prepare to evaluate, say, follows from two others
    ends = [re.fullmatch(r"M\S+,(\S+)C.* \S+,(\S+)", path).groups() for path in found]  # type: ignore[union-attr]
    assert ends[0] == (str(placed["prepare"].y + charts.BOX_HEIGHT), str(placed["train"].y))
