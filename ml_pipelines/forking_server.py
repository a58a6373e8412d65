"""Imported by the fork server, where it begins: dies with its driver, and imports on while nobody asks for a child.

The first step is Spark's, and needs no scikit-learn: the server answers as soon as `FIRST` is there, and imports
`LATER` between requests. A child that comes too early imports what it needs itself.
"""

from __future__ import annotations

import contextlib
import importlib
import selectors
from typing import Any, ClassVar

from ml_pipelines.forking import die_with_parent

FIRST = (
    "mlflow.store.tracking.sqlalchemy_store",
    "mlflow.data.meta_dataset",
    "deltalake",
    "pyspark.sql.connect.session",
    "pysail.spark",
    "ml_pipelines.execution",
)
LATER = (  # in small pieces, since a request waits for the one that is under way
    "scipy.sparse",
    "scipy.stats",
    "scipy.optimize",
    "sklearn.utils",
    "sklearn.metrics",
    "sklearn.linear_model",
    "sklearn.ensemble",
    "sklearn.compose",
    "sklearn.pipeline",
    "sklearn.datasets",
    "sklearn.inspection",
    "sklearn.neural_network",
    "sklearn.gaussian_process",
    "sklearn.cluster",
    "sklearn.feature_extraction.text",
    "skops.io",
    "mlflow.sklearn",
    "matplotlib.figure",
    "matplotlib.backends.backend_agg",
    "sklearn.calibration",
)


class ImportingSelector(selectors.DefaultSelector):
    """A selector that, rather than wait idly, imports."""

    _later: ClassVar = list(LATER)

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Return what is ready; while there is nothing, import the next module."""
        while self._later:
            if ready := super().select(0):
                return ready
            _import(self._later.pop(0))
        return super().select(timeout)


def _import(name: str) -> Any:
    with contextlib.suppress(ImportError):  # whoever needs it will say so
        return importlib.import_module(name)


die_with_parent()
for _name in FIRST:
    _import(_name)
selectors.DefaultSelector = ImportingSelector  # type: ignore[misc]  # multiprocessing.forkserver asks for it next
