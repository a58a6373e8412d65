"""The version of the wheel: it names the git commit, and changes whenever the wheel's content changes.

A cluster does not install the same version twice, so every changed file, committed or not, must change the version.
pyproject.toml makes hatchling run this file by its path, so this file imports the standard library only.
"""

from __future__ import annotations

import hashlib
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

FALLBACK = "0.1.0"  # the release number if git is not installed, or if no version tag (v1.2) exists
CONTENT = ("LICENSE", "README.md", "conf", "ml_pipelines", "pyproject.toml", "steps")  # all that the wheel contains


def version(root: Path | None = None) -> str:
    """Return `<release>+g<commit>.c<digest of the content>` (PEP 440). Without git, the version has no commit."""
    root = (root or Path(__file__).parents[2]).resolve()
    if _git(root, "rev-parse", "--show-toplevel") != str(root):  # not the root folder of a git repository
        return f"{FALLBACK}+{_digest(root)}"
    described = _git(root, "describe", "--tags", "--long", "--match=v[0-9]*")
    if match := re.fullmatch(r"v(\d+(?:\.\d+)*)-(\d+)-(g[0-9a-f]+)", described):
        release, commits, commit = match.groups()
        return f"{release}{f'.post{commits}' if commits != '0' else ''}+{commit}.{_digest(root)}"
    commits, commit = _git(root, "rev-list", "--count", "HEAD"), _git(root, "rev-parse", "--short=8", "HEAD")
    return f"{FALLBACK}.dev{commits or 0}+{f'g{commit}.' if commit else ''}{_digest(root)}"


def _digest(root: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(_files(root)):
        digest.update(f"{path.relative_to(root).as_posix()}\0{path.stat().st_size}\0".encode() + path.read_bytes())
    return f"c{digest.hexdigest()[:10]}"


def _files(root: Path) -> Iterator[Path]:
    for path in (root / name for name in CONTENT):
        files = path.rglob("*") if path.is_dir() else [path]
        yield from (file for file in files if file.is_file() and file.parent.name != "__pycache__")


def _git(root: Path, *arguments: str) -> str:
    try:
        command = ["git", "-C", str(root), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=20)  # noqa: S603
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()
