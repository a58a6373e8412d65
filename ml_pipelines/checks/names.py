"""Names of columns and slices in texts for people."""

from __future__ import annotations

SHOWN = 60  # characters of a name


def brief(name: str) -> str:
    """Return the name, cut if it is long. A cell or a column name can have thousands of characters."""
    return name if len(name) <= SHOWN else f"{name[: SHOWN - 3]}..."
