"""What identifies the content of a source. A step's fingerprint and the id of a scored batch are made from it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

from ml_pipelines.config.schema import FileFormat, Source, SourceKind
from ml_pipelines.data import locations, sources, tables
from ml_pipelines.data.files import delta_files

DigestOf = Callable[[Path], str]  # returns the SHA-256 of a file


def content_of(source: Source, digest_of: DigestOf) -> str:
    """Return what identifies the source: its settings without its path, and a digest of its content."""
    if source.kind is SourceKind.synthetic:
        return f"synthetic {source.rows} x {source.features}"
    if source.kind is SourceKind.sample:
        return f"sample {source.name.value}"
    if source.kind is SourceKind.table:
        return f"table {source.table} at {'an unknown version' if source.version is None else source.version}"
    uri, local = locations.locate_source(source)
    kind = sources.file_format(source)
    if local is None:
        return f"{uri}, unknown content"
    if kind is FileFormat.delta:
        delta_files.check_files_exist(local, source.version)
        return f"delta {tables.files_digest(uri, source.version, digest_of)}"
    reading = f"{source.separator} {source.encoding} {source.escape}" if kind is FileFormat.csv else ""
    return f"{kind.value} {reading} {_files_digest(local, digest_of)}"


def is_known(source: Source) -> bool:
    """Return whether the source's content can be identified without Spark.

    This is possible for synthetic data, a table of scikit-learn, a local file, and a catalog's table at a fixed
    version.
    """
    if source.kind is SourceKind.table:
        return source.version is not None
    return source.kind is not SourceKind.file or locations.locate_source(source)[1] is not None


def _files_digest(local: Path, digest_of: DigestOf) -> str:
    """Return a digest of the source's files: their contents, and their paths relative to the source.

    The paths matter because a folder's name can hold a column's value (`code=2A`). A single file's name doesn't matter.
    """
    files = locations.data_files(local)
    if len(files) == 1 and files[0].parent in (local, local.parent):
        return digest_of(files[0])
    listed = [(file.relative_to(local).as_posix(), digest_of(file)) for file in files]
    return hashlib.sha256(json.dumps(listed).encode()).hexdigest()
