"""Imports: the project's own modules come first, and the garbage collector waits."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from ml_pipelines.system import paths


def put_project_first() -> None:
    """Import from the checkout before any other folder, for example one of PYTHONPATH with a package `steps`.

    A wheel's folder holds all installed packages. It stays where it is, behind the standard library.
    """
    checkout = paths.checkout()
    if checkout and sys.path[:1] != [str(checkout)]:
        sys.path.insert(0, str(checkout))


@contextmanager
def without_garbage_collection() -> Iterator[None]:
    """Turn the garbage collector off inside the block, which makes `import mlflow` a quarter faster.

    It would scan the new modules again and again. After the block, it never scans the objects that exist by then.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
