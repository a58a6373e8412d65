"""The bins of scores: tenths of the test table's scores, with equal scores in one bin."""

from dataclasses import asdict

import numpy as np
import pytest

from ml_pipelines.modelling.score_bins import ScoreBins, labels


def test_each_bin_has_a_tenth_of_the_rows() -> None:
    score = np.arange(1, 101) / 100
    bins = ScoreBins.of(score, (score >= 0.7).astype(int))
    assert bins.counts == [10] * 10
    assert bins.edges == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9])
    assert bins.predicted == [69, 31]


def test_equal_scores_are_in_one_bin_and_no_bin_is_empty() -> None:
    score = np.repeat([0.1, 0.5, 0.9], [50, 30, 20])
    bins = ScoreBins.of(score, np.zeros(100, int))
    assert (bins.edges, bins.counts, bins.predicted) == ([0.1, 0.5], [50, 30, 20], [100, 0])
    constant = ScoreBins.of(np.full(7, 0.25), np.ones(7, int))
    assert (constant.edges, constant.counts, labels(constant.edges)) == ([], [7], ["all scores"])


def test_the_bins_are_read_as_they_were_written() -> None:
    bins = ScoreBins([0.5], [3, 2], [4, 1])
    assert ScoreBins.from_json(asdict(bins)) == bins
    assert labels([0.25, 0.5]) == ["up to 0.25", "0.25 to 0.5", "above 0.5"]


@pytest.mark.parametrize(
    "content", [None, [], {}, {"edges": [0.5], "counts": [3], "predicted": [3]}, {"edges": [], "counts": "x"}]
)
def test_another_content_holds_no_bins(content: object) -> None:
    assert ScoreBins.from_json(content) is None
