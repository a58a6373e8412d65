"""Imported by the fork server, where it begins: dies with its driver, and imports on while nobody asks for a child.

What the first steps need is imported before the server answers (forking.start), the rest between requests. A child
that comes too early imports what it needs itself.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import selectors
from collections.abc import Iterator
from typing import Any, ClassVar

from ml_pipelines.forking import FITTING, SPARK, die_with_parent


class ImportingSelector(selectors.DefaultSelector):
    """A selector that, rather than wait idly, does what the next child would otherwise have to do."""

    _later: ClassVar[Iterator[str]]
    _asked: ClassVar = False
    _opened: ClassVar = False

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Return what is ready; while there is nothing, open the store, or import the next module."""
        cls = type(self)
        while not (ready := super().select(0)):
            if cls._asked and not cls._opened:  # not before: the driver may still be creating it
                cls._opened = True
                _open_store()
            elif name := next(cls._later, None):
                _import(name)
            else:
                ready = super().select(timeout)
                break
        cls._asked = True
        return ready


def _pieces() -> Iterator[str]:
    """Yield what to import, in small pieces: a request waits for the one that is under way."""
    for name in (*SPARK, *FITTING):
        if name == "skops.io":
            import sklearn

            yield from (f"sklearn.{part}" for part in sklearn.__all__)
        yield name


def _import(name: str) -> Any:
    with contextlib.suppress(ImportError):  # whoever needs it will say so
        return importlib.import_module(name)


def _open_store() -> None:
    """Verify the schema of a sqlite store and compile the usual queries once; no connection is left to a child."""
    from mlflow import MlflowClient
    from mlflow.tracking._tracking_service.utils import _get_store

    uri = os.environ.get("MLFLOW_TRACKING_URI", "")
    if uri.startswith("sqlite:"):
        with contextlib.suppress(Exception):  # the child will say what is wrong with it
            MlflowClient(uri).search_runs(["0"], "tags.step = 'none'", max_results=1)
            _get_store(uri).engine.dispose()


die_with_parent()
gc.disable()  # while half a million objects are made that stay; a child turns it on again
ImportingSelector._later = _pieces()
selectors.DefaultSelector = ImportingSelector  # type: ignore[misc]  # multiprocessing.forkserver asks for it next
