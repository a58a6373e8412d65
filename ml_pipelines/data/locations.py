"""Locations of tables and source files: a local folder, a Volume, an object store."""

from __future__ import annotations

import logging
import os
import posixpath
import re
from pathlib import Path
from urllib.parse import unquote

from ml_pipelines.config.schema import Config, Source, SourceKind
from ml_pipelines.errors import BadData, ConfigError, message_of
from ml_pipelines.system import paths
from ml_pipelines.text import quoted


def absolute_prefix(prefix: str) -> str:
    """Return a table prefix as a URI or an absolute path, without a trailing slash."""
    return (prefix if "://" in prefix else str(paths.root() / prefix)).rstrip("/")


def canonical(uri: str) -> str:
    """Return a path or URI without `..`, symbolic links and percent-encoding, to compare it with another."""
    scheme, separator, rest = uri.partition("://")
    if separator and scheme != "file":
        authority, _, path = rest.partition("/")
        path = posixpath.normpath("/" + unquote(path).replace("\\", "/").lstrip("/"))
        return f"{scheme}://{authority}{path}".rstrip("/")
    local = unquote(rest) if separator else uri
    return os.path.realpath(local) if "\0" not in local else local


def is_below(uri: str, prefix: str) -> bool:
    """Return whether a path or URI is below `prefix` after both are resolved: `<prefix>/../other` is not below it."""
    return canonical(uri).startswith(f"{canonical(prefix).rstrip('/')}/")


def need_network(config: Config) -> bool:
    """Return whether the source or the tables of the engine are outside the folders of this machine."""
    source = config.data.source
    uris = [config.table_prefix, str(source.path or "")]
    return source.kind is SourceKind.table or any("://" in uri and not uri.startswith("file://") for uri in uris)


def table_path(prefix: str, parts: list[str], step_name: str, run_id: str, dataset: str) -> str:
    """Return `<prefix>/<parts...>/<step_name>_<run_id8>/<dataset>`. Each part is a slug.

    The run's id in the path keeps two runs from writing to the same path at once and mixing their rows.

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


def remove_remote(uri: str) -> None:
    """Delete a folder of an object store. If that fails, write a warning that names the folder to the step's log."""
    from pyarrow import fs

    try:
        store, path = fs.FileSystem.from_uri(uri)
        store.delete_dir(path)
    except (OSError, ValueError) as error:
        logging.getLogger("steps").warning("%s can't be deleted: %s. Delete it by hand.", uri, message_of(error))


def locate_source(source: Source) -> tuple[str, Path | None]:
    """Return the path or URI of a file source for Spark, and its local path (None if it is not on this machine).

    Raises:
        BadData: a local path doesn't exist, is empty, or has characters that Spark reads as a pattern.
    """
    path = str(source.path)
    is_uri = "://" in path and not path.startswith("file://")
    is_remote_volume = path.startswith("/Volumes/") and not Path("/Volumes").is_dir()  # this machine is not a cluster
    if is_uri or is_remote_volume:
        return path, None
    local = paths.root() / Path(path.removeprefix("file://")).expanduser()
    if not local.exists():
        raise BadData(
            f"data.source.path: {local} does not exist. Correct the path. A relative path starts at {paths.root()}."
        )
    if not any(local.iterdir()) if local.is_dir() else local.stat().st_size == 0:
        raise BadData(f"data.source.path: {local} is empty.")
    if is_pattern(local):
        raise BadData(
            f"data.source.path: Spark reads * ? [ ] {{ }} in {local} as a pattern. Rename the file or folder."
        )
    return str(local), local


def is_pattern(path: Path) -> bool:
    """Return whether Spark reads a path as a pattern for several paths."""
    return re.search(r"[*?\[\]{}]", str(path)) is not None


def data_files(local: Path) -> list[Path]:
    """Return the files of a source, sorted. Readers, checks and the fingerprint all use this list.

    Files and folders whose names begin with `.` or `_`, such as _SUCCESS, are left out, as Spark does. A folder like
    _year=2026 is not left out, because its name holds the values of a column. A symbolic link must lead to a file or
    folder of the source.

    Raises:
        BadData: the source has no data file, a link leads out of it, or a folder is a Delta, Hudi or Iceberg table.
    """
    if not local.is_dir():
        if not _is_read(local.name):
            raise BadData(f"data.source.path: Spark passes over names with _ or . in front. Rename {local}.")
        return [local]
    files: dict[Path, Path] = {}  # path with its links resolved -> path in the source
    for folder, folders, names in os.walk(local, followlinks=True):
        if kind := _table_kind(Path(folder)):
            raise BadData(_table_error(local, kind, Path(folder)))
        folders[:] = [name for name in folders if _is_read(name)]
        names = [name for name in names if _is_read(name)]
        for path in (Path(folder, name) for name in [*folders, *names]):
            _check_link(path, local)
        for path in (Path(folder, name) for name in names):
            if (other := files.setdefault(path.resolve(), path)) is not path:
                raise BadData(
                    f"data.source.path: {path} and {other} are one file, and its rows would count twice. "
                    "Remove the link."
                )
    if not files:
        raise BadData(
            f"data.source.path: the folder {local} has no data files. Names with _ or . in front don't count."
        )
    return sorted(files.values())


def _is_read(name: str) -> bool:
    return not (name.startswith(".") or (name.startswith("_") and "=" not in name) or name.endswith("._COPYING_"))


def _check_link(path: Path, local: Path) -> None:
    if not path.is_symlink():
        return
    root, target = local.resolve(), path.resolve()
    if root in target.parents and target.exists() and target not in path.parent.resolve().parents:
        return
    problem = f"is not in {local}" if target.exists() else "does not exist"
    raise BadData(
        f"data.source.path: {path} is a symbolic link to {target}, which {problem}. Copy the data into the folder."
    )


def refuse_table_files(local: Path) -> None:
    """Refuse a file or folder of a Delta, Hudi or Iceberg table.

    The transaction log of such a table says which of its files hold current rows. Reading all files as plain Parquet
    would also return old rows.

    Raises:
        BadData: this folder, or a folder above it, is such a table.
    """
    resolved = local.resolve()
    for folder in (resolved, *resolved.parents):
        if kind := _table_kind(folder):
            raise BadData(_table_error(local, kind, folder))


def _table_kind(folder: Path) -> str:
    """Return Delta, Hudi or Iceberg if this folder is the root of such a table, else an empty text."""
    if (folder / "_delta_log").is_dir():
        return "Delta"
    if (folder / ".hoodie").is_dir():
        return "Hudi"
    return "Iceberg" if any(folder.glob("metadata/*.metadata.json")) else ""


def _table_error(local: Path, kind: str, table: Path) -> str:
    relation = (
        "is" if local.resolve() == table.resolve() else "has" if local.resolve() in table.resolve().parents else "is in"
    )
    advice = (
        f"Set data.source.path={table} and data.source.format=delta."
        if kind == "Delta"
        else "Read it as a table on Databricks (data.source.kind=table), or export it to Parquet or Delta."
    )
    return (
        f"data.source.path: {local} {relation} the {kind} table {table}. Its log says which files hold rows. {advice}"
    )


def is_readable(uri: str) -> bool:
    """Return whether this machine can read the table at `uri`. Only a cluster can read tables on a Volume."""
    return not uri.startswith("/Volumes/") or Path(uri).exists()
