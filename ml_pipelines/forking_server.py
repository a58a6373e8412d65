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
import signal
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, ClassVar

from ml_pipelines.forking import FITTING, SHARE_CHANGED, SPARK, die_with_parent

QUICK_S = 0.3  # steps that take less need little, and would wait for an import more often than make use of it


class ImportingSelector(selectors.DefaultSelector):
    """A selector that, rather than wait idly, does what the next child would otherwise have to do."""

    _later: ClassVar[Iterator[Callable[[], object]]]
    _asked: ClassVar = False
    _opened: ClassVar = False

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Return what is ready; while there is nothing, open the store, import the next module, and so on."""
        cls = type(self)
        patience_s = QUICK_S if cls._opened else 0
        while not (ready := super().select(patience_s)):
            patience_s = 0
            if cls._asked and not cls._opened:  # not before: the driver may still be creating it
                cls._opened = True
                _open_store()
            elif prepare := next(cls._later, None):
                prepare()
            else:
                ready = super().select(timeout)
                break
        cls._asked = True
        return ready


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


def _map_packages() -> None:
    """Have MLflow find out what is installed: it holds a model's requirements against that, which takes 0.3 s."""
    from mlflow.utils import requirements_utils

    with contextlib.suppress(AttributeError):  # its own affair: another version may do it otherwise
        requirements_utils._init_packages_to_modules_map()


die_with_parent()
signal.signal(SHARE_CHANGED, signal.SIG_IGN)  # a child that isn't ready for it yet
gc.disable()  # while half a million objects are made that stay; a child turns it on again
ImportingSelector._later = iter([*(partial(_import, name) for name in (*SPARK, *FITTING)), _map_packages])
selectors.DefaultSelector = ImportingSelector  # type: ignore[misc]  # multiprocessing.forkserver asks for it next
