"""Who a program runs as: a user, the capabilities that are left to it (capabilities(7)), namespaces, a filter of system calls; and its core dumps.

All of that is a thread's in the kernel, so a thread of the agent's can take it too (kmatrix.guest.confine). The C library's setuid(2) and its kin
would change every thread: the calls are made by number.
"""

from __future__ import annotations

import ctypes
import errno
import os
import pwd
import resource
import struct
from collections.abc import Mapping
from typing import Any

from . import namespaces, seccomp
from .seccomp import ALLOW, EQUAL, ERRNO, RETURN
from .table_capabilities import NAMES, refused_in_container

PR_SET_DUMPABLE, PR_SET_KEEPCAPS, PR_CAPBSET_DROP = 4, 8, 24
PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, PR_CAP_AMBIENT_CLEAR_ALL = 47, 2, 4
_VERSION_3 = 0x20080522

_NUMBERS: Mapping[str, Mapping[str, int]] = {
    "x86_64": {
        "setgroups": 116, "setresgid": 119, "setresuid": 117, "bpf": 321, "perf_event_open": 298, "mount": 165, "umount2": 166, "setns": 308,
        "unshare": 272, "fanotify_init": 300, "quotactl": 179, "pivot_root": 155, "keyctl": 250, "add_key": 248, "request_key": 249,
        "userfaultfd": 323, "init_module": 175, "finit_module": 313, "delete_module": 176, "syslog": 103, "open_by_handle_at": 304,
        "reboot": 169,
    },
    "aarch64": {
        "setgroups": 159, "setresgid": 149, "setresuid": 147, "bpf": 280, "perf_event_open": 241, "mount": 40, "umount2": 39, "setns": 268,
        "unshare": 97, "fanotify_init": 262, "quotactl": 60, "pivot_root": 41, "keyctl": 219, "add_key": 217, "request_key": 218,
        "userfaultfd": 282, "init_module": 105, "finit_module": 273, "delete_module": 106, "syslog": 116, "open_by_handle_at": 265,
        "reboot": 142,
    },
}  # fmt: skip
"""The numbers of system calls, by machine."""

NAMESPACES = {
    "mount": namespaces.NAMESPACES["mnt"],
    **{each: namespaces.NAMESPACES[each] for each in ("cgroup", "uts", "ipc", "net")},
}
"""Those that a thread can be alone in (unshare(2)), by their names in kernels.toml."""

_libc = ctypes.CDLL(None, use_errno=True)


class Privileges:
    """What a program is to have. Made before the fork, so that what is wrong is said; taken in the child."""

    def __init__(
        self, user: str | None, caps: list[str] | None, core: int = 0, *, filter_: str | None = None, apart: Any = ()
    ) -> None:
        """Raises ValueError for a user or a capability that this guest does not know."""
        self._core = core
        self._ids = _ids(user) if user is not None else None
        self.environ: dict[str, str] = {}
        if self._ids is not None:
            uid = self._ids[0]
            known = next((entry for entry in pwd.getpwall() if entry.pw_uid == uid), None)
            self.environ = {"USER": known.pw_name if known else str(uid), "HOME": known.pw_dir if known else "/"}
        self._last = last()
        self._caps = None if caps is None else [_number(name, self._last) for name in caps]
        self._program = None
        if filter_ is not None:
            left = NAMES if self._caps is None else [NAMES[number] for number in self._caps]
            self._program = seccomp_program(refused_in_container(left))
        self._apart = sum(NAMESPACES[name] for name in apart)

    def take(self) -> None:
        """Become that, for good: a process that was just forked. Raises OSError."""
        with open("/proc/self/oom_score_adj", "w") as file:
            file.write("0")  # the agent's own is another while a program runs
        hard = resource.getrlimit(resource.RLIMIT_CORE)[1]
        limit = self._core if hard == resource.RLIM_INFINITY else min(self._core, hard)
        resource.setrlimit(resource.RLIMIT_CORE, (limit, limit))
        self.confine()

    def confine(self) -> None:
        """Become that, for good: this thread, and what it starts. Raises OSError."""
        if self._apart and _libc.unshare(self._apart) != 0:
            raise _failed("unshare")
        if self._caps is not None:
            for number in range(self._last + 1):
                if number not in self._caps:
                    _prctl(PR_CAPBSET_DROP, number)
            _prctl(PR_SET_KEEPCAPS, 1)
        if self._program is not None:  # before the capabilities go: without CAP_SYS_ADMIN it would take no_new_privs
            seccomp.put(self._program)
        if self._ids is not None:
            uid, gid, groups = self._ids
            _call("setgroups", len(groups), (ctypes.c_uint32 * max(len(groups), 1))(*groups))
            _call("setresgid", gid, gid, gid)
            _call("setresuid", uid, uid, uid)
            _prctl(PR_SET_DUMPABLE, 1)  # else /proc/self is root's from here on
        if self._caps is not None:
            _capset(sum(1 << number for number in self._caps))
            _prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL)
            if os.geteuid():  # root has what the bounding set leaves it; another user loses all at execve(2) but these
                for number in self._caps:
                    _prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, number)


def seccomp_program(calls: tuple[str, ...]) -> bytes:
    """A filter (seccomp(2)) that answers EPERM to these system calls of this machine's own instruction set, and lets the others through."""
    refused = [_NUMBERS[os.uname().machine][call] for call in calls]
    found = ((EQUAL, len(refused) - place, 0, number) for place, number in enumerate(refused))
    return seccomp.packed(seccomp.native(*found, (RETURN, 0, 0, ALLOW), (RETURN, 0, 0, ERRNO | errno.EPERM)))


def _ids(user: str) -> tuple[int, int, list[int]]:
    """Uid, gid and further groups of a name, or of UID[:GID]."""
    name, _, group = user.partition(":")
    if name.isdigit():
        return int(name), int(group) if group.isdigit() else int(name), []
    try:
        entry = pwd.getpwnam(name)
    except KeyError:
        raise ValueError(f"the guest has no user {name!r}; it knows {', '.join(each.pw_name for each in pwd.getpwall())}") from None
    return entry.pw_uid, entry.pw_gid, os.getgrouplist(name, entry.pw_gid)


def last() -> int:
    """The number of the last capability that this kernel has."""
    with open("/proc/sys/kernel/cap_last_cap") as file:
        return int(file.read())


def _number(name: str, last: int) -> int:
    plain = name.lower().removeprefix("cap_")
    if plain not in NAMES:
        raise ValueError(f"{name!r} is no capability; they are named as in capabilities(7), such as cap_net_admin")
    number = NAMES.index(plain)
    if number > last:
        raise ValueError(f"this kernel has no CAP_{plain.upper()} (its last is CAP_{NAMES[last].upper()})")
    return number


def _failed(what: str) -> OSError:
    return OSError(ctypes.get_errno(), f"{what}: {os.strerror(ctypes.get_errno())}")


def _call(name: str, *arguments: Any) -> None:
    number = _NUMBERS[os.uname().machine][name]
    if _libc.syscall(ctypes.c_long(number), *(ctypes.c_long(each) if isinstance(each, int) else each for each in arguments)) != 0:
        raise _failed(name)


def _prctl(option: int, first: int, second: int = 0) -> None:
    if _libc.prctl(option, *(ctypes.c_ulong(value) for value in (first, second, 0, 0))) != 0:
        raise _failed(f"prctl({option}, {first})")


def _capset(mask: int) -> None:
    header = ctypes.create_string_buffer(struct.pack("=Ii", _VERSION_3, 0), 8)
    low, high = mask & 0xFFFFFFFF, mask >> 32
    # effective, permitted, inheritable: the low halves of all three, then the high ones
    data = ctypes.create_string_buffer(struct.pack("=6I", low, low, low, high, high, high), 24)
    if _libc.capset(header, data) != 0:
        raise _failed("capset")
