"""The project's own modules: where Python finds them, what they import, and a digest of their code."""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import pkgutil
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from importlib import machinery
from pathlib import Path

from ml_pipelines.system import paths

PACKAGES = ("steps", "ml_pipelines")
# These packages of the library shape a step's result. The others run, record and report steps.
FOR_STEPS = ("ml_pipelines.checks", "ml_pipelines.modelling", "ml_pipelines.problems")
LOADERS = (  # in the order of Python's own finder
    (machinery.ExtensionFileLoader, machinery.EXTENSION_SUFFIXES),
    (machinery.SourceFileLoader, machinery.SOURCE_SUFFIXES),
    (machinery.SourcelessFileLoader, machinery.BYTECODE_SUFFIXES),
)


def is_for_steps(module: str) -> bool:
    """Return whether a module of this project shapes the results of steps. Most of `ml_pipelines` does not."""
    return module.split(".")[0] != "ml_pipelines" or ".".join(module.split(".")[:2]) in FOR_STEPS


class SourceCode:
    """Facts about the project's modules, each computed once, from the modules' files. No module is imported."""

    def __init__(self) -> None:
        self.file = cache(self._file)
        self.is_own = cache(self._is_own)
        self.digest = cache(self._digest)
        self.imports = cache(self._imports)
        self.variables = cache(self._variables)
        self.reachable = cache(self._reachable)
        self._states: dict[str, tuple[int, int, int]] = {}
        self._spec = cache(self._find)
        self._bytes = cache(self._read)
        self._tree = cache(self._parse)
        self._finder = cache(lambda folder: machinery.FileFinder(folder, *LOADERS))

    def _reachable(self, module: str) -> frozenset[str]:
        """Return the modules of this project that an import of `module` executes, its parent packages included."""
        reached: set[str] = set()
        waiting = [module]
        while waiting:
            name = waiting.pop()
            if name not in reached and self.file(name):
                reached.add(name)
                waiting += self.imports(name)
            waiting += [name.rpartition(".")[0]] if "." in name and name.rpartition(".")[0] not in reached else []
        return frozenset(reached)

    def code(self, module: str) -> Mapping[str, str]:
        """Return module -> digest, for the module and every module of this project that it imports, even indirectly."""
        return {name: self.digest(name) for name in sorted(self.reachable(module))}

    def third_party(self, modules: tuple[str, ...]) -> frozenset[str]:
        """Return the third-party packages that these modules import, by their top-level names."""
        roots = {imported.split(".")[0] for name in modules for imported in self.imports(name)}
        return frozenset(root for root in roots - set(sys.stdlib_module_names) if not self.is_own(root))

    def _digest(self, module: str) -> str:
        """Return a digest of a module's code, or `none` if the project has no such module.

        The digest covers the syntax tree, so that a changed comment does not change the digest. For a compiled module,
        it covers the file's bytes.
        """
        file = self.file(module)
        if file is None:
            return "none"
        self._states[module] = _state(file)
        tree = self._tree(module)
        content = self._bytes(module) if tree is None else ast.dump(tree).encode()
        return hashlib.sha256(content).hexdigest()[:12]

    def is_outdated(self, module: str) -> bool:
        """Return whether a module's code has changed since `digest` read it."""
        file = self.file(module)
        if file and file.is_file() and _state(file) == self._states.get(module):
            return False
        return SourceCode().digest(module) != self.digest(module)

    def _imports(self, module: str) -> frozenset[str]:
        """Return the modules that `module` imports. `from a import b` gives a and a.b, because b may be a module."""
        package = module if self._is_package(module) else module.rpartition(".")[0]
        modules: set[str] = set()
        for node in self._nodes(module, b"import_module", b"__import__"):
            if isinstance(node, ast.Import):
                modules |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
                base = ".".join([*above, *([node.module] if node.module else [])])
                names = [alias.name for alias in node.names]
                modules |= {base, *(f"{base}.{name}" for name in (self._below(base) if names == ["*"] else names))}
            elif isinstance(node, ast.Call) and _name_of(node.func) in ("import_module", "__import__"):
                name = _text(node.args[0]) if node.args else None
                if name and not (name.startswith(".") and not package):
                    modules.add(importlib.util.resolve_name(name, package))
        return frozenset(modules)

    def _variables(self, module: str) -> frozenset[str]:
        """Return the names of the environment variables that a module reads. A computed name is not found."""
        read: set[str | None] = set()
        for node in self._nodes(module, b"environ", b"getenv"):
            if isinstance(node, ast.Subscript) and _name_of(node.value) == "environ":
                read.add(_text(node.slice))
            elif isinstance(node, ast.Call) and node.args:
                of = _name_of(node.func.value) if isinstance(node.func, ast.Attribute) else ""
                if _name_of(node.func) == "getenv" or of == "environ":
                    read.add(_text(node.args[0]))
            elif isinstance(node, ast.Compare) and any(_name_of(other) == "environ" for other in node.comparators):
                read.add(_text(node.left))
        return frozenset(name for name in read if name)

    def _nodes(self, module: str, *names: bytes) -> Iterator[ast.AST]:
        """Yield all nodes of a module's syntax tree. If its text has none of the names, yield only its statements."""
        tree = self._tree(module) or ast.Module([], [])
        return ast.walk(tree) if any(name in self._bytes(module) for name in names) else _statements(tree)

    def _read(self, module: str) -> bytes:
        """Return the content of a module's file, or nothing if the project has no such module."""
        file = self.file(module)
        return file.read_bytes() if file else b""

    def _parse(self, module: str) -> ast.Module | None:
        """Return the syntax tree of a module, or None if it has no source that Python can read."""
        file = self.file(module)
        try:
            return ast.parse(self._bytes(module)) if file and file.suffix == ".py" else None
        except (SyntaxError, ValueError):  # the step that imports the module fails with this error
            return None

    def _file(self, module: str) -> Path | None:
        """Return the file that an import of `module` executes, or None if this project has no such file."""
        spec = self._spec(module)
        return Path(spec.origin) if spec and spec.loader and spec.origin else None

    def _is_package(self, module: str) -> bool:
        spec = self._spec(module)
        return bool(spec and spec.submodule_search_locations is not None)

    def _below(self, package: str) -> list[str]:
        """Return the modules of a package: `from package import *` can import each of them."""
        spec = self._spec(package)
        folders = list(spec.submodule_search_locations or []) if spec else []
        return [found.name for found in pkgutil.iter_modules(folders)]

    def _find(self, module: str) -> machinery.ModuleSpec | None:
        """Return where Python finds a module of this project: a package wins over a module of the same name."""
        parent, _, name = module.rpartition(".")
        if not parent:
            return self._finder(str(paths.code())).find_spec(name) if self.is_own(name) else None
        above = self._spec(parent)
        found = (self._finder(folder).find_spec(name) for folder in (above and above.submodule_search_locations) or [])
        return next(filter(None, found), None)

    def _is_own(self, name: str) -> bool:
        """Return whether a top-level name means a module of this project.

        An installed wheel is in a folder with other packages, so only PACKAGES are the project's. In a checkout, a
        folder without `__init__.py` is the project's only if no installed package has its name.
        """
        if name in PACKAGES or paths.checkout() is None:
            return name in PACKAGES
        spec = self._finder(str(paths.code())).find_spec(name)
        if spec is None or spec.loader:
            return spec is not None
        others = [folder for folder in sys.path if Path(folder).resolve() != paths.code()]
        other = machinery.PathFinder.find_spec(name, others)
        return not (other and other.loader)


def _statements(tree: ast.Module) -> Iterator[ast.AST]:
    """Yield the statements of a module. To walk through the expressions as well would take ten times as long."""
    waiting: list[ast.AST] = [tree]
    while waiting:
        yield (node := waiting.pop())
        for field in ("body", "orelse", "finalbody", "handlers", "cases"):
            waiting += getattr(node, field, ())


def _state(file: Path) -> tuple[int, int, int]:
    """Return what changes when a file is written: its time, its size and its inode."""
    stat = file.stat()
    return stat.st_mtime_ns, stat.st_size, stat.st_ino


def name_of(file: Path) -> str:
    """Return the name of the module in a file of this project."""
    folders = file.parent.relative_to(paths.code()).parts
    return ".".join([*folders, file.name.partition(".")[0]]).removesuffix(".__init__")


def _name_of(node: ast.expr) -> str:
    """Return the last part of a dotted name: `environ` for `os.environ`."""
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def _text(node: ast.expr) -> str | None:
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else None
