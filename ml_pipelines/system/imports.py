"""Faster imports: the garbage collector would scan the new modules again and again."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def without_garbage_collection() -> Iterator[None]:
    """Turn the garbage collector off inside the block, which makes `import mlflow` a quarter faster.

    The collector never scans the objects that exist at the end of the block.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
