"""Paths: the project's root, its configuration, the local store, and names that are safe in paths."""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from functools import cache
from importlib import resources
from pathlib import Path
from urllib.parse import unquote, urlsplit

from ml_pipelines.errors import ConfigError

SOCKET_BYTES = 107  # the longest path that a Unix socket can have (unix(7))


@cache
def code() -> Path:
    """Return the folder that contains the packages ml_pipelines and steps."""
    return Path(__file__).resolve().parents[2]


@cache
def checkout() -> Path | None:
    """Return the folder of MLproject (a checkout or an unpacked archive), or None if only the wheel is installed."""
    return code() if (code() / "MLproject").is_file() else None


@cache
def root() -> Path:
    """Return the folder that relative paths start from: the checkout, or else the working directory."""
    return checkout() or Path.cwd()


def conf() -> Path:
    """Return the folder of the configuration files: in the wheel if it is installed, otherwise in the checkout."""
    packed = Path(str(resources.files("ml_pipelines") / "conf"))
    return packed if packed.is_dir() else root() / "conf"


def sqlite_uri() -> str:
    """Return the default tracking URI: mlflow.db beside MLproject. In that folder, `mlflow ui` opens it by default."""
    return f"sqlite:///{root() / 'mlflow.db'}"


def sqlite_file(uri: str) -> Path:
    """Return the path of the file that a sqlite URI names, without the URI's options."""
    return Path(uri.removeprefix("sqlite:///").partition("?")[0])


def local_path(uri: str) -> Path | None:
    """Return the path that a `file:` URI or an absolute path names, or None for the URI of another place."""
    if uri.startswith("file:"):
        return Path(unquote(urlsplit(uri).path))
    return Path(uri) if uri.startswith("/") else None


def absolute_uri(uri: str) -> str:
    """Return the tracking URI with an absolute sqlite path, so that it works from any working directory."""
    path = re.fullmatch(r"sqlite:///(?!/)(?!:memory:)([^?]+)(\?.*)?", uri)
    return f"sqlite:///{Path(path[1]).resolve()}{path[2] or ''}" if path else uri


def slug(name: str) -> str:
    """Return `name` as one part of a path that every reader of Delta tables understands.

    Deltalake and Polars fail on blanks, `#`, `?`, `%`, braces and non-ASCII, and `..` would mean the folder above.
    A changed name gets eight digits of its SHA-256 at its end, so that two names never share a path. For the same
    reason, a name that already looks as if it had these digits gets eight more.
    """
    safe = re.sub(r"[^A-Za-z0-9_.-]+", "_", name).strip("._-")[:80]
    if safe and safe == name and not re.search(r"-[0-9a-f]{8}$", name):
        return safe
    return f"{safe or 'x'}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def socket_folder(room: int) -> Path:
    """Return the temporary folder, or /tmp or /var/tmp if the temporary folder's path is too long for a socket.

    Args:
        room: the bytes that the socket's path needs below the folder.

    Raises:
        ConfigError: each of these folders has a path that is too long, or is not writable.
    """
    default = tempfile.gettempdir()
    for place in (default, "/tmp", "/var/tmp"):  # noqa: S108  # callers use mkdtemp: only this user can open its folder
        if len(os.fsencode(place)) + room <= SOCKET_BYTES and os.access(place, os.W_OK | os.X_OK):
            return Path(place)
    raise ConfigError(
        f"TMPDIR: {default} is too long for a socket. Use a folder of at most {SOCKET_BYTES - room} bytes."
    )


def check_writable(folder: str, what: str) -> None:
    """Check that a local folder can be written or created. Paths that are not local are not checked.

    Args:
        folder: a path or a URI.
        what: the setting or the purpose of the folder, for the message.

    Raises:
        ConfigError: the folder can't be written.
    """
    path = Path(folder.removeprefix("file://"))
    if not path.is_absolute():
        return
    existing = next(parent for parent in (path, *path.parents) if parent.exists())
    if not (existing.is_dir() and os.access(existing, os.W_OK | os.X_OK)):
        raise ConfigError(
            f"{what}: {folder} can't be written: {existing} is read-only or not a folder. Choose another folder."
        )
