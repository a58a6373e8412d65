"""Makes Python import the project's own modules first, and speeds up large imports."""

from __future__ import annotations

import gc
import importlib
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from ml_pipelines.system import paths


def put_project_first() -> None:
    """Make Python search the checkout first, because other folders of PYTHONPATH can have a package `steps` too.

    This does nothing for an installed wheel. The wheel's folder holds all installed packages, and must stay behind the
    standard library.
    """
    checkout = paths.checkout()
    if checkout and sys.path[:1] != [str(checkout)]:
        sys.path.insert(0, str(checkout))


def environment_of_child() -> dict[str, str]:
    """Return the environment for a new Python process that imports from the same folders as this process."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "PYTHONSAFEPATH": "1"}


@contextmanager
def many_at_once() -> Iterator[None]:
    """Speed up large imports inside the block: `import mlflow` takes a quarter less time.

    The garbage collector is off, because it would scan the new modules again and again. After the block, it still
    ignores these objects.
    """
    gc.disable()
    # Import this package first, which saves 0.6 s. `import mlflow` would import it deep inside other imports. There,
    # each call in one of its loops can cross the end of a block of CPython's stack of frames. Then CPython maps memory
    # for the call and unmaps it again.
    with suppress(ImportError):
        importlib.import_module("charset_normalizer")
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
