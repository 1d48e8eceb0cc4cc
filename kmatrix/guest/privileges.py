"""Who a program runs as: a user, and the capabilities that are left to it (capabilities(7)); and how large a core dump may be."""

from __future__ import annotations

import ctypes
import os
import pwd
import resource
import struct

PR_SET_KEEPCAPS, PR_CAPBSET_DROP, PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE = 8, 24, 47, 2
_VERSION_3 = 0x20080522

# include/uapi/linux/capability.h, by number. The last three came with 5.8 (perfmon, bpf) and 5.9 (checkpoint_restore).
NAMES = (
    *("chown", "dac_override", "dac_read_search", "fowner", "fsetid", "kill", "setgid", "setuid", "setpcap", "linux_immutable"),
    *(
        "net_bind_service",
        "net_broadcast",
        "net_admin",
        "net_raw",
        "ipc_lock",
        "ipc_owner",
        "sys_module",
        "sys_rawio",
        "sys_chroot",
    ),
    *(
        "sys_ptrace",
        "sys_pacct",
        "sys_admin",
        "sys_boot",
        "sys_nice",
        "sys_resource",
        "sys_time",
        "sys_tty_config",
        "mknod",
        "lease",
    ),
    *(
        "audit_write",
        "audit_control",
        "setfcap",
        "mac_override",
        "mac_admin",
        "syslog",
        "wake_alarm",
        "block_suspend",
        "audit_read",
    ),
    *("perfmon", "bpf", "checkpoint_restore"),
)

_libc = ctypes.CDLL(None, use_errno=True)


class Privileges:
    """What a program is to have. Made before the fork, so that what is wrong is said; taken in the child."""

    def __init__(self, user: str | None, caps: list[str] | None, core: int) -> None:
        """Raises ValueError for a user or a capability that this guest does not know."""
        self._core = core
        self._ids = _ids(user) if user is not None else None
        self.environ: dict[str, str] = {}
        if self._ids is not None:
            uid = self._ids[0]
            known = next((entry for entry in pwd.getpwall() if entry.pw_uid == uid), None)
            self.environ = {"USER": known.pw_name if known else str(uid), "HOME": known.pw_dir if known else "/"}
        self._last = _last()
        self._caps = None if caps is None else [_number(name, self._last) for name in caps]

    def take(self) -> None:
        """Become that, for good. Raises OSError."""
        with open("/proc/self/oom_score_adj", "w") as file:
            file.write("0")  # the agent's own is another while a program runs
        hard = resource.getrlimit(resource.RLIMIT_CORE)[1]
        limit = self._core if hard == resource.RLIM_INFINITY else min(self._core, hard)
        resource.setrlimit(resource.RLIMIT_CORE, (limit, limit))
        if self._caps is not None:
            for number in range(self._last + 1):
                if number not in self._caps:
                    _prctl(PR_CAPBSET_DROP, number)
            _prctl(PR_SET_KEEPCAPS, 1)
        if self._ids is not None:
            uid, gid, groups = self._ids
            os.setgroups(groups)
            os.setgid(gid)
            os.setuid(uid)
        if self._caps is not None:
            _capset(sum(1 << number for number in self._caps))
            if os.getuid():  # root has what the bounding set leaves it; another user loses all at execve(2) but these
                for number in self._caps:
                    _prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, number)


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


def _last() -> int:
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


def _prctl(option: int, first: int, second: int = 0) -> None:
    if _libc.prctl(option, *(ctypes.c_ulong(value) for value in (first, second, 0, 0))) != 0:
        raise OSError(ctypes.get_errno(), f"prctl({option}, {first}): {os.strerror(ctypes.get_errno())}")


def _capset(mask: int) -> None:
    header = ctypes.create_string_buffer(struct.pack("=Ii", _VERSION_3, 0), 8)
    low, high = mask & 0xFFFFFFFF, mask >> 32
    # effective, permitted, inheritable: the low halves of all three, then the high ones
    data = ctypes.create_string_buffer(struct.pack("=6I", low, low, low, high, high, high), 24)
    if _libc.capset(header, data) != 0:
        raise OSError(ctypes.get_errno(), f"capset: {os.strerror(ctypes.get_errno())}")
