"""Code that the fork server runs at its start. It makes the server end with its driver, and import while it is idle.

The server imports the modules of the first steps before it answers (fork_server.start), and other modules between
requests. A child that starts earlier imports its modules itself.
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

from ml_pipelines.backends.fork_server import FITTING, SPARK, die_with_parent
from ml_pipelines.system import observed
from ml_pipelines.system.processes import SHARE_CHANGED

QUICK_S = 0.3  # idle seconds before the server imports again, so that a quick step does not wait for an import


class ImportingSelector(selectors.DefaultSelector):
    """A selector that uses idle time to open the store and to import modules that the next child may need."""

    _preparations: ClassVar[Iterator[Callable[[], object]]]
    _had_request: ClassVar = False
    _store_is_open: ClassVar = False

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Return the ready requests. While no request is ready, open the store and import one module after another."""
        cls = type(self)
        patience_s = QUICK_S if cls._store_is_open else 0
        while not (ready := super().select(patience_s)):
            patience_s = 0
            if cls._had_request and not cls._store_is_open:  # the driver creates the store before it sends a request
                cls._store_is_open = True
                _open_store()
            elif prepare := next(cls._preparations, None):
                prepare()
            else:
                ready = super().select(timeout)
                break
        cls._had_request = True
        return ready


def _import(name: str) -> Any:
    with contextlib.suppress(ImportError):  # the step that needs the module reports it
        return importlib.import_module(name)


def _open_store() -> None:
    """Check the schema of a sqlite store and compile the usual queries, and close all connections again."""
    from mlflow import MlflowClient
    from mlflow.tracking._tracking_service.utils import _get_store

    uri = os.environ.get("MLFLOW_TRACKING_URI", "")
    if uri.startswith("sqlite:"):
        with contextlib.suppress(Exception):  # the child will report the error
            MlflowClient(uri).search_runs(["0"], "tags.step = 'none'", max_results=1)
            _get_store(uri).engine.dispose()


def _map_packages() -> None:
    """Let MLflow list the installed packages now (0.3 s). It needs the list later, to check a model's requirements."""
    from mlflow.utils import requirements_utils

    with contextlib.suppress(AttributeError):  # a private function: another version of MLflow may not have it
        requirements_utils._init_packages_to_modules_map()


die_with_parent()
observed.start()  # a child imports the steps when it gets its configuration
signal.signal(SHARE_CHANGED, signal.SIG_IGN)  # for a child that has not set its handler yet
gc.disable()  # the imports make half a million objects that stay; a child turns collection on again
ImportingSelector._preparations = iter([*(partial(_import, name) for name in (*SPARK, *FITTING)), _map_packages])
selectors.DefaultSelector = ImportingSelector  # type: ignore[misc]  # multiprocessing.forkserver uses it next
