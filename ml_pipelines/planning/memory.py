"""A cache for one pipeline run, so that it reads each code file, data file and table only once.

The next pipeline run in the same process gets a new Memory, and reads everything again.
"""

from __future__ import annotations

import ast
import hashlib
import sys
from collections.abc import Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from ml_pipelines.data import tables
from ml_pipelines.system import paths

PACKAGES = ("steps", "ml_pipelines")


class Memory:
    """Facts about code, files and tables, each computed once."""

    def __init__(self) -> None:
        self.code = cache(self._code)
        self.reachable = cache(self._reachable)
        self.file_digest = cache(_file_digest)
        self.installed = cache(_installed)
        self.measure = cache(tables.measure_table)
        self._code_digest = cache(self._uncached_code_digest)
        self._imports = cache(self._uncached_imports)
        self._tree = cache(_tree)

    def verify(self, table: tables.Table) -> None:
        """Check that a table still has the content that the writing step recorded.

        Raises:
            BadData: the table is damaged, or has other rows.
        """
        tables.verify_table(table, self.measure)

    def third_party(self, modules: tuple[str, ...]) -> frozenset[str]:
        """Return the third-party packages that these modules import, by their top-level names."""
        roots = {imported.split(".")[0] for name in modules for imported in self._imports(name)}
        return frozenset(roots - set(PACKAGES) - set(sys.stdlib_module_names))

    def _code(self, module: str) -> Mapping[str, str]:
        """Return a dict: module -> digest, for `module` and all of our modules that it imports, even indirectly.

        A digest is computed from the syntax tree, so a comment does not affect it.
        """
        return {name: self._code_digest(name) for name in sorted(self.reachable(module))}

    def _reachable(self, module: str) -> frozenset[str]:
        """Return the modules of this project that an import of `module` executes, its parent packages included."""
        reached: set[str] = set()
        waiting = [module]
        while waiting:
            name = waiting.pop()
            if name not in reached and _file(name):
                reached.add(name)
                waiting += self._imports(name)
                waiting += [name.rpartition(".")[0]] if "." in name else []
        return frozenset(reached)

    def _uncached_code_digest(self, module: str) -> str:
        return hashlib.sha256(ast.dump(self._tree(module)).encode()).hexdigest()[:12]

    def _uncached_imports(self, module: str) -> frozenset[str]:
        """Return every module that this one may import. `from a import b` may mean the module a.b."""
        modules: set[str] = set()
        for node in ast.walk(self._tree(module)):
            if isinstance(node, ast.Import):
                modules |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                package = module.split(".")[: -node.level] if node.level else []
                base = ".".join([*package, *([node.module] if node.module else [])])
                modules |= {base, *(f"{base}.{alias.name}" for alias in node.names)}
        return frozenset(modules)


def _tree(module: str) -> ast.Module:
    path = _file(module)
    return ast.parse(path.read_text(encoding="utf-8")) if path else ast.Module([], [])


def _file(module: str) -> Path | None:
    if module.split(".")[0] not in PACKAGES:
        return None
    stem = paths.code().joinpath(*module.split("."))
    return next((path for path in (stem.with_suffix(".py"), stem / "__init__.py") if path.is_file()), None)


def _file_digest(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _installed(name: str) -> str:
    """Return the installed version of a distribution, or `none`."""
    try:
        return version(name)
    except PackageNotFoundError:
        return "none"
