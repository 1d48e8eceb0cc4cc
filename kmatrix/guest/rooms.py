"""Where the agent lives on a real machine: namespaces and a root of its own, made of what kmatrix carries along.

Its mounts, pins, interfaces and files are in namespaces that end with their last process, so nothing of them can stay, whatever ends the
agent. What BPF programs see of a process is left as it is: it stays in the machine's pid namespace, so that pids in events are those that
the agent knows, and all that it starts is found by its cgroup instead.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import time
from collections.abc import Mapping
from contextlib import suppress

from . import bpf, real
from .mounts import MS_BIND, MS_MOVE, MS_NODEV, MS_NOEXEC, MS_NOSUID, MS_RDONLY, MS_REC, MS_REMOUNT, mount
from .namespaces import loopback_up, unshare

_PSEUDO = MS_NOSUID | MS_NODEV | MS_NOEXEC
_MNT_DETACH = 2
CGROUP = "kmatrix-host"
"""What the cgroups of agents are called, with a number behind it."""


class Cgroup:
    """The cgroup of version 2 that the agent and all that it starts are in; `hierarchy` is where the whole tree is mounted."""

    def __init__(self, hierarchy: str, name: str) -> None:
        self.path = f"{hierarchy}/{name}"

    def enter(self) -> None:
        """Make it, and have the calling process in it, whose cgroup namespace then begins there.

        The process itself is one level below: a cgroup that gives controllers to those below it may hold no process of its own.
        """
        os.makedirs(f"{self.path}/agent")
        _write(f"{self.path}/cgroup.procs", "0")
        unshare(["cgroup"])
        _write(f"{self.path}/agent/cgroup.procs", "0")
        with suppress(OSError):
            _write(f"{self.path}/cgroup.subtree_control", "+memory")

    def members(self) -> list[int]:
        """The processes in it, and in those below."""
        found: list[int] = []
        for folder, _, _ in os.walk(self.path):
            with suppress(OSError), open(f"{folder}/cgroup.procs") as procs:
                found += [int(pid) for pid in procs]
        return found

    def remove(self, within: float = 10.0) -> list[str]:
        """Kill what runs in it, and remove it; what is left after `within` seconds, in words."""
        deadline = time.monotonic() + within
        while os.path.isdir(self.path):
            for pid in self.members():
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            reap()
            for folder, _, _ in os.walk(self.path, topdown=False):
                with suppress(OSError):
                    os.rmdir(folder)
            if time.monotonic() > deadline:
                left = [f"process {pid}" for pid in self.members()]
                return [*left, f"cgroup {self.path.rpartition('/')[2]}"] if os.path.isdir(self.path) else left
            if os.path.isdir(self.path):
                time.sleep(0.02)
        return []


def reap() -> None:
    """Take in the ends of all children that have ended."""
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def _write(path: str, text: str) -> None:
    with open(path, "wb", buffering=0) as file:
        file.write(text.encode())


def move_in(carried: str, room: str, more: Mapping[str, str]) -> None:
    """Make `room`, an empty folder, the root of the calling process, which has namespaces of its own; `carried` is what kmatrix brought.

    `more` are further folders, each with where it is seen there; nobody can write to them. Raises OSError.
    """
    mount("tmpfs", room, "tmpfs", MS_NOSUID, "mode=755")
    _furnish(carried, room)
    for folder, place in more.items():
        os.makedirs(room + place)
        _show(folder, room + place)
    os.chdir(room)
    if bpf.libc.pivot_root(b".", b".") == 0:
        if bpf.libc.umount2(b".", _MNT_DETACH) != 0:
            raise OSError(ctypes.get_errno(), "the machine's own root cannot be left")
    else:  # the machine's root is its initramfs, which stays where it is
        mount(".", "/", "", MS_MOVE)
        os.chroot(".")
    os.chdir("/root")
    with suppress(OSError):
        loopback_up()


def _show(folder: str, place: str) -> None:
    mount(folder, place, "", MS_BIND)
    mount("none", place, "", MS_BIND | MS_REMOUNT | MS_RDONLY)


def _furnish(carried: str, room: str) -> None:
    for name in os.listdir(carried):
        source, target = f"{carried}/{name}", f"{room}/{name}"
        if os.path.islink(source):
            os.symlink(os.readlink(source), target)
        elif name == "etc":
            shutil.copytree(source, target, symlinks=True)
    for name, mode in (("usr", 0o755), ("proc", 0o555), ("sys", 0o555), ("dev", 0o755), ("run", 0o755), ("mnt", 0o755)):
        os.makedirs(f"{room}/{name}", mode, exist_ok=True)
    for name, mode in (("tmp", 0o1777), ("var/tmp", 0o1777), ("root", 0o700), ("run/kmatrix", 0o700), ("run/lock", 0o1777)):
        os.makedirs(f"{room}/{name}", exist_ok=True)
        os.chmod(f"{room}/{name}", mode)
    _show(f"{carried}/usr", f"{room}/usr")
    mount("/dev", f"{room}/dev", "", MS_BIND | MS_REC)
    mount("proc", f"{room}/proc", "proc", _PSEUDO)
    mount("sysfs", f"{room}/sys", "sysfs", _PSEUDO)  # of the network namespace that the caller is in
    if os.path.isdir("/lib/modules") and os.path.isdir(f"{room}/usr/lib/modules"):
        mount("/lib/modules", f"{room}/usr/lib/modules", "", MS_BIND)
    if os.path.ismount("/sys/fs/bpf"):
        os.makedirs(f"{room}{real.PINS}")
        mount("/sys/fs/bpf", f"{room}{real.PINS}", "", MS_BIND)
    for kind, where, options in (
        ("tmpfs", "dev/shm", "mode=1777"),
        ("bpf", "sys/fs/bpf", "mode=700"),
        ("debugfs", "sys/kernel/debug", ""),
        ("tracefs", "sys/kernel/tracing", ""),
        ("cgroup2", "sys/fs/cgroup", ""),
    ):
        if os.path.isdir(f"{room}/{where}"):
            with suppress(OSError):  # a kernel may be built without: the agent's probes say so
                mount(kind, f"{room}/{where}", kind, _PSEUDO, options)
