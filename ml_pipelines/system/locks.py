"""Locks of a whole sqlite store and of one piece of work. The system releases them when their process ends.

Both are locks on a file beside the store, `<name of the store's file>.lock`.
"""

from __future__ import annotations

import hashlib
import os
import socket
import struct
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from ml_pipelines.errors import Unreachable
from ml_pipelines.system import events, paths

# Seconds of waiting for a lock: until a notice tells the user, until the process gives up, and between two tries.
LOCK_PATIENCE_S, LOCK_LIMIT_S, LOCK_POLL_S = 2.0, 60.0, 0.02


@contextmanager
def alone_at(uri: str) -> Iterator[None]:
    """Lock a sqlite file, so that no other pipeline run on this machine opens or changes it inside the block.

    If two processes create the tables of the file at the same time, the file is unusable. The lock is on another
    file beside it, because closing the sqlite file would drop SQLite's own locks. Only a user who may write the sqlite
    file can lock it. If the lock's file can't be opened or locked, the block runs without the lock.

    Raises:
        Unreachable: another process has held the lock for LOCK_LIMIT_S.
    """
    if sys.platform == "win32" or not uri.startswith("sqlite:///"):  # Windows has no flock
        yield
        return
    import fcntl

    database = paths.sqlite_file(uri)
    with ExitStack() as opened:
        try:
            descriptor = _open_lock(database)
            opened.callback(os.close, descriptor)
            _wait_for_lock(descriptor, database)
            opened.callback(fcntl.flock, descriptor, fcntl.LOCK_UN)  # unlocks even if a fork has the file open
        except PermissionError as error:  # this user can only read the store, or another user made the lock's file
            events.report(events.Notice(f"{database} is not locked: {error.filename} can't be opened."))
        except OSError:  # the folder is missing, which SQLite reports later, or the file system has no locks
            pass
        yield


def _open_lock(database: Path) -> int:
    """Open the lock's file, and create it if it does not exist.

    A new file gets the group of the database, and is writable for those who may write the database.
    """
    model = database if database.exists() else database.parent
    status = model.stat()
    writers = 0o600 | sum(0o6 << shift for shift in (0, 3) if status.st_mode & (0o2 << shift))
    path = database.with_name(f"{database.name}.lock")
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    except FileExistsError:
        return os.open(path, os.O_RDWR | os.O_NOFOLLOW)
    with suppress(PermissionError):  # a user outside the group can't set it: the file keeps the user's own group
        os.fchown(descriptor, -1, status.st_gid)
    os.fchmod(descriptor, writers)
    return descriptor


def _wait_for_lock(descriptor: int, database: Path) -> None:
    """Wait for the lock, then write this process's id into the file. After LOCK_PATIENCE_S, report who has the lock."""
    import fcntl

    started, told = time.monotonic(), False
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            waited = time.monotonic() - started
        holder = os.pread(descriptor, 100, 0).decode(errors="replace") or "unknown"
        if waited >= LOCK_LIMIT_S:
            raise Unreachable(
                f"The MLflow store {database} has been locked for {LOCK_LIMIT_S:g} s by process {holder}. "
                "If that process is stopped or hangs, end it. Then try again."
            ) from None
        if waited >= LOCK_PATIENCE_S and not told:
            told = True
            events.report(
                events.Notice(
                    f"Waiting up to {LOCK_LIMIT_S:g} s for the MLflow store {database}: process {holder} has locked it."
                )
            )
        time.sleep(LOCK_POLL_S)
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"{os.getpid()} on {socket.gethostname()}".encode(), 0)


class Lease:
    """The right to do one piece of work. Other processes with the same store don't get it until `release`.

    It is a lock on one byte of the lock's file, at a place that depends on the work.
    """

    def __init__(self, descriptor: int | None, place: int) -> None:
        self._descriptor, self._place = descriptor, place

    def release(self) -> None:
        """Give the right back. A second call does nothing."""
        if self._descriptor is not None:
            _lock_byte(self._descriptor, self._place, unlock=True)  # unlocks even if a fork has the file open
            os.close(self._descriptor)
            self._descriptor = None


def lease(uri: str, work: str) -> Lease | None:
    """Return the right to do a piece of work, or None if another process has it.

    A process that ends loses its rights. Every process gets the right if the store is not a sqlite file, if the system
    is not Linux, or if the file system has no locks.

    Args:
        uri: the URI of the store.
        work: a text that names the work.
    """
    place = int.from_bytes(hashlib.sha256(work.encode()).digest()[:7])
    if sys.platform != "linux" or not uri.startswith("sqlite:///"):
        return Lease(None, place)
    try:
        descriptor = _open_lock(paths.sqlite_file(uri))
    except OSError:
        return Lease(None, place)
    try:
        _lock_byte(descriptor, place)
    except OSError as error:
        os.close(descriptor)
        return None if isinstance(error, BlockingIOError | PermissionError) else Lease(None, place)
    return Lease(descriptor, place)


def _lock_byte(descriptor: int, place: int, unlock: bool = False) -> None:
    """Lock or unlock one byte of an open file. The lock belongs to the open file, not to the process (fcntl(2))."""
    import fcntl

    kind = fcntl.F_UNLCK if unlock else fcntl.F_WRLCK
    request = struct.pack("hhqqi4x", kind, os.SEEK_SET, place, 1, 0)  # the C structure `flock`
    fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, request)
