"""Records which files a step's code opens, and which modules it imports by a computed name.

Python calls an audit hook for each file that is opened and each folder that is listed. The hook attributes the file to
the nearest function on the stack that belongs to the project. Files that the library opens itself, for example tables,
are not recorded, because the driver compares tables, models and the source in another way.
"""

from __future__ import annotations

import hashlib
import importlib
import os
import sys
import tempfile
import threading
from functools import cache, wraps
from pathlib import Path
from types import FrameType
from typing import Any

from ml_pipelines.system import paths
from ml_pipelines.system.source_code import PACKAGES, SourceCode, is_for_steps, name_of

# An observed part of a fingerprint is named `file <path below the project>` or `module <name>`.
FILE, MODULE = "file", "module"
CODE = (".py", ".pyc", ".so", ".pyd")
ABSENT = "none"
LISTINGS = ("os.listdir", "os.scandir")
PATTERN = "*?["
READERS = ("read_", "scan_")  # functions of Polars, which opens files without a call of the audit hook

_reads: dict[str, dict[str, str]] = {}  # reading module -> observed part -> digest at the first read
_written: set[tuple[str, str]] = set()  # (module, file): the module wrote the file itself
_busy = threading.local()


@cache
def start() -> None:
    """Record from now on what this process and its forks open and import. Call this before steps are imported."""
    imported = importlib.import_module

    @wraps(imported)
    def import_module(name: str, package: str | None = None) -> Any:
        module = imported(name, package)  # if the module was imported before, Python opens no file: note it below
        if owner := _owner(sys._getframe(1)):
            _note_file(owner, str(getattr(module, "__file__", None) or ""))
        return module

    importlib.import_module = import_module
    sys.addaudithook(_hook)


@cache
def watch_polars() -> None:
    """Observe the files that Polars reads. Call this only in a process that needs Polars, because it imports Polars."""
    import polars as pl

    for name in dir(pl):
        if name.startswith(READERS) and "database" not in name:
            setattr(pl, name, _watched(getattr(pl, name)))


def _watched(reader: Any) -> Any:
    @wraps(reader)
    def read(*args: Any, **options: Any) -> Any:
        if owner := _owner(sys._getframe(1)):
            source = next(iter([*args, options.get("source")]), None)
            for path in source if isinstance(source, list | tuple) else [source]:
                if isinstance(path, str | os.PathLike):
                    _note_source(owner, os.fspath(path))
        return reader(*args, **options)

    return read


def observed_by(step: str) -> dict[str, str]:
    """Return the files and modules that the step's code has opened and imported in this process: name -> digest.

    Modules that an import statement names are left out, because the fingerprint has them anyway.
    """
    code = SourceCode()
    if not any(_is_news(code, module, name) for module, names in _reads.items() for name in names):
        return {}  # the usual case: return before every module of the step is parsed
    waiting, reached, found = [f"steps.{step}"], set[str](), dict[str, str]()
    while waiting:
        for module in code.reachable(waiting.pop()) - reached:
            reached.add(module)
            for name, digest in _reads.get(module, {}).items() if is_for_steps(module) else ():
                kind, _, path = name.partition(" ")
                if kind == MODULE:
                    waiting.append(path)
                # Leave out files that the step wrote, and temporary files that are gone.
                elif (module, path) not in _written and (digest == ABSENT or (paths.root() / path).exists()):
                    found[name] = digest
    extra = reached - code.reachable(f"steps.{step}")
    return found | {f"{MODULE} {module}": code.digest(module) for module in extra}


def _is_news(code: SourceCode, reader: str, name: str) -> bool:
    """Return whether a read is news: it is a file, or a module that no import statement of the reader names."""
    kind, _, module = name.partition(" ")
    return kind != MODULE or not any(f"{named}.".startswith(f"{module}.") for named in code.imports(reader))


def is_observed(name: str) -> bool:
    """Return whether a fingerprint's part was observed while the step ran. Other parts are known before it runs."""
    return name.partition(" ")[0] in (FILE, MODULE)


def digest_now(name: str, code: SourceCode) -> str:
    """Return the digest that an observed file, folder or module has now."""
    kind, _, path = name.partition(" ")
    return code.digest(path) if kind == MODULE else _digest(paths.root() / path)


def _hook(event: str, args: tuple[Any, ...]) -> None:
    if event not in ("open", *LISTINGS) or getattr(_busy, "now", False):
        return
    _busy.now = True
    try:
        if isinstance(args[0], str | bytes | os.PathLike):
            _note(event, _absolute(os.fsdecode(args[0])), *args[1:])
    except OSError:  # for example, the working directory is gone; the code that opens the file gets the same error
        pass
    finally:
        _busy.now = False


def _note(event: str, path: str, _mode: str | None = None, flags: int = 0) -> None:
    if _is_outside(path) or not (owner := _owner(sys._getframe(2), listing=event in LISTINGS)):
        return
    if flags & os.O_TRUNC or (flags & os.O_CREAT and not Path(path).exists()):
        _written.add((owner, _below_root(path)))
    elif not flags & os.O_WRONLY:
        _note_file(owner, path)


def _note_source(owner: str, source: str) -> None:
    """Record what Polars reads: a file, all files below a folder, or all files that match a pattern like a/*.csv."""
    if "://" in source:
        return
    path = Path(source)
    folder = next(each for each in (path, *path.parents) if not set(PATTERN) & set(str(each)))
    for each in (folder, *(folder.rglob("*") if folder.is_dir() else ())):
        _note_file(owner, str(each))


def _note_file(owner: str, path: str) -> None:
    path = _absolute(path)
    if _is_outside(path):
        return
    file = Path(path)
    if file.parent.name == "__pycache__":
        file = file.parents[1] / f"{file.name.partition('.')[0]}.py"
    if file.suffix in CODE:
        if is_for_steps(module := name_of(file)):
            _reads.setdefault(owner, {})[f"{MODULE} {module}"] = ""
    elif (name := f"{FILE} {_below_root(path)}") not in _reads.setdefault(owner, {}):
        _reads[owner][name] = _digest(file)


def _digest(path: Path) -> str:
    """Return a digest of a file's content, or of the names in a folder; `none` if the path does not exist."""
    if path.is_dir():
        names = sorted(each.name for each in path.iterdir() if each.name != "__pycache__")
        return hashlib.sha256("\0".join(names).encode(errors="surrogateescape")).hexdigest()
    if not path.is_file():
        return ABSENT
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _absolute(path: str) -> str:
    """Return an absolute path without resolving links: a file behind a link in the project belongs to the project."""
    return os.path.abspath(path)  # noqa: PTH100


def _below_root(path: str) -> str:
    return os.path.relpath(path, paths.root())


@cache
def _ignored() -> tuple[str, ...]:
    return tuple(f"{folder}{os.sep}" for folder in (sys.prefix, tempfile.gettempdir(), str(paths.root() / ".git")))


def _is_outside(path: str) -> bool:
    """Return whether a path does not belong to the project.

    In the project's folder, this is true for the virtual environment, temporary files and .git.
    """
    root = f"{paths.root()}{os.sep}"
    return not path.startswith(root) or path.startswith(tuple(each for each in _ignored() if each.startswith(root)))


def _owner(frame: FrameType | None, listing: bool = False) -> str | None:
    """Return the nearest module of the project on the stack, or None if that module does not shape a step's result.

    Args:
        frame: the frame to begin with.
        listing: whether a folder is listed. If so, return None during an import, because every import lists folders.
    """
    project = paths.root()
    while frame is not None:
        name = frame.f_globals.get("__name__", "")
        if listing and str(name).startswith(("importlib", "_frozen_importlib", "zipimport")):
            return None
        if name != __name__ and (module := _module_of(frame.f_code.co_filename, project)):
            return module if is_for_steps(module) else None
        frame = frame.f_back
    return None


@cache
def _module_of(file: str, _project: Path) -> str | None:
    """Return the name of the module in a file, or None if the module does not belong to the project.

    `_project` makes the cache keep the answers of each project apart.
    """
    root = f"{paths.code()}{os.sep}"
    if not file.startswith(root) or not file.endswith(".py"):
        return None
    module = name_of(Path(file))
    is_own = not _is_outside(file) if paths.checkout() else module.split(".")[0] in PACKAGES
    return module if is_own else None
