"""A cache for one pipeline run, so that the run reads each code file, data file and table only once.

The next pipeline run in the same process gets a new Memory, and reads everything again.
"""

from __future__ import annotations

import hashlib
from contextlib import suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from ml_pipelines.data import tables
from ml_pipelines.system import observed
from ml_pipelines.system.source_code import SourceCode


class Memory:
    """Facts about code, files and tables, each computed once."""

    def __init__(self) -> None:
        self.source_code = SourceCode()
        self.file_digest = cache(self._file_digest)
        self._states: dict[Path, tuple[int, int]] = {}
        self.installed = cache(_installed)
        self.measure = cache(tables.measure_table)
        self.observed_now = cache(lambda name: observed.digest_now(name, self.source_code))

    def verify(self, table: tables.Table) -> None:
        """Check that a table still has the content that the writing step recorded.

        Raises:
            BadData: the table is damaged, or has other rows than the step recorded.
        """
        tables.verify_table(table, self.measure)

    def _file_digest(self, path: Path) -> str:
        """Return the SHA-256 of a file."""
        with path.open("rb") as stream:
            self._states[path] = _state(path)
            return hashlib.file_digest(stream, "sha256").hexdigest()

    def has_outdated_files(self) -> bool:
        """Return whether a file was written since its digest was computed."""
        return any(not path.exists() or _state(path) != state for path, state in self._states.items())


def _state(path: Path) -> tuple[int, int]:
    return path.stat().st_mtime_ns, path.stat().st_size


def _installed(name: str) -> str:
    """Return the installed version of a package, or else of its variant for CPUs only (`-cpu`), or else `none`."""
    for distribution in (name, f"{name}-cpu"):
        with suppress(PackageNotFoundError):
            return version(distribution)
    return "none"
