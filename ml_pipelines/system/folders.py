"""Removes folders below a base folder, and nothing outside it, even if somebody replaces a folder by a link meanwhile.

Each part of a path is opened from the folder above it. A part that is a link is refused (openat(2), O_NOFOLLOW).
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
    """What identifies a folder even after it was renamed: the numbers of its device and its inode."""

    device: int
    inode: int


def identity(folder: Path | str, above: int | None = None) -> Identity:
    """Return the identity of the folder that a path names now. A link is not followed.

    Args:
        folder: a path.
        above: a descriptor of the folder where a relative path starts. None: it starts at the working directory.
    """
    status = os.stat(folder, dir_fd=above, follow_symlinks=False)
    return Identity(status.st_dev, status.st_ino)


def size(folder: Path) -> int:
    """Return the bytes of all files below a folder. Links are not followed, and files that vanish meanwhile count 0."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):
                total += Path(place, name).lstat().st_size
    return total


def remove_below(base: Path, folder: Path, expected: Identity | None = None) -> None:
    """Remove a folder with everything in it. Nothing outside of `base` is ever removed.

    Args:
        base: a folder. Links in its path are followed.
        folder: a path that begins with `base`. A link in the part after `base` is refused.
        expected: the identity that the folder at this path must have; None: any folder is removed.

    Raises:
        OSError: a file can't be removed, or the path `folder` is another folder or a link now.
    """
    with _opened(base, folder.parent) as above:
        if expected and expected != identity(folder.name, above):
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
    except OSError:  # the folder is not empty, or a link
        return False
    return True


@contextmanager
def _opened(base: Path, folder: Path) -> Iterator[int | None]:
    """Yield a descriptor of a folder below `base`. A link in the path after `base` raises OSError.

    Windows can't open a folder. On Windows, this checks the path after `base` for links, and yields None.
    """
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
