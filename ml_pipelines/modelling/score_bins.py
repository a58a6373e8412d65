"""Counts scores in bins: evaluate records those of the test table, so that scoring can compare a batch with them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, np.dtype[Any]]

FILE = "scores.json"  # artifact of the run of evaluate
BINS = 10


@dataclass(frozen=True)
class ScoreBins:
    """How many rows have a score in each bin, and how many are predicted as each class.

    Args:
        edges: the inner edges of the bins, in rising order. A score that equals an edge is in the bin below it.
        counts: the rows in each bin; one more than `edges`.
        predicted: the rows that are predicted as each class, from class 0 on; empty if the scores are numbers.
    """

    edges: Sequence[float]
    counts: Sequence[int]
    predicted: Sequence[int]

    @classmethod
    def of(cls, score: Array, predicted: Array | None) -> ScoreBins:
        """Count the rows in ten bins of about equal size. Equal scores share a bin, so there can be fewer bins.

        Args:
            score: the score of each row, shape (rows,).
            predicted: the predicted class of each row, 0 or 1, shape (rows,); None if the scores are numbers.
        """
        import numpy as np

        tenths = np.arange(1, BINS) / BINS
        edges = np.unique(np.quantile(score, tenths, method="inverted_cdf"))  # scores that occur, so no bin is empty
        edges = edges[edges < score.max()]
        counts = np.bincount(np.searchsorted(edges, score), minlength=len(edges) + 1)
        classes = [] if predicted is None else np.bincount(predicted, minlength=2).tolist()
        return cls(edges.tolist(), counts.tolist(), classes)

    @classmethod
    def from_json(cls, content: Any) -> ScoreBins | None:
        """Return the bins from the content of scores.json, or None if the content is not valid."""
        try:
            edges, counts = [float(edge) for edge in content["edges"]], [int(count) for count in content["counts"]]
            predicted = [int(count) for count in content["predicted"]]
        except (TypeError, KeyError, ValueError):
            return None
        whole = len(counts) == len(edges) + 1 and sum(counts) > 0 and sum(predicted) == sum(counts) * bool(predicted)
        return cls(edges, counts, predicted) if whole else None


def labels(edges: Sequence[float]) -> list[str]:
    """Return a text for each bin, such as `up to 0.1`, `0.1 to 0.2`, `above 0.2`."""
    if not edges:
        return ["all scores"]
    inner = [f"{low:.4g} to {high:.4g}" for low, high in pairwise(edges)]
    return [f"up to {edges[0]:.4g}", *inner, f"above {edges[-1]:.4g}"]
