"""The library that driver.py and the steps use. docs/development.md shows which package may import which.

A notebook imports `last_run` from here (docs/notebooks.md). It is loaded when it is first used, so that an import of
`ml_pipelines` stays fast.
"""

import importlib
from typing import Any

# Not an import statement: the code of each step contains this module, and would then contain all of the report's.
_LAZY = {"last_run": "ml_pipelines.report.last_run"}


def __getattr__(name: str) -> Any:
    """Return a function of `_LAZY`, and load its module."""
    if name not in _LAZY:
        raise AttributeError(f"module {__name__} has no attribute {name}")
    return getattr(importlib.import_module(_LAZY[name]), name)
