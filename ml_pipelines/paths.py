"""Where things are: the project's root, the local store, and the path of a table."""

from __future__ import annotations

import hashlib
import os
import re
from functools import cache
from importlib import resources
from pathlib import Path

from ml_pipelines.errors import ConfigError


@cache
def code() -> Path:
    """Return the folder that the packages ml_pipelines and steps stand in."""
    return Path(__file__).resolve().parents[1]


@cache
def checkout() -> Path | None:
    """Return the folder of MLproject, a checkout or an unpacked project; None where the wheel is installed alone."""
    return code() if (code() / "MLproject").is_file() else None


@cache
def root() -> Path:
    """Return the folder that relative paths are taken from: the checkout, else the working directory."""
    return checkout() or Path.cwd()


def conf() -> Path:
    """Return the folder of the configuration: the wheel's own, else the checkout's."""
    packed = Path(str(resources.files("ml_pipelines") / "conf"))
    return packed if packed.is_dir() else root() / "conf"


def sqlite_uri() -> str:
    """Return the default tracking URI: the same file that a bare `mlflow ui` opens beside MLproject."""
    return f"sqlite:///{root() / 'mlflow.db'}"


def absolute_uri(uri: str) -> str:
    """Return a tracking URI that means the same from any working directory: a relative sqlite path made absolute."""
    path = re.fullmatch(r"sqlite:///(?!/)(?!:memory:)([^?]+)(\?.*)?", uri)
    return f"sqlite:///{Path(path[1]).resolve()}{path[2] or ''}" if path else uri


def slug(name: str) -> str:
    """Return `name` as one part of a path that every reader of Delta tables understands.

    Deltalake and Polars fail on blanks, `#`, `?`, `%`, braces and non-ASCII, and `..` would climb. A name
    that had to change, or looks as if it had, gets eight digits of its SHA-256, so that two names never share a path.
    """
    safe = re.sub(r"[^A-Za-z0-9_.-]+", "_", name).strip("._-")[:80]
    if safe and safe == name and not re.search(r"-[0-9a-f]{8}$", name):
        return safe
    return f"{safe or 'x'}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def absolute(prefix: str) -> str:
    """Return a prefix of tables as a URI or an absolute path, without a slash at its end."""
    return (prefix if "://" in prefix else str(root() / prefix)).rstrip("/")


def check_writable(folder: str, what: str) -> None:
    """Check that a local folder can be written, or made; anything that isn't a local path is left to whoever writes.

    Raises:
        ConfigError: it can't.
    """
    path = Path(folder.removeprefix("file://"))
    if not path.is_absolute():
        return
    there = next(parent for parent in (path, *path.parents) if parent.exists())
    if not (there.is_dir() and os.access(there, os.W_OK | os.X_OK)):
        raise ConfigError(f"{what}: {folder} can't be written: {there} is read-only, or no folder. Choose another.")


def table_path(prefix: str, parts: list[str], step_name: str, run_id: str, dataset: str) -> str:
    """Return `<prefix>/<parts...>/<step_name>_<run_id8>/<dataset>`, each part slugged.

    The run's id parts two writers of the same table: two that create one path at once would mix their rows.

    Raises:
        ConfigError: the prefix itself is one that readers of Delta tables fail on.
    """
    base = absolute(prefix)
    if not re.fullmatch(r"[A-Za-z0-9_./:@+=~-]+", base):
        raise ConfigError(
            f"data.delta_prefix: tables can't stand below {base!r}: only letters, digits and _ . - / : @ + = "
            "are read back by every engine. Set data.delta_prefix.local to a folder without others."
        )
    return "/".join([base, *map(slug, parts), f"{slug(step_name)}_{run_id[:8]}", slug(dataset)])
