"""Locations of tables and source files: a local folder, a Volume, an object store."""

from __future__ import annotations

import os
import posixpath
import re
from pathlib import Path
from urllib.parse import unquote

from ml_pipelines.config.schema import Source
from ml_pipelines.errors import BadData, ConfigError
from ml_pipelines.system import paths
from ml_pipelines.text import quoted


def absolute_prefix(prefix: str) -> str:
    """Return a table prefix as a URI or an absolute path, without a trailing slash."""
    return (prefix if "://" in prefix else str(paths.root() / prefix)).rstrip("/")


def canonical(uri: str) -> str:
    """Return a path or URI without `..`, symbolic links and percent-encoding, so that two of them can be compared."""
    scheme, separator, rest = uri.partition("://")
    if separator and scheme != "file":
        authority, _, path = rest.partition("/")
        path = posixpath.normpath("/" + unquote(path).replace("\\", "/").lstrip("/"))
        return f"{scheme}://{authority}{path}".rstrip("/")
    local = unquote(rest) if separator else uri
    return os.path.realpath(local) if "\0" not in local else local


def is_below(uri: str, prefix: str) -> bool:
    """Return whether a path or URI is below `prefix` after both are resolved: `<prefix>/../other` is not."""
    return canonical(uri).startswith(f"{canonical(prefix).rstrip('/')}/")


def table_path(prefix: str, parts: list[str], step_name: str, run_id: str, dataset: str) -> str:
    """Return `<prefix>/<parts...>/<step_name>_<run_id8>/<dataset>`. Each part is a slug.

    The path contains the run's id. Otherwise two runs could write to the same path at once, and mix their rows.

    Raises:
        ConfigError: the prefix has a character that some readers of Delta tables can't handle.
    """
    base = absolute_prefix(prefix)
    if not re.fullmatch(r"[A-Za-z0-9_./:@+=~-]+", base):
        raise ConfigError(
            f"data.delta_prefix: not every engine can read tables below {quoted(base)}. "
            "Set data.delta_prefix.local to a path with only letters, digits and these signs: _ . - / : @ + = ~"
        )
    return "/".join([base, *map(paths.slug, parts), f"{paths.slug(step_name)}_{run_id[:8]}", paths.slug(dataset)])


def locate_source(source: Source) -> tuple[str, Path | None]:
    """Return the path or URI of a file source for Spark, and its local path (None if it is not on this machine).

    Raises:
        BadData: a local path doesn't exist, is empty, or has characters that Spark reads as a pattern.
    """
    path = str(source.path)
    is_uri = "://" in path and not path.startswith("file://")
    is_remote_volume = path.startswith("/Volumes/") and not Path("/Volumes").is_dir()  # seen from outside a cluster
    if is_uri or is_remote_volume:
        return path, None
    local = paths.root() / Path(path.removeprefix("file://")).expanduser()
    if not local.exists():
        raise BadData(
            f"data.source.path: {local} does not exist. Correct the path. A relative path starts at {paths.root()}."
        )
    if not any(local.iterdir()) if local.is_dir() else local.stat().st_size == 0:
        raise BadData(f"data.source.path: {local} is empty.")
    if re.search(r"[*?\[\]{}]", str(local)):
        raise BadData(
            f"data.source.path: Spark reads * ? [ ] {{ }} in {local} as a pattern. Rename the file or folder."
        )
    return str(local), local


def data_files(local: Path) -> list[Path]:
    """Return the files that a reader of the source reads, sorted.

    From a folder, Spark reads no file whose name, or whose folder's name, begins with `.` or `_`, such as _SUCCESS.
    It reads folders like _year=2026, which hold the values of a column, and follows symbolic links.

    Raises:
        BadData: the folder has no such file.
    """
    if not local.is_dir():
        return [local]
    files = []
    for folder, folders, names in os.walk(local, followlinks=True):
        folders[:] = [name for name in folders if _is_read(name) and not _is_loop(Path(folder, name))]
        files += [Path(folder, name) for name in names if _is_read(name) and Path(folder, name).is_file()]
    if not files:
        raise BadData(
            f"data.source.path: the folder {local} has no data files. Names with _ or . in front don't count."
        )
    return sorted(files)


def _is_read(name: str) -> bool:
    return not (name.startswith(".") or (name.startswith("_") and "=" not in name) or name.endswith("._COPYING_"))


def _is_loop(folder: Path) -> bool:
    above = folder.parent.resolve()
    return folder.is_symlink() and folder.resolve() in (above, *above.parents)


def is_readable(uri: str) -> bool:
    """Return whether this machine can read the table. Only a cluster can read a table on a Volume."""
    return not uri.startswith("/Volumes/") or Path(uri).exists()
