"""Moves a process into its own network namespace (Linux), where the only network is the namespace's loopback device.

Nobody outside the namespace can connect to a port of the process, not even another process of the same user.
"""

from __future__ import annotations

import ctypes
import os
import socket
import struct
import subprocess
import sys
from functools import cache
from pathlib import Path

from ml_pipelines.system import imports

NEW_USER, NEW_NETWORK = 0x10000000, 0x40000000  # flags of unshare(2)
GET_FLAGS, SET_FLAGS, IS_UP = 0x8913, 0x8914, 1  # netdevice(7)
CAPABILITIES_V3 = 0x20080522  # capset(2)
PROBE = "from ml_pipelines.system import namespace; namespace.enter()"


def enter() -> None:
    """Move this process into a network namespace of its own, and turn its loopback device on.

    The process must have only one thread, and it keeps its user, its groups and its rights. An ordinary user needs a
    user namespace too. A user namespace gives the process additional capabilities, which this function drops.

    Raises:
        OSError: the system does not allow this user a new namespace.
    """
    if sys.platform != "linux":
        raise OSError("only Linux has network namespaces")
    user, group = os.geteuid(), os.getegid()
    libc = ctypes.CDLL(None, use_errno=True)
    if user == 0:  # root gets no user namespace, because inside one, root could not read other users' files
        _check(libc.unshare(NEW_NETWORK))
    else:
        _check(libc.unshare(NEW_USER | NEW_NETWORK))
        Path("/proc/self/setgroups").write_text("deny")  # gid_map can be written only after this (user_namespaces(7))
        Path("/proc/self/uid_map").write_text(f"{user} {user} 1")
        Path("/proc/self/gid_map").write_text(f"{group} {group} 1")
    _turn_loopback_on()
    if user:
        header, none = (ctypes.c_uint32 * 2)(CAPABILITIES_V3, 0), (ctypes.c_uint32 * 6)()
        _check(libc.capset(header, none))  # a process with capabilities could write to its user's read-only files


def _turn_loopback_on() -> None:
    import fcntl  # Windows has no such module

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        request = struct.pack("16sH14s", b"lo", 0, b"")
        name, flags, rest = struct.unpack("16sH14s", fcntl.ioctl(any_socket, GET_FLAGS, request))
        fcntl.ioctl(any_socket, SET_FLAGS, struct.pack("16sH14s", name, flags | IS_UP, rest))


def _check(result: int) -> None:
    if result:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


@cache
def is_allowed() -> bool:
    """Return whether a process of this user can enter a network namespace. A child process tries to enter one."""
    if sys.platform != "linux":
        return False
    command = [sys.executable, "-c", PROBE]
    probe = subprocess.run(command, env=imports.environment_of_child(), capture_output=True, check=False)  # noqa: S603
    return probe.returncode == 0
