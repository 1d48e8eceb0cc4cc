"""Namespaces: what the kernel calls those that a process is in, and new ones for a process, as a container has them."""

from __future__ import annotations

import ctypes
import fcntl
import os
import signal
import socket
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from . import bpf

NAMESPACES: Mapping[str, int] = {  # clone(2)'s flags
    "pid": 0x20000000,
    "mnt": 0x00020000,
    "net": 0x40000000,
    "uts": 0x04000000,
    "ipc": 0x08000000,
    "cgroup": 0x02000000,
}
"""The kinds of namespace, as /proc/PID/ns names them."""

_PR_SET_PDEATHSIG = 1
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 1


class Surroundings(NamedTuple):
    """What a process is in."""

    namespaces: tuple[str, ...] = ()
    """Those that are its own."""
    cgroup_depth: int = 1


def numbers(names: Iterable[str]) -> dict[str, int | None]:
    """The inode numbers of the calling process's namespaces, which are what events call them by; None where the kernel has none."""
    found: dict[str, int | None] = {}
    for name in names:
        try:
            found[name] = int(os.readlink(f"/proc/self/ns/{name}").partition("[")[2].rstrip("]"))
        except (OSError, ValueError):
            found[name] = None
    return found


def unshare(names: Iterable[str]) -> None:
    """Go on in new namespaces of these kinds, as unshare(2) has it. Raises OSError where the kernel has no such kind."""
    if bpf.libc.unshare(sum(NAMESPACES[name] for name in names)) != 0:
        code = ctypes.get_errno()
        lacking = [name for name, number in numbers(names).items() if number is None]
        why = f"the kernel has no namespaces of the kind {', '.join(lacking)}" if lacking else os.strerror(code)
        raise OSError(code, f"unshare({', '.join(names)}): {why}")


def enter(names: Iterable[str]) -> int | None:
    """Go on in new namespaces of these kinds. Raises OSError where the kernel has no such kind.

    A process gets a new pid namespace by being born in it: then a child goes on, and the caller, whose pid is returned to the child, waits
    for its end and ends as it did. In a new net namespace, the loopback interface is up.
    """
    unshare(names)
    if "net" in names:
        loopback_up()
    if "pid" not in names:
        return None
    parent = own_pid()
    child = os.fork()
    if child == 0:
        die_with_parent()
        return parent
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status < 0:
        os.kill(os.getpid(), -status)
    os._exit(status)


def die_with_parent() -> None:
    """Have the kernel kill this process when the one that made it ends."""
    bpf.libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)


def own_pid() -> int:
    """The calling process's pid as the kernel's first pid namespace has it, which is what BPF programs see, wherever the process is."""
    return int(os.readlink("/proc/self"))


def own_tid() -> int:
    """The same of the calling thread."""
    return int(os.path.basename(os.readlink("/proc/thread-self")))


def loopback_up() -> None:
    """Bring the loopback interface up in the calling process's net namespace. Raises OSError."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        request = bytearray(b"lo".ljust(40, b"\0"))  # struct ifreq: name[16], then the flags
        fcntl.ioctl(sock, _SIOCGIFFLAGS, request)
        request[16] |= _IFF_UP
        fcntl.ioctl(sock, _SIOCSIFFLAGS, request)
