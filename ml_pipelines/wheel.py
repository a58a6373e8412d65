"""The wheel's version: from git where there is one, and distinct for distinct content.

A cluster doesn't install a wheel again whose version it has: a changed file, committed or not, must change the version.
pyproject.toml has hatchling run this file by its path, where nothing but the standard library can be imported.
"""

from __future__ import annotations

import hashlib
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

FALLBACK = "0.1.0"  # before the first tag, and where there is no git
CONTENT = ("LICENSE", "README.md", "conf", "ml_pipelines", "pyproject.toml", "steps")  # what the wheel is made of


def version(root: Path | None = None) -> str:
    """Return `<release>+g<commit>.c<digest of the content>`, as PEP 440 has it; the commit only where there is git."""
    root = (root or Path(__file__).parents[1]).resolve()
    if _git(root, "rev-parse", "--show-toplevel") != str(root):  # none, or the one of a folder around this
        return f"{FALLBACK}+{_digest(root)}"
    described = _git(root, "describe", "--tags", "--long", "--match=v[0-9]*")
    if found := re.fullmatch(r"v(\d+(?:\.\d+)*)-(\d+)-(g[0-9a-f]+)", described):
        release, commits, commit = found.groups()
        return f"{release}{f'.post{commits}' if commits != '0' else ''}+{commit}.{_digest(root)}"
    commits, commit = _git(root, "rev-list", "--count", "HEAD"), _git(root, "rev-parse", "--short=8", "HEAD")
    return f"{FALLBACK}.dev{commits or 0}+{f'g{commit}.' if commit else ''}{_digest(root)}"


def _digest(root: Path) -> str:
    whole = hashlib.sha256()
    for path in sorted(_files(root)):
        whole.update(f"{path.relative_to(root).as_posix()}\0{path.stat().st_size}\0".encode() + path.read_bytes())
    return f"c{whole.hexdigest()[:10]}"


def _files(root: Path) -> Iterator[Path]:
    for path in (root / name for name in CONTENT):
        inside = path.rglob("*") if path.is_dir() else [path]
        yield from (file for file in inside if file.is_file() and file.parent.name != "__pycache__")


def _git(root: Path, *arguments: str) -> str:
    try:
        command = ["git", "-C", str(root), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=20)  # noqa: S603
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()
