"""Remove folders without leaving their base, even if somebody else replaces a folder by a link at that moment.

A path is opened part by part, each from the folder above it, and a link is refused (openat(2), O_NOFOLLOW).
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple


class Identity(NamedTuple):
    """The identity of a folder, independent of its name: the device and the number of the inode."""

    device: int
    inode: int


def identity(folder: Path) -> Identity:
    """Return the identity of the folder that a path names now. A link is not followed."""
    status = folder.lstat()
    return Identity(status.st_dev, status.st_ino)


def size(folder: Path) -> int:
    """Return the bytes of all files in a folder. Links are not followed, and files that vanish meanwhile count 0."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):
                total += Path(place, name).lstat().st_size
    return total


def remove_below(base: Path, folder: Path, expected: Identity | None = None) -> None:
    """Remove a folder with everything in it. Nothing outside of `base` is ever removed.

    Args:
        base: a folder. Links on the way to it are followed.
        folder: a path that begins with `base`. No part after `base` may be a link.
        expected: the folder that must still be at this path.

    Raises:
        OSError: a file can't be removed, or another folder or a link is in its place now.
    """
    with _opened(base, folder.parent) as above:
        if expected and expected != _identity_at(folder.name, above):
            raise OSError("another folder is in its place now")
        if above is None:
            shutil.rmtree(folder)
        else:
            shutil.rmtree(folder.name, dir_fd=above)


def remove_if_empty(base: Path, folder: Path) -> bool:
    """Remove a folder below `base` if it is empty. Return whether it was removed."""
    try:
        with _opened(base, folder.parent) as above:
            os.rmdir(folder.name if above is not None else folder, dir_fd=above)
    except OSError:  # it isn't empty, or is a link
        return False
    return True


def _identity_at(name: str, above: int | None) -> Identity:
    status = os.stat(name, dir_fd=above, follow_symlinks=False)
    return Identity(status.st_dev, status.st_ino)


@contextmanager
def _opened(base: Path, folder: Path) -> Iterator[int | None]:
    """Open a folder below `base` without following a link after `base`. Windows can't: there the path is checked."""
    parts = folder.relative_to(base).parts
    if ".." in parts:
        raise OSError(f"{folder} leaves {base}")
    if sys.platform == "win32":
        if folder.resolve() != base.resolve().joinpath(*parts):
            raise OSError("a link is in its place now")
        yield None
        return
    descriptor = os.open(base, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for part in parts:
            inner = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=descriptor)
            os.close(descriptor)
            descriptor = inner
        yield descriptor
    finally:
        os.close(descriptor)
