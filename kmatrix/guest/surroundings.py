"""What this kernel runs under: settings that the host asks for on the kernel's command line, and how the guest is found to be."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import Any

from . import bpf, confine, privileges, seccomp, sysctl
from .cgroup import cgroup_root
from .table_capabilities import NAMES

PREFIX = "kmatrix.sysctl."
"""What the host puts before a sysctl on the command line. Kernels before 5.8 know no `sysctl.` of their own (3db978d480e2); one that a module's
name could stand before the dot of is left alone by all of them."""
TOLD = ("kernel.unprivileged_bpf_disabled", "kernel.perf_event_paranoid")
"""Sysctls that are told in any case."""
SECURITYFS = "/sys/kernel/security"

_refused: dict[str, str] = {}
"""Settings that the kernel did not take, and in which words."""


def wanted(cmdline: str) -> dict[str, str]:
    """The settings on a command line. A blank within a value is written %20."""
    words = [word.removeprefix(PREFIX) for word in cmdline.split() if word.startswith(PREFIX)]
    return {name: value.replace("%20", " ") for name, _, value in (word.partition("=") for word in words)}


def apply() -> None:
    """Make the settings, in their order."""
    with open("/proc/cmdline") as file:
        cmdline = file.read()
    for setting, value in wanted(cmdline).items():
        try:
            with open(sysctl.file_of(setting), "w") as file:
                file.write(value)
        except OSError as error:
            _refused[setting] = error.strerror or str(error)


def _text(path: str) -> str | None:
    with suppress(OSError), open(path) as file:
        return file.read().strip()
    return None


def _securityfs(name: str) -> str | None:
    """A file of securityfs, which is mounted for a moment where it is not."""
    if (text := _text(f"{SECURITYFS}/{name}")) is not None:
        return text
    folder = SECURITYFS.encode()
    if bpf.libc.mount(b"securityfs", folder, b"securityfs", 0, None) != 0:
        return None
    try:
        return _text(f"{SECURITYFS}/{name}")
    finally:
        bpf.libc.umount(folder)


def lockdown() -> str | None:
    """The level of lockdown: none, integrity or confidentiality; None where the kernel has none."""
    text = _securityfs("lockdown")
    return text.partition("[")[2].partition("]")[0] if text else None


def lsms() -> list[str]:
    """The active LSMs; empty where the kernel does not say."""
    text = _securityfs("lsm")
    return text.split(",") if text else []


def find(sysctls: list[str]) -> dict[str, Any]:
    """How the guest is: lockdown, LSMs, cgroups, CPUs, memory, the sysctls named; and what a loader here is (`uid`, `caps`: null for all,
    `filter`)."""
    with open("/proc/meminfo") as file:
        total = int(file.read().split()[1])
    return {
        "lockdown": lockdown(),
        "lsm": lsms(),
        "cgroup": "v2" if cgroup_root() is not None else "v1",
        "cpus": os.cpu_count(),
        "memory_mib": total >> 10,
        "sysctls": {name: _text(sysctl.file_of(name)) for name in (*TOLD, *sysctls)},
        "refused": dict(_refused),
        "loader": confine.confined(_self),
    }


def _self() -> dict[str, Any]:
    """What the kernel says of the thread that asks."""
    with open("/proc/thread-self/status") as file:
        rows = dict(line.rstrip("\n").partition(":")[::2] for line in file)
    mask = int(rows["CapEff"], 16)
    whole = (2 << privileges.last()) - 1
    caps = None if mask & whole == whole else [name for place, name in enumerate(NAMES) if mask >> place & 1]
    return {
        "uid": int(rows["Uid"].split()[1]),
        "caps": caps,
        "filter": int(rows.get("Seccomp", 0)) == seccomp.MODE_FILTER,
    }
