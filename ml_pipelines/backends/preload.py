"""Code that the fork server runs at its start. It makes the server end with driver.py, and import modules while idle.

Before the server answers the first request, it imports the modules that fork_server.start names. Between requests, it
imports the rest of SPARK and FITTING. A child that was forked before an import does the import itself.
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

# Seconds that the server waits for the next request for a child before it imports more modules. After a quick step,
# that request comes soon, and it would have to wait for the end of an import.
QUICK_S = 0.3


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
            if cls._had_request and not cls._store_is_open:  # the driver creates the store before its first request
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
    with contextlib.suppress(ImportError):  # a step that needs the module will report the error
        return importlib.import_module(name)


def _open_store() -> None:
    """Check the schema of a sqlite store and compile the usual queries for all children; then close the connections."""
    from mlflow import MlflowClient
    from mlflow.tracking._tracking_service.utils import _get_store

    uri = os.environ.get("MLFLOW_TRACKING_URI", "")
    if uri.startswith("sqlite:"):
        with contextlib.suppress(Exception):  # the child will report the error
            MlflowClient(uri).search_runs(["0"], "tags.step = 'none'", max_results=1)
            _get_store(uri).engine.dispose()


def _map_packages() -> None:
    """Let MLflow list the installed packages now (0.3 s). A child needs the list to check a model's requirements."""
    from mlflow.utils import requirements_utils

    with contextlib.suppress(AttributeError):  # other versions of MLflow may lack this private function
        requirements_utils._init_packages_to_modules_map()


die_with_parent()
observed.start()  # must come before a step is imported; a child imports its step after the fork
signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches this process too, but the driver stops the steps
signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})  # fork_server.start blocked SIGINT for this process
signal.signal(SHARE_CHANGED, signal.SIG_IGN)  # else the signal would kill a child that has no handler yet
gc.disable()  # imports make half a million objects, none of them garbage; a child enables collection again
ImportingSelector._preparations = iter([*(partial(_import, name) for name in (*SPARK, *FITTING)), _map_packages])
selectors.DefaultSelector = ImportingSelector  # type: ignore[misc]  # multiprocessing makes its selector from this name
