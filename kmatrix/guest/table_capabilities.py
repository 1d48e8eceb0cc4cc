"""The capabilities by number (include/uapi/linux/capability.h), and what a container runtime's filter of system calls leaves open for which."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from .fact import Version

NAMES = (
    "chown", "dac_override", "dac_read_search", "fowner", "fsetid", "kill", "setgid", "setuid", "setpcap", "linux_immutable",
    "net_bind_service", "net_broadcast", "net_admin", "net_raw", "ipc_lock", "ipc_owner", "sys_module", "sys_rawio", "sys_chroot",
    "sys_ptrace", "sys_pacct", "sys_admin", "sys_boot", "sys_nice", "sys_resource", "sys_time", "sys_tty_config", "mknod", "lease",
    "audit_write", "audit_control", "setfcap", "mac_override", "mac_admin", "syslog", "wake_alarm", "block_suspend", "audit_read",
    "perfmon", "bpf", "checkpoint_restore",
)  # fmt: skip

SINCE: Mapping[str, Version] = {"perfmon": (5, 8), "bpf": (5, 8), "checkpoint_restore": (5, 9)}
"""The first release of those that came after 4.14: 980737282232 (perfmon), 2c78ee898d8f (bpf), 124ea650d307 (checkpoint_restore)."""

CONTAINER: Mapping[str, tuple[str, ...]] = {
    "bpf": ("sys_admin", "bpf"),
    "perf_event_open": ("sys_admin", "perfmon"),
    "mount": ("sys_admin",),
    "umount2": ("sys_admin",),
    "setns": ("sys_admin",),
    "unshare": ("sys_admin",),
    "fanotify_init": ("sys_admin",),
    "quotactl": ("sys_admin",),
    "pivot_root": (),
    "keyctl": (),
    "add_key": (),
    "request_key": (),
    "userfaultfd": (),
    "init_module": ("sys_module",),
    "finit_module": ("sys_module",),
    "delete_module": ("sys_module",),
    "syslog": ("sys_admin", "syslog"),
    "open_by_handle_at": ("dac_read_search",),
    "reboot": ("sys_boot",),
}
"""The system calls that container runtimes refuse with EPERM, and the capabilities of which any opens them again (Docker's and containerd's default
profiles, as far as they matter here: bpf and perf_event_open have been opened by CAP_BPF and CAP_PERFMON since Docker 23)."""


def refused_in_container(caps: Collection[str]) -> tuple[str, ...]:
    """The system calls that the filter refuses to a process with these capabilities."""
    return tuple(call for call, opened_by in CONTAINER.items() if not set(opened_by) & set(caps))
