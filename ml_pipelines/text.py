"""Text for people: what comes from data, from settings or from a store is escaped and cut before a message shows it.

The same functions hide secrets, so whatever they return can be shown and logged.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any
from urllib.parse import unquote

SHOWN = 80  # the most characters that a message quotes of a value
LISTED = 10  # the most values that a message lists
HIDDEN = "***"  # what stands in the place of a secret
SHORTEST = 4  # shorter secrets are not hidden: words of a message may contain them by chance
# Where addresses keep credentials: //user:password@, http://token@, ;token=...
_CREDENTIALS = re.compile(
    r"""(?ix) (?<=://)(?P<user>[^/\s:@'"]*):(?P<password>[^/\s'"]+)(?=@)
    | (?<=http://|ttps://)(?P<login>[^/\s:@'"]+)(?=@)
    | (?P<name>[;?&][\w-]*(?:password|passwd|pwd|token|secret|signature|sig|access_?key|api_?key|credential)=)
      (?P<value>[^;&\s'"]+)"""
)
_secrets: set[str] = set()


def hide(secrets: Iterable[str]) -> None:
    """Hide these texts, and their percent-decoded forms, in everything that this process shows or logs."""
    texts = {text for secret in secrets for text in (secret, unquote(secret))}
    _secrets.update(text for text in texts if len(text) >= SHORTEST and text != HIDDEN)


def credentials(text: str) -> list[str]:
    """Return the passwords and tokens of all addresses in a text."""
    return [match["password"] or match["login"] or match["value"] for match in _CREDENTIALS.finditer(text)]


def redacted(text: str, distinct: bool = False) -> str:
    """Return the text with `***` for each secret: a hidden text, or a credential in an address.

    Args:
        text: any text.
        distinct: add eight digits of a hidden text's SHA-256, so that a reader can tell two hidden texts apart. A
            credential in an address gets no digits, because a new password leads to the same data.
    """
    text = _CREDENTIALS.sub(_mask, text) if "://" in text or "=" in text else text
    for secret in sorted(_secrets, key=len, reverse=True) if _secrets else ():
        if secret in text:
            digits = hashlib.sha256(secret.encode(errors="surrogatepass")).hexdigest()[:8] if distinct else ""
            text = text.replace(secret, f"{HIDDEN}{digits}")
    return text


def without_secrets(value: Any, distinct: bool = False) -> Any:
    """Return a JSON value with each text changed by `redacted`. The keys of mappings stay as they are."""
    if isinstance(value, str):
        return redacted(value, distinct)
    if isinstance(value, Mapping):
        return {key: without_secrets(item, distinct) for key, item in value.items()}
    return [without_secrets(item, distinct) for item in value] if isinstance(value, list | tuple) else value


def _mask(match: re.Match[str]) -> str:
    user = f"{match['user']}:" if match["password"] else ""
    return f"{user}{match['name'] or ''}{HIDDEN}"


def escaped(text: str, keep: str = "") -> str:
    r"""Return the text without secrets, and with an escape for each invisible character: `\x1b`, `\u200b`, `\xa0`.

    A terminal would obey control characters, and two words that look the same could differ in an invisible character.

    Args:
        text: any text.
        keep: characters that are not escaped, for example line ends.
    """
    text = redacted(text)
    return text if text.isprintable() else "".join(char if char in keep else _visible(char) for char in text)


def shown(value: object, limit: int = SHOWN) -> str:
    r"""Return a value as a message shows it without quotes: escaped, and at most `limit` characters of it."""
    return _cut(str(value), limit, "")


def quoted(value: object, limit: int = SHOWN) -> str:
    r"""Return a value as a message quotes it: text like `'yes\u200b'`, other values as Python writes them.

    Text is escaped, and has at most `limit` characters between its quotes.
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


def did_you_mean(value: object, known: Iterable[str]) -> str:
    """Return ` Did you mean train?` with the name in `known` that is nearest to `value`, or "" if none is near."""
    from difflib import get_close_matches

    near = get_close_matches(str(value), list(known), 1)
    return f" Did you mean {shown(near[0])}?" if near else ""


def _cut(text: str, limit: int, escape: str) -> str:
    """Return the text escaped, with at most `limit` characters. An escape is never cut in two."""
    text = redacted(text)
    pieces = [f"\\{char}" if char in escape else _visible(char) for char in text[: limit + 1]]
    if len(text) <= limit and sum(map(len, pieces)) <= limit:
        return "".join(pieces)
    while sum(map(len, pieces)) > limit - 3:
        pieces.pop()
    return "".join(pieces) + "..."


def _visible(char: str) -> str:
    return char if char.isprintable() else repr(char)[1:-1]
