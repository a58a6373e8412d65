"""Text for people: what comes from data, from settings or from a store is escaped and cut before a message shows it."""

from __future__ import annotations

from collections.abc import Collection

SHOWN = 80  # the most characters that a message quotes of a value
LISTED = 10  # the most values that a message lists


def escaped(text: str, keep: str = "") -> str:
    r"""Return the text with an escape for each character that can't be seen: `\x1b`, `\u200b`, `\xa0`.

    A terminal would obey control characters, and two words that look the same could differ in an invisible one.

    Args:
        text: any text.
        keep: characters that are not escaped, for example line ends.
    """
    return text if text.isprintable() else "".join(char if char in keep else _visible(char) for char in text)


def shown(value: object, limit: int = SHOWN) -> str:
    r"""Return a value as a message shows it without quotes: escaped, and at most `limit` characters of it."""
    return _cut(str(value), limit, "")


def quoted(value: object, limit: int = SHOWN) -> str:
    r"""Return a value as a message quotes it: text like `'yes\u200b'`, other values as Python writes them.

    It is escaped, and has at most `limit` characters between its quotes.
    """
    if not isinstance(value, str):
        return shown(repr(value), limit)
    quote = '"' if "'" in value and '"' not in value else "'"
    return f"{quote}{_cut(value, limit, chr(92) + quote)}{quote}"


def listed(values: Collection[object], most: int = LISTED) -> str:
    """Return the values with commas between them, the first `most` of them: `a, b and 1,400 more`."""
    names = [shown(value) for value, _ in zip(values, range(most), strict=False)]
    rest = len(values) - len(names)
    return ", ".join(names) + (f" and {rest:,} more" if rest else "")


def _cut(text: str, limit: int, escape: str) -> str:
    """Return the text escaped, with at most `limit` characters. An escape is never cut in two."""
    pieces = [f"\\{char}" if char in escape else _visible(char) for char in text[: limit + 1]]
    if len(text) <= limit and sum(map(len, pieces)) <= limit:
        return "".join(pieces)
    while sum(map(len, pieces)) > limit - 3:
        pieces.pop()
    return "".join(pieces) + "..."


def _visible(char: str) -> str:
    return char if char.isprintable() else repr(char)[1:-1]
