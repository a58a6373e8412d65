"""Tables as text: columns with two blanks between them, and no word cut at the end of a line."""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections.abc import Sequence
from itertools import zip_longest

NARROWEST = 16  # the fewest characters that the last column gets


def terminal_width() -> int | None:
    """Return the width of the terminal, or None if the output goes into a file or a pipe, where lines may be long."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def lines_of(rows: Sequence[Sequence[str]], width: int | None, indent: str = "") -> list[str]:
    """Return the rows as lines. If they are wider than `width`, the cells of the last column get several lines.

    Args:
        rows: the cells of each row. All rows have the same number of cells, at least one.
        width: the most characters of a line; None: no limit. A longer word still stays in one piece.
        indent: what each line begins with.
    """
    widths = [max(map(len, column)) for column in list(zip(*rows, strict=True))[:-1]]
    left = len(indent) + sum(size + 2 for size in widths)
    lines = []
    for *cells, last in rows:
        pieces = _wrapped(last, max(NARROWEST, width - left)) if width else [last]
        for parts in zip_longest(*([cell] for cell in cells), pieces, fillvalue=""):
            padded = [part.ljust(size) for part, size in zip(parts, [*widths, 0], strict=True)]
            lines.append((indent + "  ".join(padded)).rstrip())
    return lines


def _wrapped(text: str, width: int) -> list[str]:
    return textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False) or [""]
